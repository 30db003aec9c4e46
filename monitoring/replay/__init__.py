"""Trying a policy before trusting it: on recorded counts, and on simulated traffic with and without a fault.

- `traffic`: simulated clients, replicas and faults.
- `rules`: our judge and the documented rules of others, behind one interface.
- `simulate`: a rule on many replications of the same traffic.
- `recorded`: a rule on the counts of a past release, or of a CSV or Parquet file.
- `picture`: both as plots.
"""

from monitoring.replay.recorded import Trace, Verdict, read_counts, replay
from monitoring.replay.rules import OTHERS, Headgate, Rule
from monitoring.replay.simulate import Outcome, Trial, simulate, trial
from monitoring.replay.traffic import World

__all__ = [
    "OTHERS",
    "Headgate",
    "Outcome",
    "Rule",
    "Trace",
    "Trial",
    "Verdict",
    "World",
    "read_counts",
    "replay",
    "simulate",
    "trial",
]
