"""What every target does, whatever the platform (deploy_targets/protocol.py)."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from harness import part
from support.stack import wait_for

from deploy_targets import Measures
from headgate.counts import LATENCY
from headgate.errors import LeaseLostError, RevisionFailedError, TargetError
from headgate.records import Mirror, Payload, Traffic, Window
from headgate.units import BASIS_POINTS

GOOD = Payload(body=json.dumps({"dataframe_records": [{"x": 1.0}]}).encode())
BAD = Payload(body=json.dumps({"dataframe_records": [{"x": -1.0}]}).encode())
WAIT = 20.0
"""Clouds' counts and logs come late."""
_numbers = itertools.count(1)


def ask(harness, endpoint, times=1, payload=GOOD):
    return harness.ask(endpoint, payload, times)


def test_an_endpoint_that_does_not_exist_is_none(harness):
    assert harness.target.observe("nowhere") is None


def test_preflight_finds_nothing_on_a_good_platform(harness):
    assert harness.target.preflight() == []


def test_deploy_makes_a_revision_ready_without_traffic_and_can_be_repeated(harness, settled):
    endpoint, first, second = settled
    harness.target.deploy(endpoint, second)
    state = harness.target.observe(endpoint)
    assert {name: seen.ready for name, seen in state.revisions.items()} == {first.name: True, second.name: True}
    assert state.traffic == Traffic.all_to(first.name)
    assert state.revisions[second.name].version == second.version
    assert {reply.revision for reply in ask(harness, endpoint, 20)} == {first.name}


def test_route_is_read_back_and_in_effect_when_it_returns(harness, settled):
    endpoint, first, second = settled
    for revision in (second, first, second, first):
        harness.target.route(endpoint, Traffic.all_to(revision.name))
        assert {reply.revision for reply in ask(harness, endpoint, 5)} == {revision.name}
        assert harness.target.observe(endpoint).traffic.holder == revision.name


def test_weights_are_kept_in_basis_points(harness, settled):
    endpoint, first, second = settled
    traffic = Traffic.split(first.name, second.name, 2500)
    harness.target.route(endpoint, traffic)
    assert harness.target.observe(endpoint).traffic == traffic
    seen = Counter(reply.revision for reply in ask(harness, endpoint, 400))
    assert 60 < seen[second.name] < 140


def test_no_traffic_goes_to_a_revision_that_is_not_there(harness, settled):
    endpoint, first, _ = settled
    with pytest.raises(TargetError, match="not deployed"):
        harness.target.route(endpoint, part(harness.target, first.name, "v9-missing", 100))
    assert harness.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_mirrored_answers_reach_the_log_and_no_client(harness, settled):
    endpoint, first, second = settled
    began = datetime.now(UTC)
    share = harness.target.MIRROR_LIMIT
    harness.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=share)))
    replies = ask(harness, endpoint, 30)
    harness.target.route(endpoint, Traffic.all_to(first.name))
    assert {reply.revision for reply in replies} == {first.name}
    wanted = {reply.request_id for reply in replies}

    def logged():
        window = Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))
        rows = [row for batch in harness.target.captured(endpoint, window) for row in batch.to_pylist()]
        of = {
            name: {row["request_id"] for row in rows if row["revision"] == name and row["mirrored"] is mirrored}
            for name, mirrored in ((first.name, False), (second.name, True))
        }
        # Where there are copies of half of them, five or fewer come in one of six thousand times.
        copied = of[second.name] & wanted
        complete = copied == wanted if share == BASIS_POINTS else len(copied) > 5
        return rows if wanted <= of[first.name] and complete else None

    rows = wait_for(logged, WAIT)
    assert {(row["status"], row["endpoint"]) for row in rows} == {(200, endpoint)}
    assert json.loads(rows[0]["request"]) == json.loads(GOOD.body)


def test_captured_keeps_to_its_window(harness, settled):
    endpoint, _, _ = settled
    ask(harness, endpoint)
    past = datetime.now(UTC) - timedelta(days=1)
    assert list(harness.target.captured(endpoint, Window(start=past - timedelta(hours=1), end=past))) == []


def test_what_servers_use_follows_what_they_do(harness, models, settled):
    assert isinstance(harness.target, Measures)
    endpoint, first, _ = settled
    leaky = harness.revision(models("pyfunc", does="leaky", after=4), 3)
    harness.target.deploy(endpoint, leaky)
    try:
        before = harness.target.usage(endpoint)
        assert before.keys() >= {first.name, leaky.name}
        for _ in range(20):
            assert harness.target.invoke(endpoint, GOOD, leaky.name).status == 200
        if before[leaky.name].memory is None:
            pytest.skip("this cluster has no metrics server")
        wait_for(
            lambda: harness.target.usage(endpoint)[leaky.name].memory > before[leaky.name].memory + 64 * 2**20, WAIT
        )
        after = harness.target.usage(endpoint)
        assert after[leaky.name].servers == before[leaky.name].servers, "nothing was started again"
        assert after[leaky.name].cpu > before[leaky.name].cpu
        assert abs(after[first.name].memory - before[first.name].memory) < 32 * 2**20
    finally:
        harness.target.retire(endpoint, leaky.name)
    assert leaky.name not in harness.target.usage(endpoint)


def test_counts_are_cumulative_and_tell_failures(harness, settled):
    endpoint, _, second = settled
    harness.target.route(endpoint, Traffic.all_to(second.name))
    before = harness.target.counts(endpoint)[second.name]
    ask(harness, endpoint, 7)
    ask(harness, endpoint, 3, BAD)

    def grown():
        after = harness.target.counts(endpoint)[second.name]
        return after.requests - before.requests, after.failures - before.failures

    wait_for(lambda: grown()[0] >= 10, WAIT)
    assert grown() == (10, 3)


def test_latencies_are_counted_in_buckets(harness, models, settled):
    bounds = harness.target.LATENCY_BOUNDS
    endpoint, _, quick = settled
    slow = harness.revision(models("pyfunc", does="slow", after=0.12), 3)
    harness.target.deploy(endpoint, slow)
    try:
        for revision, least, most in ((slow, 0.1, 2.0), (quick, 0.0, 0.1)):
            harness.target.route(endpoint, Traffic.all_to(revision.name))
            counted = harness.target.counts(endpoint)[revision.name]
            before = np.array(counted.buckets(LATENCY) or [0] * (len(bounds) + 1))
            ask(harness, endpoint, 10)

            def counted(name=revision.name, before=before):
                return np.array(harness.target.counts(endpoint)[name].buckets(LATENCY)) - before

            wait_for(lambda counted=counted: counted().sum() == 10, WAIT)
            within = (np.append(bounds, np.inf) > least) & (np.append(0.0, bounds) < most)
            assert counted()[within].sum() >= 8
    finally:
        harness.target.route(endpoint, Traffic.all_to(quick.name))
        harness.target.retire(endpoint, slow.name)


def test_one_revision_can_be_asked_without_traffic(harness, settled):
    endpoint, _, second = settled
    answer = harness.target.invoke(endpoint, BAD, second.name)
    assert answer.status == 500
    if harness.ids_reach_servers:
        assert json.loads(answer.body)["request_id"] == answer.request_id
    assert harness.target.invoke(endpoint, BAD).status == 200


def test_shifting_traffic_fails_no_request(harness, settled):
    endpoint, first, second = settled
    stop, statuses = threading.Event(), []

    def load():
        while not stop.is_set():
            statuses.extend(reply.status for reply in ask(harness, endpoint, 20))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    shares = itertools.cycle([0, 500, 2500, 5000, 10_000, 5000, 0, 10_000])
    while len(statuses) < 400:
        harness.target.route(endpoint, part(harness.target, first.name, second.name, next(shares)))
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}


def test_a_revision_with_traffic_is_not_retired(harness, settled):
    endpoint, first, second = settled
    with pytest.raises(TargetError, match="still has traffic"):
        harness.target.retire(endpoint, first.name)
    assert harness.target.observe(endpoint).revisions.keys() == {first.name, second.name}


def test_a_mirrored_revision_is_not_retired(harness, settled):
    endpoint, first, second = settled
    harness.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=100)))
    with pytest.raises(TargetError, match="mirrored"):
        harness.target.retire(endpoint, second.name)
    assert harness.target.observe(endpoint).revisions.keys() == {first.name, second.name}


def test_retire_leaves_nothing_and_can_be_repeated(harness, models, settled):
    endpoint, first, _ = settled
    third = harness.revision(models("pyfunc", does="triple"), 3)
    harness.target.deploy(endpoint, third)
    for _ in range(2):
        harness.target.retire(endpoint, third.name)
        assert third.name not in harness.target.observe(endpoint).revisions
        assert not [trace for trace in harness.traces(endpoint) if third.name in trace]
    assert harness.target.observe(endpoint).traffic == Traffic.all_to(first.name)


@pytest.mark.real_server
def test_a_killed_revision_is_seen_and_comes_back(harness, models):
    """With the server itself, which is down for long enough to be seen."""
    endpoint = "killed"
    first, second = (
        harness.revision(models("pyfunc", does=does), number) for number, does in ((1, "double"), (2, "slow"))
    )

    def seen(*, ready):
        state = harness.target.observe(endpoint).revisions[second.name]
        return state if state.ready is ready else None

    try:
        harness.target.deploy(endpoint, first)
        harness.target.route(endpoint, Traffic.all_to(first.name))
        harness.target.deploy(endpoint, second)
        harness.kill(endpoint, second.name)
        # One observation: by the next one it may be back.
        assert wait_for(lambda: seen(ready=False)).detail
        wait_for(lambda: seen(ready=True))
    finally:
        harness.target.delete(endpoint)


@pytest.mark.expects_errors("the model cannot be loaded")
@pytest.mark.parametrize(("does", "timeout", "says"), [
    ("broken", 60, "this model cannot be loaded"),
    ("hang", 6, None),
])  # fmt: skip
def test_a_revision_that_cannot_start_says_why_and_leaves_nothing(harness, models, does, timeout, says):
    endpoint = f"broken-{next(_numbers)}"
    # `after` keeps the model loadable here, where it is only saved.
    revision = harness.revision(models("pyfunc", does=does), 1, ready_timeout=timeout)
    with pytest.raises(RevisionFailedError, match=says or harness.never_ready):
        harness.target.deploy(endpoint, revision)
    assert harness.target.observe(endpoint) is None
    assert harness.traces(endpoint) == []


def test_delete_leaves_nothing_and_can_be_repeated(harness, models):
    endpoint = "short-lived"
    revision = harness.revision(models("pyfunc", does="double"), 1)
    harness.target.deploy(endpoint, revision)
    harness.target.route(endpoint, Traffic.all_to(revision.name))
    url = harness.target.observe(endpoint).url
    assert not harness.is_gone(endpoint, url)
    for _ in range(2):
        harness.target.delete(endpoint)
        assert harness.target.observe(endpoint) is None
        assert harness.traces(endpoint) == []
    assert harness.is_gone(endpoint, url)


def test_a_lease_that_was_taken_over_changes_nothing(harness, pair):
    _, first, second = pair
    # Targets may share a gateway, which remembers.
    endpoint = f"fenced-{type(harness.target).__name__.lower()}"
    target, both = harness.target, part(harness.target, first.name, second.name, 5000)
    try:
        for revision in (first, second):
            target.deploy(endpoint, revision)
        target.route(endpoint, Traffic.all_to(first.name), fence=10)
        target.fence(endpoint, 12)
        for late in (
            lambda: target.route(endpoint, both, fence=11), lambda: target.retire(endpoint, second.name, fence=11),
            lambda: target.delete(endpoint, fence=11), lambda: target.fence(endpoint, 11),
        ):  # fmt: skip
            with pytest.raises(LeaseLostError, match=rf"later lease of {endpoint} .*fence 12, ours was 11"):
                late()
        state = target.observe(endpoint)
        assert state.traffic == Traffic.all_to(first.name)
        assert state.revisions[second.name].ready
        target.route(endpoint, both, fence=12)
        assert target.observe(endpoint).traffic == both
    finally:
        target.delete(endpoint, fence=12)
