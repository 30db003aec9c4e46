from __future__ import annotations

import warnings
from datetime import UTC, datetime

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, wasserstein_distance
from support.models import wine

from headgate.errors import MonitorError
from headgate.monitor import Monitor, Trigger
from monitoring.drift import ParquetColumns, Reference, is_triggered, to_arrow, write_evidently
from monitoring.drift import check_drift as check_table
from monitoring.drift.distance import distance
from monitoring.drift.profile import Numbers, dump, load, profile, profile_like
from monitoring.drift.tails import as_cut, cut_off, scale_of


@pytest.fixture(scope="module")
def training() -> pd.DataFrame:
    features, _ = wine()
    return features.assign(kind=np.where(features.hue > 1, "bright", "dark"))


@pytest.fixture(scope="module")
def reference(training) -> Reference:
    return Reference.of(to_arrow(training))


def sample(training: pd.DataFrame, rows: int = 300) -> pd.DataFrame:
    return training.sample(rows, replace=True, random_state=1)


def check_drift(current: pd.DataFrame, reference: Reference, monitor: Monitor):
    return check_table(to_arrow(current), reference, monitor)


def column(values: object) -> pa.ChunkedArray:
    return to_arrow(pd.DataFrame({"x": values}))["x"]


def numbers(seed: int, rows: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, rows)


class TestDistances:
    values = arrays(np.float64, st.integers(13, 400), elements=st.floats(-1e6, 1e6))

    @settings(max_examples=150, deadline=None)
    @given(values, values)
    def test_wasserstein_is_that_of_all_rows_within_the_stated_error(self, before, now):
        known = profile(column(before))
        if not isinstance(known, Numbers):
            return
        found = distance(known, profile_like(column(now), known), 0.01)
        cut = cut_off(known)
        norm = scale_of(as_cut(known, cut))
        exact = wasserstein_distance(*(side if cut is None else np.clip(side, *cut) for side in (before, now))) / norm
        assert abs(found.value - exact) <= found.error + 1e-9 * max(1.0, found.value)
        assert cut is not None or norm == pytest.approx(max(before.std(), 1e-12 * abs(before).max()), rel=1e-6)

    @pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
    def test_the_stated_error_is_small_where_tails_are_not_heavy(self, draw):
        dice = np.random.default_rng(3)
        before, now = (getattr(dice, draw)(size=size) for size in (80_000, 50_000))
        known = profile(column(before))
        found = distance(known, profile_like(column(now), known), 0.01)
        exact = wasserstein_distance(before, now) / before.std()
        assert abs(found.value - exact) <= found.error < 0.005

    def test_scores_are_evidentlys(self):
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        dice = np.random.default_rng(5)
        sides = [
            pd.DataFrame({
                "same": dice.normal(size=rows), "moved": dice.normal(shift, 1, rows),
                "swapped": dice.choice(["a", "b", "c"], rows, p=weights), "few": dice.integers(0, 4, rows).astype(str),
            })
            for rows, shift, weights in ((5000, 0.0, [0.5, 0.3, 0.2]), (3000, 0.5, [0.2, 0.3, 0.5]))
        ]  # fmt: skip
        definition = DataDefinition(numerical_columns=["same", "moved"], categorical_columns=["swapped", "few"])
        before, now = (Dataset.from_pandas(side, definition) for side in sides)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metrics = Report([ValueDrift(column=name) for name in sides[0]]).run(now, before).dict()["metrics"]
        theirs = {metric["config"]["column"]: (metric["config"]["method"], metric["value"]) for metric in metrics}
        check = check_drift(sides[1], Reference.of(to_arrow(sides[0])), Monitor())
        for found in check.columns:
            method, value = theirs[found.column]
            assert found.method in method.lower().replace("-", "").replace(" ", "")
            assert found.score == pytest.approx(value, abs=found.error + 1e-9)
        assert set(check.drifted) == {"moved", "swapped"}

    def test_a_profile_is_kept_bit_for_bit(self):
        for values in (numbers(1, 1000), ["a", "b", "a", None]):
            known = profile(column(values))
            assert dump(load(dump(known))) == dump(known)
            assert len(dump(known)) < 70_000, "a thousand columns are read and written in a second or two"

    def test_large_numbers_lose_nothing(self):
        before, now = 1e9 + numbers(1, 5000), 1e9 + numbers(2, 5000, 0.2)
        known = profile(column(before))
        found = distance(known, profile_like(column(now), known), 0.01)
        assert found.value == pytest.approx(wasserstein_distance(before, now) / before.std(), abs=found.error + 1e-6)


class TestChance:
    @pytest.mark.parametrize("rate", [0.05, 0.01])
    def test_windows_without_drift_are_taken_for_drift_no_more_often_than_asked(self, rate):
        dice, windows, false = np.random.default_rng(7), 500, 0
        before = pd.DataFrame({"x": dice.lognormal(size=2000), "y": dice.choice(list("abcdef"), 2000)})
        known = Reference.of(to_arrow(before))
        # A threshold that is always reached leaves chance alone to decide.
        monitor = Monitor(drift={"threshold": 1e-9, "false_alarms": rate})
        for _ in range(windows):
            now = pd.DataFrame({"x": dice.lognormal(size=150), "y": dice.choice(list("abcdef"), 150)})
            false += len(check_drift(now, known, monitor).drifted)
        assert binom.sf(false - 1, 2 * windows, rate) > 0.001

    def test_a_small_window_does_not_drift_by_its_smallness(self):
        known = Reference.of(to_arrow(pd.DataFrame({"x": numbers(1, 5000)})))
        monitor = Monitor(drift={"threshold": 0.05})
        found = check_drift(pd.DataFrame({"x": numbers(2, 100)}), known, monitor).columns[0]
        assert found.score > found.threshold
        assert not found.drifted

    def test_a_shift_shows_in_a_small_window_too(self):
        known = Reference.of(to_arrow(pd.DataFrame({"x": numbers(1, 5000)})))
        assert check_drift(pd.DataFrame({"x": numbers(2, 100, 1.0)}), known, Monitor()).drifted == ("x",)


class TestCheck:
    def test_the_same_world_has_not_drifted(self, training, reference):
        check = check_drift(sample(training), reference, Monitor())
        assert (check.causes, check.drifted, len(check.checked)) == ((), (), 14)

    def test_columns_that_moved_are_named_and_counted(self, training, reference, tmp_path):
        current = sample(training)
        moved = ["alcohol", "hue", "ash", "kind"]
        current[moved[:3]] *= 2
        current["kind"] = "new"
        loose = {"out_of_range": "100%", "new_categories": "100%"}
        check = check_drift(current, reference, Monitor(drift={"share": "25%"}, data_quality=loose))
        assert (set(check.drifted), check.causes) == (set(moved), ("drift",))
        assert check.reason == "4 of 14 columns drifted (28.6%, limit 25%)"
        assert not check_drift(current, reference, Monitor(data_quality=loose)).causes
        write_evidently(to_arrow(current), reference, check, tmp_path / "page.html")
        assert "<html" in (tmp_path / "page.html").read_text()

    def test_thresholds_by_column_and_columns_that_do_not_matter(self, training, reference):
        current = sample(training).assign(alcohol=lambda table: table.alcohol + 1)
        assert check_drift(current, reference, Monitor()).drifted == ("alcohol",)
        assert not check_drift(current, reference, Monitor(drift={"thresholds": {"alcohol": 5}})).drifted
        misspelt = check_drift(current, reference, Monitor(drift={"thresholds": {"alcohl": 5}}))
        assert "has a threshold, and is neither" in misspelt.passed_over["alcohl"]
        ignoring = check_drift(current, reference, Monitor(drift={"ignore": ["alcohol"]}))
        assert (len(ignoring.checked), ignoring.passed_over["alcohol"]) == (13, "is ignored")

    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_too_few_rows_are_not_drift(self, training, reference, rows):
        with pytest.raises(MonitorError, match=rf"{rows} rows, and monitor\.min_rows is 100"):
            check_drift(training.head(rows), reference, Monitor())

    def test_no_common_column_is_not_drift(self, reference):
        with pytest.raises(MonitorError, match=r"no column .*alcohol is not in the window"):
            check_drift(pd.DataFrame({"x": range(200)}), reference, Monitor())

    def test_a_single_row_where_that_is_allowed(self, training, reference):
        assert check_drift(training.head(1), reference, Monitor(min_rows=1)).causes == ()


def bad(training: pd.DataFrame, how: str) -> pd.DataFrame:
    """A window whose first column is bad."""
    table, rows = sample(training), np.arange(300)
    values = table["alcohol"]
    return table.assign(alcohol={
        "all null": None,
        "all NaN": np.nan,
        "half missing": values.where(rows % 2 == 0),
        "infinite": values.where(rows % 5 != 0, np.inf),
        "text": "much",
        "numbers as text": values.astype(str),
        "mixed": values.astype(object).where(rows % 5 != 0, "much"),
        "nested": [[value] for value in values],
        "times": datetime(2026, 1, 1, tzinfo=UTC),
        "huge": 1e300,
        "huge integers": [10**30] * 300,
        "whole numbers": values.round().astype(int),
        "booleans": values > 13,
    }[how])  # fmt: skip


class TestBadInput:
    @pytest.mark.parametrize(("how", "problem", "passed_over"), [
        ("all null", "missing", "has no values in the window"),
        ("all NaN", "missing", "has no values in the window"),
        ("half missing", "missing", None),
        ("infinite", "infinite", None),
        ("text", "unreadable", "has no values in the window"),
        ("numbers as text", None, None),
        ("mixed", "unreadable", None),
        ("nested", None, "is nested (list<item: double>) and not compared in the window"),
        ("times", None, "is a time and not compared in the window"),
        ("huge", "out of range", None),
        ("huge integers", "out of range", None),
        ("whole numbers", None, None),
    ])  # fmt: skip
    def test_what_is_wrong_is_said_and_the_rest_is_compared(
        self, training, reference, how, problem, passed_over, tmp_path
    ):
        current = bad(training, how)
        check = check_drift(current, reference, Monitor())
        assert [found.kind for found in check.problems if found.column == "alcohol"] == [problem] * bool(problem)
        assert check.passed_over.get("alcohol") == passed_over
        assert len(check.checked) == (13 if passed_over else 14)
        assert not check.has_drifted, "one bad column is no drift"
        assert check.causes == (("data_quality",) if problem else ())
        if how.startswith("huge"):
            # Evidently cannot draw it; what was found stands.
            with pytest.raises(MonitorError, match="Evidently cannot show"):
                write_evidently(to_arrow(current), reference, check, tmp_path / "page.html")
        else:
            write_evidently(to_arrow(current), reference, check, tmp_path / "page.html")

    @pytest.mark.parametrize(("missing", "beyond"), [(0.2, None), (0.24, None), (0.5, 0.3)])
    def test_what_the_reference_lacks_too_is_no_problem(self, missing, beyond):
        def lacking(share):
            values = numbers(1, 1000)
            values[: int(share * 1000)] = np.nan
            return pd.DataFrame({"x": values})

        known = Reference.of(to_arrow(lacking(0.2)))
        found = check_drift(lacking(missing), known, Monitor(data_quality={"missing": "5%"})).problems
        assert [(one.kind, round(one.share, 2)) for one in found] == ([] if beyond is None else [("missing", beyond)])

    def test_a_window_without_any_value_is_bad_data(self, training, reference, tmp_path):
        current = training.map(lambda _: None)
        check = check_drift(current, reference, Monitor())
        assert (check.causes, check.share, len(check.problems)) == (("data_quality",), 0.0, 14)
        with pytest.raises(MonitorError, match="no column with values to show"):
            write_evidently(to_arrow(current), reference, check, tmp_path / "page.html")

    def test_columns_that_come_and_go_are_told(self, training, reference):
        current = sample(training).drop(columns="ash").assign(fresh=1)
        check = check_drift(current, reference, Monitor())
        assert check.passed_over == {"ash": "is not in the window", "fresh": "is not in the reference"}

    def test_a_category_that_is_new_is_a_problem_and_an_identifier_is_not(self, training):
        rows = np.arange(len(training))
        known = Reference.of(to_arrow(training.assign(user=[f"user-{row}" for row in rows])))
        current = sample(training).assign(user=[f"other-{row}" for row in range(300)])
        current.loc[current.index[:60], "kind"] = "sparkling"
        check = check_drift(current, known, Monitor(data_quality={"new_categories": "5%"}))
        kinds = {found.column: found.message for found in check.problems}
        assert "such as sparkling" in kinds["kind"]
        assert check.passed_over["user"] == "has a value of its own in most rows, and is not compared"
        assert "user" not in kinds

    def test_two_hundred_columns(self):
        dice = np.random.default_rng(0)
        names = [f"c{number}" for number in range(200)]
        before, now = (pd.DataFrame(dice.normal(size=(500, 200)), columns=names) for _ in range(2))
        check = check_drift(now, Reference.of(to_arrow(before)), Monitor())
        assert (len(check.checked), check.has_drifted) == (200, False)


class TestReference:
    def test_it_is_read_from_a_file_kept_and_read_again(self, training, tmp_path):
        pq.write_table(to_arrow(training), tmp_path / "r.parquet")
        known = Reference.of(ParquetColumns(tmp_path / "r.parquet"))
        known.save(tmp_path / "kept")
        again = Reference.load(tmp_path / "kept")
        found = [check_drift(sample(training), one, Monitor())._replace(window={}) for one in (again, known)]
        assert found[0] == found[1]

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
    def test_a_file_that_is_no_parquet_is_said_by_name(self, tmp_path, content):
        (tmp_path / "r.parquet").write_bytes(content)
        with pytest.raises(MonitorError, match=r"r\.parquet cannot be read"):
            Reference.of(ParquetColumns(tmp_path / "r.parquet"))

    def test_what_is_half_written_is_none(self, training, tmp_path):
        assert Reference.load(tmp_path / "nothing") is None
        Reference.of(to_arrow(training)).save(tmp_path)
        (tmp_path / "profiles.json").write_text("{")
        assert Reference.load(tmp_path) is None


@pytest.mark.parametrize(("violations", "triggered"), [
    ([], False), ([True], False), ([True, True], True), ([True, True, False], False),
    ([True, False, True], True), ([True, True, False, False, True], False),
])  # fmt: skip
def test_n_of_m_and_the_latest(violations, triggered):
    assert is_triggered(violations, Trigger(violations=2, of=3)) is triggered


@pytest.mark.parametrize(("rows", "unreadable", "problems"), [(180, 20, 1), (196, 4, 0), (0, 200, 1)])
def test_requests_that_cannot_be_read_are_a_finding_of_their_own(rows, unreadable, problems):
    known = Reference.of(to_arrow(pd.DataFrame({"x": numbers(1, 1000)})))
    current = to_arrow(pd.DataFrame({"x": numbers(1, 1000)[:rows]} if rows else {}))
    found = check_table(current, known, Monitor(min_rows=200), unreadable=unreadable).problems
    assert [(one.column, one.kind, one.share) for one in found] == [
        ("request", "unreadable", unreadable / 200)
    ] * problems
