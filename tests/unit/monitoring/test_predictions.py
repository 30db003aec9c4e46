"""Predictions typed, kept and read: every form of body, every way for a file or a store to be bad."""

from __future__ import annotations

import io
import itertools
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deploy_targets.prediction_log import SCHEMA
from headgate.errors import BadInputError, MonitorError
from headgate.records import Window
from monitoring.predictions import Predictions, PredictionStore
from monitoring.predictions.store import SETTLE, SLOT

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 25, 14, 7, 30, tzinfo=UTC)
MONTH = timedelta(days=30)
HOUR = Window(start=NOW - timedelta(hours=1), end=NOW)
numbers = itertools.count()


def logged(request: object, response: object, /, **changes) -> pa.RecordBatch:
    row = {
        "request_id": f"r{next(numbers)}", "time": NOW - timedelta(seconds=1), "status": 200, "seconds": 0.1,
        "mirrored": False, "content_type": "application/json", "request": json.dumps(request).encode(),
        "response": json.dumps(response).encode(), "endpoint": "e", "revision": "v1", **changes,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row], schema=SCHEMA)


def one(x: object, *, ago: float = 1.0, **changes) -> pa.RecordBatch:
    body, answer = {"dataframe_records": [{"x": x}]}, {"predictions": [x]}
    return logged(body, answer, time=NOW - timedelta(seconds=ago), **changes)


def log_of(*batches: pa.RecordBatch):
    """A target's `captured`, which counts the rows that it was asked for."""

    def captured(window: Window):
        for batch in batches:
            inside = pc.and_(pc.greater_equal(batch["time"], window.start), pc.less(batch["time"], window.end))
            if (rows := batch.filter(inside)).num_rows:
                captured.read += rows.num_rows
                yield rows

    captured.read = 0
    return captured


def read(*batches: pa.RecordBatch, store: PredictionStore | None = None, window: Window = HOUR) -> dict[str, list]:
    found = Predictions(store, log_of(*batches), "v1", window)
    return {name: found.column(name).to_pylist() for name in found.column_names}


@pytest.fixture
def store(tmp_path) -> PredictionStore:
    return PredictionStore(str(tmp_path), "e")


def parquets(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


@pytest.mark.parametrize("request_body", [
    {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}},
    {"dataframe_records": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]},
    {"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]},
    {"inputs": {"a": [1, 2], "b": ["x", "y"]}},
])  # fmt: skip
def test_every_form_of_request_becomes_the_same_table(request_body):
    expected = {"a": [1, 2], "b": ["x", "y"], "prediction": [0.5, 0.7]}
    assert read(logged(request_body, {"predictions": [0.5, 0.7]})) == expected


def test_only_answers_that_clients_saw_are_in_the_table():
    body, answer = {"inputs": [[1.0, 2.0]]}, {"predictions": [{"score": 1, "parts": [1, 2]}]}
    batches = [
        logged(body, answer), logged(body, answer, revision="v2"), logged(body, answer, mirrored=True),
        logged(body, answer, status=500), logged(body, answer, time=NOW),
    ]  # fmt: skip
    assert read(*batches) == {
        "0": [1.0], "1": [2.0], "prediction.score": [1], "prediction.parts.0": [1], "prediction.parts.1": [2],
    }  # fmt: skip


def test_a_chat_is_kept_as_its_figures():
    body = {"model": "m", "temperature": 0.5, "messages": [{"role": "user", "content": "hello"}, {"content": None}]}
    answer = {"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    assert read(logged(body, answer)) == {
        "characters": [5], "messages": [2], "model": ["m"], "temperature": [0.5], "prediction.completion_tokens": [7],
        "prediction.finish_reason": ["stop"], "prediction.prompt_tokens": [5],
    }  # fmt: skip
    assert read(logged({"prompt": "abc"}, {}))["characters"] == [3]


@pytest.mark.parametrize("request_body", [
    "text", [], {}, {"dataframe_split": {"columns": 5, "data": 7}},
    {"dataframe_split": {"columns": ["a"], "data": [3]}}, {"inputs": None}, {"instances": None}, {"messages": "no"},
])  # fmt: skip
def test_a_body_of_no_known_form_is_counted_and_is_no_row_without_values(request_body, store):
    batches = [logged(request_body, "text", time=NOW - timedelta(minutes=20)), one(1, ago=1200)]
    for _ in range(2):
        found = Predictions(store, log_of(*batches), "v1", HOUR)
        assert (found.num_rows, found.column("x").to_pylist(), found.unreadable_requests) == (1, [1], 1)
        # The same of what was taken over.
        store.take(log_of(*batches), NOW, MONTH)


@pytest.mark.parametrize(("content", "kind"), [
    (b"", "application/json"), (b"{broken", "application/json"), (b'{"a":' * 100_000, "application/json"),
    (b"\xff\xfe", "text/csv"), (b"", "text/csv; charset=utf-8"), (b'a,b\n1,"2', "text/csv"),
    (b"PAR1", "application/vnd.apache.parquet"),
])  # fmt: skip
def test_content_that_cannot_be_read_is_counted(content, kind):
    found = Predictions(None, log_of(logged({}, {}, request=content, content_type=kind)), "v1", HOUR)
    # Of a body that was not kept nothing can be said.
    assert (found.num_rows, found.unreadable_requests) == (0, bool(content))


def test_a_request_without_rows_is_no_row_and_was_read():
    found = Predictions(None, log_of(logged({"dataframe_records": []}, {"predictions": []})), "v1", HOUR)
    assert (found.num_rows, found.unreadable_requests) == (0, 0)


def test_a_file_of_an_earlier_release_has_only_readable_rows(store, tmp_path):
    store.take(log_of(one(7, ago=1200)), NOW, MONTH)
    (file,) = parquets(tmp_path)
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["readable"]), file)
    found = Predictions(store, log_of(), "v1", HOUR)
    assert (found.column("x").to_pylist(), found.unreadable_requests) == ([7], 0)


def body(content: bytes, kind: str, answer: object, types: dict[str, str] | None = None) -> pa.RecordBatch:
    """A logged request, as a server of a model with these types of columns logs it."""
    batch = logged({}, answer, request=content, content_type=kind)
    return batch.replace_schema_metadata({"types": json.dumps(types)} if types else None)


NAN = [
    b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [NaN, 3]]}}',
    b'{"dataframe_records": [{"a": 1, "b": 2}, {"a": NaN, "b": 3}]}',
    b'{"instances": [{"a": 1, "b": 2}, {"a": null, "b": 3}]}',
    b'\xef\xbb\xbf{"inputs": {"a": [1, NaN], "b": [2, 3]}}',
]


@pytest.mark.parametrize("content", NAN)
def test_what_is_no_number_is_one_missing_value(content):
    found = read(body(content, "application/json", {"predictions": [1, float("nan")]}))
    assert found == {"a": [1, None], "b": [2, 3], "prediction": [1, None]}


def test_infinity_is_a_number():
    found = read(body(b'{"inputs": {"a": [1, -Infinity, 1e999]}}', "application/json", {"predictions": [1, 2, 3]}))
    assert found == {"a": [1.0, -float("inf"), float("inf")], "prediction": [1, 2, 3]}


TYPES = {"num": "float64", "whole": "int64", "flag": "bool", "cat": "object"}
CONTENT = b"num,whole,flag,cat\n7,2022,True,01\n,7,False,NA\n"
TYPED = {"num": [7.0, None], "whole": [2022, 7], "flag": [True, False], "cat": ["01", None], "prediction": [0.5, 0.7]}


def test_a_csv_is_read_with_the_types_that_the_server_used(store):
    answer = {"predictions": [0.5, 0.7]}
    rows = [
        {"num": 7.0, "whole": 2022, "flag": True, "cat": "01"},
        {"num": None, "whole": 7, "flag": False, "cat": None},
    ]
    assert read(body(CONTENT, "text/csv; charset=utf-8", answer, TYPES)) == TYPED
    assert read(logged({"dataframe_records": rows}, answer)) == TYPED
    # The metadata comes through the store, too.
    taken = body(CONTENT, "text/csv", answer, TYPES)
    at = taken.schema.get_field_index("time")
    long_ago = pa.array([NOW - timedelta(minutes=20)], taken["time"].type)
    store.take(log_of(taken.set_column(at, taken.schema.field("time"), long_ago)), NOW, MONTH)
    assert read(store=store) == TYPED


def test_without_types_the_values_of_a_csv_decide():
    assert read(body(CONTENT, "text/csv", {}))["cat"] == [1.0, None]


def test_parquet_is_read():
    buffer = io.BytesIO()
    pd.DataFrame({"a": [1.5, None], "b": ["x", None], "c": pd.to_datetime(["2024-01-01", None])}).to_parquet(buffer)
    found = read(body(buffer.getvalue(), "application/vnd.apache.parquet", {"predictions": [1, 2]}))
    assert (found["a"], found["b"], found["prediction"]) == ([1.5, None], ["x", None], [1, 2])


@pytest.mark.parametrize(("predictions", "columns"), [
    ([[0.1, 0.9], [0.8, float("nan")]], {"prediction.0": [0.1, 0.8], "prediction.1": [0.9, None]}),
    ([{"label": "a", "p": [0.1, 0.9]}, {"label": "b"}],
     {"prediction.label": ["a", "b"], "prediction.p.0": [0.1, None], "prediction.p.1": [0.9, None]}),
    ({"label": [1, 2], "p": [[0.5], [0.25]]}, {"prediction.label": [1, 2], "prediction.p.0": [0.5, 0.25]}),
    ([[0.0] * 65, 1.5], {"prediction": [None, 1.5]}),
    ([1.5], {}), (None, {}),
])  # fmt: skip
def test_every_form_of_answer_is_read(predictions, columns):
    assert read(logged({"inputs": {"x": [1, 2]}}, {"predictions": predictions})) == {"x": [1, 2], **columns}


@pytest.mark.parametrize(("asked", "inputs"), [
    ({"inputs": {"text": "hello"}}, {"text": ["hello"]}), ({"inputs": "hello"}, {"0": ["hello"]}),
    ({"inputs": {"a": [1], "b": 2}}, {"a": [1], "b": [2]}), ({"instances": {"a": [1]}}, {"a": [1]}),
    ({"dataframe_split": {"data": [[1, "x"]]}}, {"0": [1], "1": ["x"]}),
])  # fmt: skip
def test_one_record_has_one_answer(asked, inputs):
    assert read(logged(asked, {"predictions": {"score": 0.5}})) == {**inputs, "prediction.score": [0.5]}
    assert read(logged(asked, {"predictions": "yes"})) == {**inputs, "prediction": ["yes"]}


@pytest.mark.parametrize(("values", "kept"), [
    ([1, 2.5, None], [1.0, 2.5, None]),
    ([1, "two", True], ["1", "two", "true"]),
    ([2**70, 1], [2.0**70, 1.0]),
    ([[1, 2], {"a": 1}, {}], ["[1,2]", '{"a":1}', "{}"]),
    ([None, None], [None, None]),
    (["x", {"deep": [{}]}], ["x", '{"deep":[{}]}']),
])  # fmt: skip
def test_mixed_and_nested_values_are_kept_as_text(values, kept, store):
    assert read(*[logged({"instances": [{"x": value} for value in values]}, {})])["x"] == kept
    # The same where each value is in a file of its own.
    log = [one(value, ago=900 + 400 * index) for index, value in enumerate(reversed(values))]
    for batch in log:
        store.take(log_of(batch), NOW, MONTH)
        fsspec.filesystem("file").rm_file(f"{store._root}/taken.json")
    store.take(log_of(*log), NOW, MONTH)
    found = Predictions(store, log_of(*log), "v1", Window(start=NOW - timedelta(hours=2), end=NOW))
    assert found.column("x").to_pylist() == kept


def test_a_request_is_parsed_once_and_a_window_is_the_same_wherever_its_rows_are(tmp_path, store):
    log = log_of(*[one(ago, ago=ago) for ago in range(1, 4000, 7)])
    before = read(*[one(ago, ago=ago) for ago in range(1, 4000, 7)])
    assert store.take(log, NOW, MONTH) == sum(ago > 150 for ago in range(1, 4000, 7))
    log.read = 0
    found = Predictions(store, log, "v1", HOUR)
    assert sorted(found.column("x").to_pylist()) == sorted(before["x"])
    assert found.num_rows == len(before["x"])
    assert log.read == sum(ago <= 150 for ago in range(1, 4000, 7)), "only what is newer than the kept files"
    assert store.take(log, NOW, MONTH) == 0
    assert found.column("prediction").to_pylist() == found.column("x").to_pylist()
    one_hour = [file for file in parquets(tmp_path) if "date=2026-11-25/revision=v1/14" in str(file)]
    assert [file.name for file in one_hour] == ["1400-0.parquet"]


def test_what_a_killed_take_left_is_taken_again_once(tmp_path, store, monkeypatch):
    batches = [one(ago, ago=ago) for ago in range(200, 2000, 9)]
    put = store._put

    def die(path: str, content: bytes) -> None:
        if "taken" in path:
            raise KeyboardInterrupt
        put(path, content)

    monkeypatch.setattr(store, "_put", die)
    with pytest.raises(KeyboardInterrupt):
        store.take(log_of(*batches), NOW, MONTH)
    assert parquets(tmp_path)
    monkeypatch.undo()
    later = NOW + timedelta(minutes=10)
    store.take(log_of(*batches), later, MONTH)
    assert sum(pq.read_metadata(file).num_rows for file in parquets(tmp_path)) == len(batches)
    assert not list(tmp_path.rglob(".*unfinished"))


def test_what_a_log_has_is_rescued_before_it_goes(tmp_path, store):
    log = log_of(*[one(ago, ago=ago) for ago in (2000, 400, 30, 2)], one(5, ago=5, revision="v2"))
    store.take(log, NOW, MONTH)
    store.rescue(log, "v1", NOW)
    assert [file.name for file in parquets(tmp_path) if "rescued" in file.name] == ["1405-rescued0.parquet"]
    gone = log_of(one(5, ago=5, revision="v2"))
    assert sorted(Predictions(store, gone, "v1", HOUR).column("x").to_pylist()) == [2, 30, 400, 2000]
    assert Predictions(store, gone, "v2", HOUR).column("x").to_pylist() == [5]
    # It was not removed after all.
    assert sorted(Predictions(store, log, "v1", HOUR).column("x").to_pylist()) == [2, 30, 400, 2000]
    later = NOW + timedelta(minutes=10)
    hour = Window(start=HOUR.start, end=later)
    for here, rescued in ((gone, 1), (log, 1)):
        store.take(here, later, MONTH)
        assert sorted(Predictions(store, here, "v1", hour).column("x").to_pylist()) == [2, 30, 400, 2000]
        assert sum("rescued" in file.name for file in parquets(tmp_path)) == rescued


def test_what_was_rescued_for_nothing_is_dropped(tmp_path, store):
    log = log_of(*[one(ago, ago=ago) for ago in (2000, 30)])
    store.take(log, NOW, MONTH)
    store.rescue(log, "v1", NOW)
    store.take(log, NOW + timedelta(minutes=10), MONTH)
    assert not [file for file in parquets(tmp_path) if "rescued" in file.name]
    assert sorted(Predictions(store, log, "v1", HOUR).column("x").to_pylist()) == [30, 2000]


def test_memory_is_bounded_by_writing_in_parts(tmp_path, store, monkeypatch):
    monkeypatch.setattr("monitoring.predictions.store._HELD_BYTES", 2000)
    store.take(log_of(*[one(ago, ago=ago) for ago in range(500, 560)]), NOW, MONTH)
    assert len(parquets(tmp_path)) > 3
    assert len(read(store=store)["x"]) == 60


def test_what_is_old_is_dropped(tmp_path, store):
    log = log_of(one(1, ago=3 * 86400), one(2, ago=900))
    store.take(log, NOW - timedelta(days=2), MONTH)
    assert len(parquets(tmp_path)) == 1
    store.take(log, NOW, timedelta(days=2))
    assert ["date=2026-11-25" in str(file) for file in parquets(tmp_path)] == [True]


def test_rows_of_any_order_and_clock_are_found(store):
    ago = [700, 200, 3, 1000, 200, 5000, -60]
    batch = pa.Table.from_batches([one(second, ago=second) for second in ago]).combine_chunks().to_batches()[0]
    store.take(log_of(batch), NOW, MONTH)
    found = Predictions(store, log_of(batch), "v1", HOUR)
    assert sorted(found.column("x").to_pylist()) == [3, 200, 200, 700, 1000]


def test_repeated_ids_are_counted(store):
    batches = [one(1, ago=900, request_id="a"), one(1, ago=901, request_id="a"), one(1, request_id="b"),
               one(1, request_id="b"), logged({"inputs": [[1], [2]]}, {}, request_id="c")]  # fmt: skip
    store.take(log_of(*batches), NOW, MONTH)
    assert Predictions(store, log_of(*batches), "v1", HOUR).repeated == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 400 + b"PAR1", None])
def test_a_file_that_cannot_be_read_is_told_and_left_out(tmp_path, store, content):
    store.take(log_of(one(1, ago=700), one(2, ago=1700)), NOW, MONTH)
    broken = parquets(tmp_path)[0]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2] if content is None else content)
    found = Predictions(store, log_of(), "v1", HOUR)
    assert found.column("x").to_pylist() == [1]
    assert list(found.unreadable) == [str(broken)]


def test_a_store_on_an_object_store(tmp_path):
    store = PredictionStore(f"memory://bucket/{tmp_path.name}", "e")
    store.take(log_of(one(1, ago=700), one(2, ago=90000)), NOW, MONTH)
    assert read(one(3), store=store)["x"] == [1, 3]
    store.take(log_of(), NOW + timedelta(hours=1), timedelta(hours=14))
    kept = fsspec.filesystem("memory").find(f"/bucket/{tmp_path.name}")
    assert ["date=2026-11-25" in path for path in kept if path.endswith("parquet")] == [True]


def test_a_store_that_is_none_is_told(tmp_path):
    for url in ("nowhere://bucket/folder", "s3://bucket"):
        with pytest.raises(BadInputError, match=r"capture\.store"):
            PredictionStore(url, "e")
    (tmp_path / "file").write_text("")
    # An object store's own errors are none of the operating system's.
    from botocore.exceptions import NoCredentialsError

    away = PredictionStore(f"memory://bucket/{tmp_path.name}-away", "e")

    def refuse(*_, **__):
        raise NoCredentialsError

    away._files = SimpleNamespace(open=refuse, cat_file=refuse, find=refuse, pipe_file=refuse)
    with pytest.raises(MonitorError, match="Unable to locate credentials"):
        away.until()
    store = PredictionStore(str(tmp_path / "file"), "e")
    with pytest.raises(MonitorError, match="cannot be"):
        store.take(log_of(one(1, ago=900)), NOW, MONTH)


def test_a_slot_is_taken_only_when_no_more_rows_of_it_can_come(store):
    edge = NOW.replace(minute=5, second=0)
    store.take(log_of(), edge + SETTLE - timedelta(seconds=1), MONTH)
    assert store.until() == edge - SLOT
    store.take(log_of(), edge + SETTLE, MONTH)
    assert store.until() == edge
