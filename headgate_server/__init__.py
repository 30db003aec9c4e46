"""The server inside every image: any MLflow model behind the container contract of every platform.

It is copied into images, so it imports nothing of Headgate's other packages.
"""
