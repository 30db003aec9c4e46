"""Counts as records: sums, differences, several histograms, and what earlier versions wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headgate.counts import LATENCY, Counts, Histogram, latencies
from headgate.release_file import parse_release
from monitoring.pages.plots import latency_plot
from monitoring.replay.recorded import Trace
from monitoring.rollout import RolloutJudge
from registry import Journal, history
from registry.portable import import_rows, read_file

RECORDED = Path(__file__).parent / "shift-of-one-histogram.jsonl"
"""24 looks of a shift, as Headgate wrote them while Counts had one histogram."""
RELEASE = (
    "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n"
    "strategy: {steps: [10%, 50%], min_requests: 100000}\nrollback: {on: [errors, latency]}\n"
)
NOTHING = Counts(requests=0, failures=0)

HISTOGRAMS = st.dictionaries(
    st.tuples(st.sampled_from(["latency", "ttft"]), st.sampled_from(["", "short", "long"])),
    st.tuples(*[st.integers(0, 99)] * 3), max_size=4,
)  # fmt: skip
COUNTS = st.builds(
    lambda numbers, histograms: Counts(
        requests=sum(numbers), failures=numbers[0] + numbers[1], client_errors=numbers[0],
        histograms=tuple(Histogram(name=name, stratum=of, buckets=told) for (name, of), told in histograms.items()),
    ),
    st.tuples(*[st.integers(0, 99)] * 3), HISTOGRAMS,
)  # fmt: skip


@pytest.fixture
def shift(tmp_path):
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    import_rows(journal, *read_file(RECORDED.read_text(encoding="utf-8").splitlines()))
    yield history.shift_of(journal, "r1", "wine")
    journal.close()


def test_a_shift_that_an_earlier_version_began_goes_on_to_the_bit(shift):
    assert "histograms" not in RECORDED.read_text(encoding="utf-8")
    assert len(shift.looks) == 24
    assert shift.before.buckets(LATENCY) == (2500, 1250, 1200, 0, 0, 50)
    judge = RolloutJudge(parse_release(RELEASE), "wine@v2", shift.before, NOTHING, shift.bounds)
    *earlier, last = shift.looks
    assert judge.resume(earlier, earlier[-1].stable, earlier[-1].canary) == earlier[-1].seconds
    found = judge.look(last.seconds, last.stable, last.canary)
    assert found == last
    assert found.metrics[LATENCY] != 1


def test_replays_and_pages_read_the_looks_of_an_earlier_version(shift):
    trace = Trace.of_looks(shift.looks, shift.before)
    assert trace.canary[LATENCY][-1].tolist() == list(shift.looks[-1].canary.buckets(LATENCY))
    assert trace.history[LATENCY][0, 0].tolist() == [2500, 1250, 1200, 0, 0, 50]
    assert b"latency so far" in latency_plot(shift.looks, shift.bounds)


def test_counts_of_earlier_versions_without_latencies_have_no_histogram():
    told = '{"requests": 2, "failures": 1, "client_errors": 0, "latency": []}'
    assert Counts.model_validate_json(told) == Counts(requests=2, failures=1)


@given(COUNTS)
def test_counts_are_json_both_ways(counts):
    assert Counts.model_validate(json.loads(counts.model_dump_json())) == counts


@given(COUNTS, COUNTS)
def test_what_was_counted_since_a_reading_and_that_reading_are_all(before, more):
    now = Counts.total([before, more])
    since = now.since(before)
    assert {name: getattr(since, name) for name in ("requests", "failures", "client_errors")} == {
        name: getattr(more, name) for name in ("requests", "failures", "client_errors")
    }
    for one in now.histograms:
        told = more.buckets(one.name, one.stratum) or (0, 0, 0)
        assert since.buckets(one.name, one.stratum) == told
    assert not now.fell(before)
    assert before.fell(now) is (more.requests > 0)


def test_two_histograms_of_the_same_answers_are_refused():
    one = Histogram(name="ttft", stratum="short", buckets=(1, 2))
    other = Histogram(name="ttft", stratum="long", buckets=(3, 4))
    assert Counts(requests=1, failures=0, histograms=(one, other)).buckets("ttft", "long") == (3, 4)
    with pytest.raises(ValidationError, match=r"not several of \[\('ttft', 'short'\)\]"):
        Counts(requests=1, failures=0, histograms=(one, other, one))
    assert latencies(()) == ()
