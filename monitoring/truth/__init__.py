"""What was right: labels that arrive later, by request id, and how often each version was wrong by them."""

from monitoring.truth.accuracy import judge_quality
from monitoring.truth.labels import Labels, labels_from_file, labels_from_json, labels_from_query

__all__ = ["Labels", "judge_quality", "labels_from_file", "labels_from_json", "labels_from_query"]
