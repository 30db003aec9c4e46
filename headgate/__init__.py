"""Headgate releases trained models safely: the domain, free of Prefect and of every vendor SDK."""

__version__ = "0.1.0"
