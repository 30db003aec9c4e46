"""What is remembered: the journal (releases, leases, history) and MLflow (versions, aliases, release runs)."""

from registry.journal import Entry, Journal, Kind
from registry.lease import Lease
from registry.versions import Versions

__all__ = ["Entry", "Journal", "Kind", "Lease", "Versions"]
