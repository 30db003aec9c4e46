"""Trying a policy before trusting it: on recorded counts, and on simulated traffic with and without a fault.

- `traffic`: simulated clients, replicas and faults.
- `reading`: how a platform hands over the counters.
- `worlds`: combinations of both that were seen on real platforms, by name.
- `rules`: our judge and the documented rules of others, behind one interface.
- `simulate`: a rule on many replications of the same traffic.
- `recorded`: a rule on the counts of a past release, or of a CSV or Parquet file.
- `picture`: both as plots.
"""

from monitoring.replay.reading import Reading
from monitoring.replay.recorded import Trace, Verdict, read_counts, replay
from monitoring.replay.rules import OTHERS, Headgate, Rule
from monitoring.replay.simulate import Outcome, Trial, simulate, trial
from monitoring.replay.traffic import World
from monitoring.replay.worlds import CASES, KEPT_APART, Case, case

__all__ = [
    "CASES",
    "KEPT_APART",
    "OTHERS",
    "Case",
    "Headgate",
    "Outcome",
    "Reading",
    "Rule",
    "Trace",
    "Trial",
    "Verdict",
    "World",
    "case",
    "read_counts",
    "replay",
    "simulate",
    "trial",
]
