"""The judge: is the canary worse, is it shown to be no worse, or is neither known yet?

- `engine`: e-processes for two rates with margins, many at a time.
- `projection`: the nearest point of a null hypothesis, for their bets.
- `metrics`: what is compared: errors, latency, answers, a bounded mean, disagreement.
- `paired`: one rate against a limit, for pairs of answers.
- `dispersion`: φ, for replicas whose requests fail together.
- `sample_ratio`: the alarm for a router that splits otherwise than it was told.
- `confidence`: intervals that hold at every look.
- `policy`: what is compared, and when to act.
- `group`: metrics that are bet on together.
- `batch`: evidence and phases of many judges, in arrays.
- `judge`, `words`: one release, in words.

NumPy and SciPy only; nothing here knows of Prefect, of targets or of files.
"""

from monitoring.judge.batch import JudgeBatch
from monitoring.judge.judge import Judgement, MetricState, SequentialJudge
from monitoring.judge.metrics import (
    BoundedMean,
    Disagreement,
    ErrorRate,
    Latency,
    Metric,
    MetricError,
    PredictionShift,
)
from monitoring.judge.paired import disagreement_e_value, mcnemar_e_value
from monitoring.judge.policy import Policy

__all__ = [
    "BoundedMean",
    "Disagreement",
    "ErrorRate",
    "JudgeBatch",
    "Judgement",
    "Latency",
    "Metric",
    "MetricError",
    "MetricState",
    "Policy",
    "PredictionShift",
    "SequentialJudge",
    "disagreement_e_value",
    "mcnemar_e_value",
]
