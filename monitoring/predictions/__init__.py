"""What models were asked and what they answered: typed, kept as Parquet, and read a column at a time."""

from monitoring.predictions.store import PredictionStore
from monitoring.predictions.window import Predictions

__all__ = ["PredictionStore", "Predictions"]
