"""The flows: sequencing only. Each runs from Python, from the command line and as a Prefect deployment."""
