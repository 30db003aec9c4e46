"""Drift and data quality of a window of live requests, against the training reference."""

from monitoring.drift.check import DriftCheck, check_drift, is_triggered
from monitoring.drift.columns import ParquetColumns
from monitoring.drift.page import write_evidently
from monitoring.drift.profile import to_arrow
from monitoring.drift.reference import Reference

__all__ = [
    "DriftCheck", "ParquetColumns", "Reference", "check_drift", "is_triggered", "to_arrow", "write_evidently",
]  # fmt: skip
