"""E-values of one rate against a limit: for pairs of answers to the same request, and for labels of such pairs.

Both are mixtures of Bernoulli alternatives over the uniform prior on one side of the limit d, in closed form:

    E = ∫ p^k (1-p)^(n-k) dp / (length · d^k (1-d)^(n-k)),

the integral over (d, 1) or (0, d) being an incomplete beta function. They are functions of the counts so far, so it
does not matter how these came in looks; at any stopping time their mean under the limit is at most 1.
"""

from __future__ import annotations

import math

from scipy.special import betainc, betaincc, betaln

MAX_LOG = 700.0
"""The largest logarithm whose exponential is a float."""


def log_excess(hits: int, trials: int, limit: float) -> float:
    """Evidence that the true rate is above `limit`, as a natural logarithm."""
    if trials == 0 or limit >= 1:
        return 0.0
    if limit <= 0:
        return math.inf if hits else 0.0
    rest = trials - hits
    return _log_ratio(hits, rest, limit, float(betaincc(hits + 1, rest + 1, limit)), 1 - limit)


def log_shortfall(hits: int, trials: int, limit: float) -> float:
    """Evidence that the true rate is below `limit`, as a natural logarithm."""
    if trials == 0 or limit <= 0:
        return 0.0
    if limit >= 1:
        return math.inf if hits < trials else 0.0
    rest = trials - hits
    return _log_ratio(hits, rest, limit, float(betainc(hits + 1, rest + 1, limit)), limit)


def disagreement_e_value(disagreements: int, pairs: int, limit: float) -> float:
    """Evidence that answers differ more often than `limit`."""
    return math.exp(min(log_excess(disagreements, pairs, limit), MAX_LOG))


def mcnemar_e_value(only_canary_wrong: int, only_stable_wrong: int) -> float:
    """Evidence that the canary is wrong more often, from the labelled pairs on which one version is right.

    Under "no worse", the canary is the wrong one in at most half of them (McNemar's test, sequentially).
    """
    discordant = only_canary_wrong + only_stable_wrong
    return math.exp(min(log_excess(only_canary_wrong, discordant, 0.5), MAX_LOG))


def _log_ratio(hits: int, rest: int, limit: float, tail: float, length: float) -> float:
    if tail <= 0:
        return -MAX_LOG
    log_e = float(betaln(hits + 1, rest + 1)) + math.log(tail) - math.log(length)
    return log_e - hits * math.log(limit) - rest * math.log1p(-limit)
