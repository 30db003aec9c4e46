"""How the stable version's log becomes counts by second and server, and what a release's judge learns from them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from deploy_targets import prediction_log
from deploy_targets.prediction_log import SCHEMA, SERVER, rows
from headgate.counts import Counts
from headgate.records import Window
from headgate.release_file import parse_release
from monitoring import past as past_module
from monitoring.past import LONGEST_SECONDS, read_past
from monitoring.rollout import RolloutJudge

END = datetime(2026, 11, 30, 12, tzinfo=UTC)
BOUNDS = (0.01, 0.1)
NONE = Counts(requests=0, failures=0)


def batch(asked: list[tuple], revision: str = "v1", server: str = "") -> pa.RecordBatch:
    """Rows of (seconds before END, status, seconds taken, whether it is a copy)."""
    columns = {
        "time": [END - timedelta(seconds=ago) for ago, *_ in asked], "status": [row[1] for row in asked],
        "seconds": [row[2] for row in asked], "mirrored": [row[3] for row in asked],
        "revision": [revision] * len(asked),
    }  # fmt: skip
    arrays = [pa.array(columns.get(field.name, [None] * len(asked)), field.type) for field in SCHEMA]
    schema = SCHEMA.with_metadata({SERVER: server.encode()}) if server else SCHEMA
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Log:
    """A log that notes which windows were asked for."""

    def __init__(self, *batches: pa.RecordBatch) -> None:
        self.batches, self.windows = batches, []

    def __call__(self, window: Window):
        self.windows.append(window)
        for one in self.batches:
            yield from rows([one.select(SCHEMA.names[:-2])], "", one["revision"][0].as_py(), window)


def read(log: Log, bounds=BOUNDS):
    return read_past(log, "v1", END, bounds, clock=lambda: 0.0)


def test_requests_are_counted_by_second_kind_and_bucket():
    log = Log(
        batch([(0.5, 200, 0.005, False), (0.25, 503, 0.05, False), (2.0, 404, None, False), (1.5, 200, 5.0, False)])
    )
    past = read(log)
    assert past.servers == 1
    assert past.errors()[-3:, 0].tolist() == [[0, 0], [2, 0], [2, 1]]
    assert past.client_errors()[-3:, 0].tolist() == [[0, 0], [2, 1], [2, 0]]
    assert past.latency()[-3:, 0].tolist() == [[0, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert past.errors().sum(axis=(0, 1)).tolist() == [4, 1]


def test_copies_and_other_versions_are_left_out_and_servers_are_told_apart():
    log = Log(
        batch([(1, 200, 0.1, False), (1, 500, 0.1, True)], server="pod-a"),
        batch([(1, 500, 0.1, False)], server="pod-b"), batch([(1, 500, 0.1, False)], revision="v2", server="pod-c"),
    )  # fmt: skip
    past = read(log)
    assert past.servers == 2
    assert past.errors().sum(axis=0).tolist() == [[1, 0], [1, 1]]


def test_a_log_is_read_backwards_for_six_hours_each_row_once():
    log = Log(batch([(ago, 200, 0.1, False) for ago in range(1, LONGEST_SECONDS + 900)]))
    past = read(log)
    assert past.seconds == LONGEST_SECONDS
    assert log.windows[0].end == END
    assert [late.start for late in log.windows[:-1]] == [early.end for early in log.windows[1:]]
    assert log.windows[-1].start == END - timedelta(seconds=LONGEST_SECONDS)
    assert (past.errors()[:, 0, 0] == 1).all()


def test_a_log_that_takes_long_is_used_as_far_back_as_whole_slices_were_read(monkeypatch):
    log = Log(batch([(ago, 200, 0.1, False) for ago in range(1, 4000)]))
    ticks = iter([0.0, 1.0, 2.0, past_module.READ_SECONDS + 1])
    past = read_past(log, "v1", END, BOUNDS, clock=lambda: next(ticks))
    assert past.seconds == 600 + 1200
    assert past.errors().shape == (1800, 1, 2)
    monkeypatch.setattr(past_module, "MOST_ROWS", 1000)
    assert read(log).seconds == 600


def test_an_empty_log_is_a_past_of_which_nothing_is_known():
    past = read(Log())
    assert past.errors().shape == (0, 1, 2)
    judge = released(past)
    assert judge.dispersions["errors"]["why_not"] == "less than ten minutes of the stable version's past are known"


def with_bursts() -> Log:
    """50 requests a second for half an hour; in ten seconds of each hundred a third of them fail."""
    asked = [
        (ago - part / 100, 500 if ago % 100 < 10 and part % 3 == 0 else 200, 0.005, False)
        for ago in range(1, 2000) for part in range(50)
    ]  # fmt: skip
    return Log(batch(asked))


def released(past=None, dispersions=None, replicas: int = 1) -> RolloutJudge:
    text = (
        "model: m\nartifact: a\ntarget: {kind: local}\nstrategy: {steps: [5%], min_duration: 50m}\n"
        f"runtime: {{replicas: {{min: 1, max: {replicas}}}}}\n"
    )
    stable = Counts(requests=100_000, failures=3000)
    return RolloutJudge(parse_release(text), "m@v2", stable, NONE, past=past, dispersions=dispersions)


def taken_back(judge: RolloutJudge) -> int:
    """The second in which a canary is taken back of which half of the requests fail."""
    for second in range(1, 61):
        stable = Counts(requests=100_000 + 95 * second, failures=3000)
        if judge.look(second, stable, Counts(requests=4 * second, failures=2 * second)).verdict == "rollback":
            return second
    return 0


@pytest.mark.parametrize(("replicas", "is_alone"), [(1, True), (4, False)])
def test_a_release_goes_on_with_what_an_earlier_run_of_it_measured(replicas, is_alone):
    judge = released(read(with_bursts(), ()), replicas=replicas)
    assert judge.dispersions["errors"]["has_bursts"][0]
    assert (judge.dispersions["errors"]["per_second"] is not None) == is_alone
    again = released(dispersions=judge.dispersions, replicas=replicas)
    looks = [
        one.look(5, Counts(requests=100_475, failures=3000), Counts(requests=20, failures=10)).e_value
        for one in (judge, again)
    ]
    assert looks[0] == looks[1] != released().look(
        5, Counts(requests=100_475, failures=3000), Counts(requests=20, failures=10)
    ).e_value  # fmt: skip


def test_where_the_log_has_bursts_a_fault_has_to_last_longer():
    assert 0 < taken_back(released()) < 5
    assert taken_back(released(read(with_bursts(), ()))) >= 12


def test_a_file_is_read_for_the_windows_that_it_can_have_rows_of(tmp_path, monkeypatch):
    def write(opened: datetime, ago: float) -> None:
        one = batch([(ago, 200, 0.1, False)]).select(SCHEMA.names[:-2])
        path = tmp_path / f"{int(opened.timestamp() * 1e9)}-7.arrows"
        with pa.ipc.new_stream(path, one.schema) as file:
            file.write_batch(one)
        os.utime(path, (opened.timestamp(), opened.timestamp()))

    write(END - timedelta(seconds=100), 90)
    # A row that waited for the disk is in a file that was opened after it came.
    write(END - timedelta(seconds=30), 45)
    write(END + timedelta(hours=1), -3600)
    opened = []
    whole = prediction_log._whole_batches
    monkeypatch.setattr(prediction_log, "_whole_batches", lambda path, since: opened.append(path) or whole(path, since))
    window = Window(start=END - timedelta(seconds=200), end=END - timedelta(seconds=40))
    found = list(prediction_log.read(tmp_path, "wine", "v1", window))
    assert sum(one.num_rows for one in found) == 2
    assert len(opened) == 2
