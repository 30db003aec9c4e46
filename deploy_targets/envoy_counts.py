"""From Envoy's counters of a cluster to the judge's counts.

Which counter moves in which case was tried on Envoy 1.40 (tests/contract/test_counts_of_envoy.py); docs/judge.md has
the table. Envoy counts an answer when its headers have come, as `completed` and under its status. What becomes of the
answer after that is in counters of connections and timeouts only, which also move where no headers came:

- `upstream_rq_timeout`: the route's time was over. Before headers it is a 504 too.
- `upstream_cx_destroy_remote_with_active_rq`: the server ended the connection during a request; with HTTP/1 a
  connection has one. Before headers it is a 502 or 503 too, or another attempt.
- `upstream_rq_pending_failure_eject`: a request had no connection. It is a 503 too, or another attempt.

So the answers that were cut are those of the three that led neither to an answer of Envoy's own nor to another attempt
in this cluster. The counters below `canary.` tell the server's answers from Envoy's own: Envoy counts there only
answers with the header MARK, which each cluster adds to the answers of its servers. No client sees the header.

Where Envoy asks again, each attempt is a request. `upstream_rq_retry` are those that failed and were followed by
another one in the same cluster; the last one is counted as without retries. Where another cluster is asked next, only
the three have the failed attempt, so it is a failure as a cut answer is, and a request too.

A client that leaves moves none of the three. Nor does a server that breaks HTTP's framing, before headers (a 502) or
after; Envoy ends that connection itself. `upstream_cx_protocol_error` counts it, and also connections that the server
ended within a head or a body, and health checks. So health checks that failed are taken off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "x-envoy-upstream-canary"
"""The header by which Envoy counts an answer a second time, under `canary.`."""

OVERFLOW = "upstream_rq_pending_overflow"
"""Envoy's counter of the requests of a cluster that were above `requests` and `pending`."""

_COMPLETED, _CLIENTS, _SERVERS = "upstream_rq_completed", "upstream_rq_4xx", "upstream_rq_5xx"
_LATE, _ENDED, _UNCONNECTED = (
    "upstream_rq_timeout", "upstream_cx_destroy_remote_with_active_rq", "upstream_rq_pending_failure_eject",
)  # fmt: skip
_ABORTS = (_LATE, _ENDED, _UNCONNECTED)
_MISFRAMED, _HEALTH = "upstream_cx_protocol_error", "health_check.network_failure"
_NO_SERVER, _UNAVAILABLE = "upstream_cx_none_healthy", "upstream_rq_503"
_AGAIN, _ANSWERED_AGAIN, _CLIENTS_AGAIN = "upstream_rq_retry", "retry.upstream_rq_completed", f"retry.{_CLIENTS}"
_OF_SERVERS, _UNAVAILABLE_OF_SERVERS = f"canary.{_SERVERS}", f"canary.{_UNAVAILABLE}"
NAMES = (
    _COMPLETED, _CLIENTS, _SERVERS, *_ABORTS, _MISFRAMED, _HEALTH, OVERFLOW, _NO_SERVER, _UNAVAILABLE, _AGAIN,
    _ANSWERED_AGAIN, _CLIENTS_AGAIN, _OF_SERVERS, _UNAVAILABLE_OF_SERVERS,
)  # fmt: skip
"""The counters of a cluster that `numbers_of` reads; one that is missing is 0."""

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"


class Numbers(NamedTuple):
    """What a cluster has counted.

    Attributes:
        completed: answers by Envoy's own count, which falls only where Envoy began anew.
        requests: attempts that were answered, or failed.
        failures: of them.
        client_errors: answers of 4xx among the failures.
    """

    completed: int
    requests: int
    failures: int
    client_errors: int


def numbers_of(first: Mapping[str, int], second: Mapping[str, int]) -> Numbers:
    """Return a cluster's counts from two readings of its counters, one after the other.

    A request moves several counters, and Envoy does not read them at one moment. So what counts against a version is
    taken from the first reading, and what is taken off it from the second: nothing is a failure, or a cut answer, for
    a moment. What is missing is there in the next look.

    Args:
        first: by NAMES.
        second: the same.
    """
    if second.get(_COMPLETED, 0) < first.get(_COMPLETED, 0):
        # Envoy began anew in between.
        first = second

    def was(name: str) -> int:
        return first.get(name, 0)

    def is_now(name: str) -> int:
        return second.get(name, 0)

    refused = is_now(OVERFLOW)
    own_answers = is_now(_SERVERS) - was(_OF_SERVERS) - was(OVERFLOW) - was(_NO_SERVER)
    other_attempts = is_now(_AGAIN) - was(_ANSWERED_AGAIN)
    ended_without_a_word = was(_UNAVAILABLE) - sum(
        map(is_now, (_UNAVAILABLE_OF_SERVERS, OVERFLOW, _NO_SERVER, _UNCONNECTED))
    )
    misframed = was(_MISFRAMED) - is_now(_HEALTH) - is_now(_ENDED) + max(ended_without_a_word, 0)
    cut = max(sum(map(was, _ABORTS)) + max(misframed, 0) - own_answers - other_attempts, 0)
    failures = max(was(_CLIENTS) + was(_SERVERS) + was(_AGAIN) + cut - refused, 0)
    # An attempt that failed, and was made again in another cluster, is no answer of this one.
    own_503 = is_now(_UNAVAILABLE) - was(_UNAVAILABLE_OF_SERVERS) - was(OVERFLOW) - was(_NO_SERVER)
    unanswered = was(_UNCONNECTED) + max(was(_ENDED) - is_now(_MISFRAMED), 0)
    elsewhere = max(unanswered - max(own_503, 0) - other_attempts, 0)
    requests = max(was(_COMPLETED) + was(_AGAIN) + elsewhere - refused, failures)
    return Numbers(was(_COMPLETED), requests, failures, was(_CLIENTS) + was(_CLIENTS_AGAIN))


def marking() -> list[dict[str, object]]:
    """Return the HTTP filters of a cluster that mark what its servers answer."""
    mark = {"header": {"key": MARK, "value": "true"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return [
        {
            "name": "mark",
            "typed_config": {
                "@type": f"{_TYPE}.header_mutation.v3.HeaderMutation",
                "mutations": {"response_mutations": [{"append": mark}]},
            },
        },
        {"name": "codec", "typed_config": {"@type": f"{_TYPE}.upstream_codec.v3.UpstreamCodec"}},
    ]
