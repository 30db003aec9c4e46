"""Labels that arrive later: how they are read and kept, and what they say of two versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine

from deploy_targets.prediction_log import SCHEMA
from headgate.errors import BadInputError, MonitorError
from headgate.monitor import Quality
from headgate.records import Window
from monitoring.predictions import Predictions, PredictionStore
from monitoring.truth import Labels, judge_quality, labels_from_file, labels_from_json, labels_from_query
from monitoring.truth.accuracy import Arms, weigh

NOW = datetime(2026, 11, 25, 14, 7, 30, tzinfo=UTC)
WEEK = Window(start=NOW - timedelta(days=7), end=NOW)


def rows(revision: str, ids: range, answers, *, mirrored: bool = False, since: timedelta = timedelta(0)):
    """Requests of 10 a second, each about one record."""
    return pa.RecordBatch.from_pylist(
        [
            {"request_id": f"r{number}", "time": NOW - timedelta(hours=1) + since + timedelta(seconds=index / 10),
             "status": 200, "seconds": 0.1, "mirrored": mirrored, "content_type": "application/json",
             "request": b'{"instances": [[1]]}', "response": json.dumps({"predictions": [answer]}).encode(),
             "endpoint": "e", "revision": revision}
            for index, (number, answer) in enumerate(zip(ids, answers, strict=True))
        ],
        schema=SCHEMA,
    )  # fmt: skip


def labels(ids: range, truth) -> pd.DataFrame:
    given = [{"request_id": f"r{number}", "label": label} for number, label in zip(ids, truth, strict=True)]
    return labels_from_json(given).to_pandas()


def judged(champion: list, before: list | None, given: pd.DataFrame, store=None, **limits):
    def side(revision: str, batches: list) -> Predictions:
        return Predictions(store, lambda _: iter(batches), revision, WEEK, copies=True)

    return judge_quality(
        side("v2", champion), None if before is None else side("v1", before), given, Quality(**limits)
    )  # fmt: skip


@pytest.mark.parametrize(("answer", "label", "tolerance", "wrong"), [
    (1, 1, 0, False), (1.0, "1", 0, False), (1, 2, 0, True), ("cat", "cat", 0, False), ("cat", "dog", 0, True),
    (True, True, 0, False), (True, False, 0, True), (104.0, 100, 0.05, False), (106.0, 100, 0.05, True),
    (-104.0, -100, 0.05, False), ("cat", 1, 0, True), (0.0, 0, 0.1, False), (0.001, 0, 0.1, True),
])  # fmt: skip
def test_what_counts_as_wrong(answer, label, tolerance, wrong):
    found = judged([rows("v2", range(1), [answer])], None, labels(range(1), [label]), tolerance=tolerance)
    assert found.champion.wrong == wrong


def test_a_regression_is_measured_and_a_class_has_no_error():
    found = judged([rows("v2", range(2), [1.0, 4.0])], None, labels(range(2), [2, 2]))
    assert (found.champion.mean_absolute_error, found.champion.root_mean_squared_error) == (1.5, np.sqrt(2.5))
    assert judged([rows("v2", range(1), ["a"])], None, labels(range(1), ["a"])).champion.mean_absolute_error is None
    assert judged([rows("v2", range(1), ["a"])], None, labels(range(5, 6), ["a"])) is None


def test_the_part_of_the_answer_is_the_only_one_or_the_one_that_is_named():
    one, two = [{"y": 1}], [{"y": 1, "z": 2}]
    assert judged([rows("v2", range(1), one)], None, labels(range(1), [1])).champion.wrong == 0
    assert judged([rows("v2", range(1), two)], None, labels(range(1), [2]), answer="prediction.z").champion.wrong == 0
    with pytest.raises(MonitorError, match="it has several parts") as told:
        judged([rows("v2", range(1), two)], None, labels(range(1), [1]))
    assert "prediction.y, prediction.z" in told.value.fix
    with pytest.raises(MonitorError, match="answer is 'z'"):
        judged([rows("v2", range(1), two)], None, labels(range(1), [1]), answer="z")


def test_pairs_show_a_version_that_is_wrong_more_often():
    ids, truth = range(200), [0] * 200
    before = rows("v1", ids, [0] * 190 + [1] * 10)
    after = rows("v2", ids, [1] * 20 + [0] * 180, mirrored=True)
    found = judged([after], [before], labels(ids, truth))
    assert (found.pairs, found.only_ours, found.only_theirs, found.verdict) == (200, 20, 10, "open")
    found = judged([rows("v2", ids, [1] * 40 + [0] * 160, mirrored=True)], [before], labels(ids, truth))
    assert (found.verdict, found.e_value > 200) == ("worse", True)
    assert "of 200 labelled pairs only v2 is wrong on 40, only v1 on 10" in found.reason
    assert judged([after], None, labels(ids, truth)).verdict == "open", "there is no other to compare with"


def test_only_the_time_in_which_both_answered_clients_is_compared():
    """The version before was very good, but on another day; in the canary's time both were bad."""
    early = rows("v1", range(3000), [0] * 3000)
    late = timedelta(minutes=30)
    theirs = rows("v1", range(3000, 4000), [1] * 300 + [0] * 700, since=late)
    ours = rows("v2", range(4000, 5000), [0] * 700 + [1] * 300, since=late)
    given = labels(range(5000), [0] * 5000)
    found = judged([ours], [early, theirs], given)
    assert found.difference[0] < 0 < found.difference[1]
    assert found.verdict == "open"
    worse = judged([rows("v2", range(4000, 5000), [1] * 500 + [0] * 500, since=late)], [early, theirs], given)
    assert (worse.verdict, worse.difference[0] > 0) == ("worse", True)


def test_a_version_is_confirmed_once_it_is_shown_to_be_no_worse():
    truth = [0] * 3000
    same = [1] * 30 + [0] * 2970
    pairs = rows("v1", range(3000), same), rows("v2", range(3000), same, mirrored=True)
    found = judged([pairs[1]], [pairs[0]], labels(range(3000), truth))
    assert (found.verdict, found.difference[1] < 0.02) == ("no worse", True)
    assert judged([pairs[1]], [pairs[0]], labels(range(3000), truth), min_labels=5000).verdict == "open"
    few = judged([pairs[1]], [pairs[0]], labels(range(100), truth[:100]))
    assert few.verdict == "open"


def test_a_good_version_is_hardly_ever_found_worse_however_often_one_looks():
    dice, found, limits = np.random.default_rng(3), 0, Quality(false_alarms=0.1)
    for _ in range(200):
        ours, theirs = dice.random((2, 600)) < 0.15
        counts = [np.cumsum(wrong) for wrong in (ours & ~theirs, theirs & ~ours, ours, theirs)]
        looks = []
        for asked in range(100, 601, 100):
            pairs, all_of_them = (
                [(int(count[asked - 1]), asked) for count in part] for part in (counts[:2], counts[2:])
            )
            looks.append(weigh(Arms(*pairs), Arms(*all_of_them), asked, limits).verdict)
        found += "worse" in looks
    assert found <= 200 * 0.1


def test_labels_of_unknown_requests_are_counted_and_repeated_ones_replaced(tmp_path):
    store = PredictionStore(str(tmp_path), "e")
    kept = Labels(store)
    assert kept.read().empty
    two = labels_from_json([{"request_id": "r1", "label": 1}, {"request_id": "nobody", "label": 1}])
    assert [kept.add(two, NOW), kept.add(two, NOW)] == [2, 0]
    assert kept.add(labels_from_json([{"request_id": "r1", "label": 0}]), NOW + timedelta(seconds=5)) == 1
    found = judged([rows("v2", range(3), [0, 0, 0])], None, kept.read(), store)
    assert (found.champion.labels, found.champion.wrong, found.unknown) == (1, 0, 1)
    # Predictions are dropped and taken over without the labels being harmed.
    store.take(lambda _: iter([]), NOW, timedelta(days=1))
    assert len(kept.read()) == 2


def test_answers_that_are_kept_in_files_are_found_too(tmp_path):
    store = PredictionStore(str(tmp_path), "e")
    batches = [rows("v2", range(2000), [0, 1] * 1000)]
    store.take(lambda _: iter(batches), NOW, timedelta(days=1))
    found = judged([], None, labels(range(2000), [0] * 2000), store)
    assert (found.champion.labels, found.champion.wrong) == (2000, 1000)
    assert [(point.labels, point.wrong) for point in found.over_time] == [(2000, 1000)]


def test_labels_are_read_from_files_and_queries(tmp_path):
    frame = pd.DataFrame({"request_id": ["01", "2"], "label": [1.0, 0.5], "row": [0, 3]})
    frame.to_csv(tmp_path / "l.csv", index=False)
    frame.to_parquet(tmp_path / "l.parquet")
    frame.to_json(tmp_path / "l.jsonl", orient="records", lines=True)
    expected = {"request_id": ["01", "2"], "row": [0, 3], "label": ["1", "0.5"]}
    for name in ("l.csv", "l.parquet", "l.jsonl"):
        assert labels_from_file(tmp_path / name).to_pydict() == expected, name
    url = f"sqlite:///{tmp_path / 'l.db'}"
    frame.to_sql("truth", create_engine(url))
    assert labels_from_query(url, "select request_id, label, row from truth").to_pydict() == expected


def test_a_table_is_asked_for_what_is_new_and_gives_the_rest_for_nothing(tmp_path):
    url, kept = f"sqlite:///{tmp_path / 'l.db'}", Labels(PredictionStore(str(tmp_path), "e"))
    told = [(f"r{number}", number % 2, NOW - timedelta(days=number)) for number in range(6)]
    frame = pd.DataFrame(told, columns=["request_id", "label", "at"])
    frame.to_sql("truth", create_engine(url), index=False)
    query = "select request_id, label from truth where at >= :since"
    found = labels_from_query(url, query, NOW - timedelta(days=3, hours=1))
    assert found["request_id"].to_pylist() == ["r0", "r1", "r2", "r3"]
    assert [kept.update(found, NOW), kept.update(found, NOW)] == [4, 0]
    corrected = frame.assign(label=[1, 1, 0, 1, 0, 1])
    corrected.to_sql("truth", create_engine(url), index=False, if_exists="replace")
    again = labels_from_query(url, query, NOW - timedelta(days=4, hours=1))
    assert kept.update(again, NOW + timedelta(seconds=1)) == 2, "one was another, and one is new"
    assert dict(kept.read()[["request_id", "label"]].to_numpy()) == {
        "r0": "1", "r1": "1", "r2": "0", "r3": "1", "r4": "0",
    }  # fmt: skip
    with pytest.raises(BadInputError, match="cannot be queried: A value is required for bind parameter 'since'"):
        labels_from_query(url, query)


@pytest.mark.parametrize(("content", "says"), [
    ("id,label\n1,2\n", "no column request_id, only id, label"),
    ("request_id,label\na,1\n,2\n", "1 of 2 labels .* the first is number 2"),
    ("request_id,label\na,\n", "1 of 1 labels"),
    ("request_id,label,row\na,1,-1\n", "1 of 1 labels"),
    ("request_id,label,row\na,1,x\n", "1 of 1 labels"),
    ("request_id,label,row\na,1,0.5\n", "1 of 1 labels"),
    ("", "cannot be read"),
])  # fmt: skip
def test_labels_that_are_none_are_refused_whole(tmp_path, content, says):
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(BadInputError, match=says):
        labels_from_file(tmp_path / "l.csv")


def test_a_file_of_labels_that_is_not_there_is_told_as_that(tmp_path):
    with pytest.raises(BadInputError, match=r"^there is no file .*l\.csv") as told:
        labels_from_file(tmp_path / "l.csv")
    assert "request_id" in told.value.fix


def test_what_is_no_file_query_or_list_is_told(tmp_path):
    for name in ("l.csv", "l.parquet", "l.jsonl", "l.xlsx"):
        if name != "l.csv":
            (tmp_path / name).write_bytes(b"{nothing")
        with pytest.raises(BadInputError):
            labels_from_file(tmp_path / name)
    with pytest.raises(BadInputError, match="cannot be queried") as told:
        labels_from_query("postgresql+psycopg://ann:hunter2@127.0.0.1:9/x", "select 1")
    assert "hunter2" not in str(told.value)
    for given in ([], [1], [{"label": 1}]):
        with pytest.raises(BadInputError):
            labels_from_json(given)


def test_a_file_of_labels_that_cannot_be_read_is_named(tmp_path):
    kept = Labels(PredictionStore(str(tmp_path), "e"))
    kept.add(labels_from_json([{"request_id": "r1", "label": 1}]), NOW)
    file = next(tmp_path.rglob("labels/*.parquet"))
    assert pq.read_table(file).num_rows == 1
    file.write_bytes(b"PAR1")
    assert kept.read().empty
    assert list(kept.unreadable) == [str(file)]
