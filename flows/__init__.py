"""The flows: sequencing only. Each runs from Python, from the command line and as a Prefect deployment."""

from headgate.safe_path import PACKAGES, require_own

# A program of a user's may have a `tasks.py` beside it, which says nothing of the kind when it is imported.
require_own(PACKAGES)
