"""Columns in which chance is easily taken for drift, and drift for chance; benchmarks/drift_worlds.py has more."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binom, wasserstein_distance

from headgate.errors import MonitorError
from headgate.monitor import Monitor
from monitoring.drift import Reference, check_drift
from monitoring.drift.distance import distance
from monitoring.drift.profile import Categories, Numbers, profile, profile_like
from monitoring.drift.shares import counts_of, divergence_by_chance, has_rare, new_by_chance, unseen
from monitoring.drift.tails import cut_off


def zipf(kinds: int) -> np.ndarray:
    return 1 / np.arange(1, kinds + 1)


def kinds_of(dice: np.random.Generator, rows: int, shares: np.ndarray) -> pa.Table:
    drawn = dice.choice(len(shares), rows, p=shares / shares.sum())
    return pa.table({"x": pa.array(drawn).cast(pa.string())})


def moved(shares: np.ndarray, share: float) -> np.ndarray:
    """So much of the rows moves from the ten most common categories, or from all the others, to the ten after them."""
    shares = shares / shares.sum()
    giver = slice(0, 10) if shares[:10].sum() > share else slice(20, None)
    now = shares.copy()
    now[giver] *= 1 - share / shares[giver].sum()
    now[10:20] *= 1 + share / shares[10:20].sum()
    return now


TAILS = {
    "Pareto 1.5": lambda dice, rows: 1 + dice.pareto(1.5, rows),
    "lognormal, sigma 2": lambda dice, rows: dice.lognormal(0, 2, rows),
    "Cauchy": lambda dice, rows: dice.standard_cauchy(rows),
}


def check(before: pa.Table, now: pa.Table, **quality: str):
    return check_drift(now, Reference.of(before), Monitor(data_quality=quality))


def consistent(hits: int, windows: int, rate: float = 0.01) -> bool:
    return bool(binom.sf(hits - 1, windows, rate) > 0.001)


class TestRareCategories:
    @pytest.mark.parametrize(("shares", "before", "now", "windows"), [
        (zipf(300), 5000, 1000, 100), (np.ones(300), 5000, 1000, 100), (np.ones(2000), 10_000, 1000, 30),
    ], ids=["300, Zipf", "300, uniform", "2,000, uniform"])  # fmt: skip
    def test_a_quiet_window_does_not_drift(self, shares, before, now, windows):
        dice = np.random.default_rng(11)
        hits = sum(
            bool(check(kinds_of(dice, before, shares), kinds_of(dice, now, shares)).drifted) for _ in range(windows)
        )
        assert consistent(hits, windows)

    @pytest.mark.parametrize(("shares", "before", "now"), [
        (zipf(2000), 10_000, 1000), (zipf(20_000), 50_000, 2000), (np.ones(20_000), 50_000, 2000),
    ], ids=["2,000, Zipf", "20,000, Zipf", "20,000, uniform"])  # fmt: skip
    def test_a_tenth_of_the_rows_that_moves_between_categories_is_drift(self, shares, before, now):
        dice = np.random.default_rng(12)
        for _ in range(3):
            reference = Reference.of(kinds_of(dice, before, shares))
            assert not check_drift(kinds_of(dice, now, shares), reference, Monitor()).drifted
            assert check_drift(kinds_of(dice, now, moved(shares, 0.1)), reference, Monitor()).drifted == ("x",)

    def test_the_score_is_evidentlys_whatever_is_rare(self):
        from scipy.spatial.distance import jensenshannon

        dice = np.random.default_rng(13)
        sides = [kinds_of(dice, rows, zipf(2000)) for rows in (10_000, 1000)]
        shares = pd.concat([side["x"].to_pandas().value_counts(normalize=True) for side in sides], axis=1).fillna(0)
        assert check(*sides).columns[0].score == pytest.approx(jensenshannon(*shares.to_numpy().T), abs=1e-12)

    def test_the_same_columns_always_get_the_same_verdict(self):
        dice = np.random.default_rng(14)
        sides = [kinds_of(dice, rows, zipf(300)) for rows in (5000, 500)]
        found = [check(*sides).columns for _ in range(2)]
        assert found[0] == found[1]
        before, now = (np.array(side) for side in ([3, 0, 9, 40], [1, 1, 3, 9]))
        turned = divergence_by_chance(before[::-1], now[::-1], 0.01)
        assert divergence_by_chance(before, now, 0.01) == pytest.approx(turned, rel=1e-12)

    def test_common_categories_are_left_to_chi_squared(self):
        assert not has_rare(np.array([50, 60, 0]), np.array([10, 0, 0]) + 20)
        assert has_rare(np.array([500, 600, 4]), np.array([500, 600, 4]))

    def test_what_is_too_much_to_be_named_is_compared_all_the_same(self):
        """The ten thousand most common of a sample have more of its rows than of the next sample's."""
        dice = np.random.default_rng(15)
        reference, window = (
            profile(kinds_of(dice, rows, np.ones(20_000))["x"].cast(pa.string())) for rows in (50_000, 30_000)
        )
        assert isinstance(reference, Categories)
        assert isinstance(window, Categories)
        assert reference.rest
        before, now = counts_of(reference, window)
        assert (before.sum(), now.sum()) == (50_000, 30_000)
        found = distance(reference, window, 0.01)
        assert found.value < found.chance


class TestNewCategories:
    @pytest.mark.parametrize(("kinds", "before", "now", "limit", "windows"), [
        (2000, 2000, 500, "10%", 30), (2000, 5000, 500, "0%", 60)
    ])  # fmt: skip
    def test_those_that_a_sample_was_to_lack_are_no_problem(self, kinds, before, now, limit, windows):
        dice, hits = np.random.default_rng(16), 0
        for _ in range(windows):
            sides = [kinds_of(dice, rows, zipf(kinds)) for rows in (before, now)]
            hits += bool(check(*sides, new_categories=limit).problems)
        assert consistent(hits, windows)

    def test_more_than_those_is_a_problem_that_says_how_many_more(self):
        dice = np.random.default_rng(17)
        before, now = (kinds_of(dice, rows, zipf(2000)) for rows in (2000, 500))
        values = now["x"].to_pylist()
        values[:150] = ["unheard of"] * 150
        (problem,) = check(before, pa.table({"x": values})).problems
        known = profile(before["x"])
        assert isinstance(known, Categories)
        new = sum(value not in known.counts for value in values) / 500
        assert problem.share == pytest.approx(new - unseen(known))
        assert "to be expected, such as unheard of" in problem.message

    def test_one_new_value_is_chance_where_values_are_many_and_forty_are_not(self):
        reference = Categories(1000, 0, {"a": 600, "b": 398, "c": 1, "d": 1})
        for new, is_more in ((1, False), (40, True)):
            window = Categories(500, 0, {"a": 300, "b": 200 - new, "z": new})
            assert (new / 500 - unseen(reference) > new_by_chance(reference, window, 0.01)) is is_more

    def test_a_known_value_is_not_new_because_others_are_many(self):
        reference = profile(pa.chunked_array([["a"] * 50 + ["b"] * 50]))
        window = profile_like(pa.chunked_array([["a"] + [f"n{number // 2}" for number in range(30_000)]]), reference)
        assert isinstance(window, Categories)
        assert window.counts["a"] == 1
        assert window.rest


class TestHeavyTails:
    def test_quiet_windows_do_not_drift(self):
        dice, windows = np.random.default_rng(18), 150
        hits = sum(
            len(
                check(
                    *(pa.table({name: draw(dice, rows) for name, draw in TAILS.items()}) for rows in (5000, 500))
                ).drifted
            )
            for _ in range(windows)
        )
        assert consistent(hits, windows * len(TAILS))

    @pytest.mark.parametrize("tails", TAILS)
    @pytest.mark.parametrize("how", ["shift", "scale"])
    def test_a_real_change_is_drift(self, tails, how):
        dice = np.random.default_rng(19)
        draw = TAILS[tails]
        for _ in range(10):
            before, now = draw(dice, 5000), draw(dice, 500)
            now = now + 0.5 * np.subtract(*np.quantile(before, [0.75, 0.25])) if how == "shift" else 2 * now
            assert check(pa.table({"x": before}), pa.table({"x": now})).drifted

    @pytest.mark.parametrize("tails", TAILS)
    def test_the_distance_is_that_of_values_that_are_cut_off(self, tails):
        dice = np.random.default_rng(20)
        before, now = TAILS[tails](dice, 50_000), 1.2 * TAILS[tails](dice, 20_000)
        known = profile(pa.chunked_array([before]))
        assert isinstance(known, Numbers)
        cut = cut_off(known)
        assert cut is not None
        assert np.quantile(before, [0.05, 0.95]) == pytest.approx(cut, rel=0.02)
        found = distance(known, profile_like(pa.chunked_array([now]), known), 0.01)
        sides = [np.clip(values, *cut) for values in (before, now)]
        exact = wasserstein_distance(*sides) / sides[0].std()
        assert abs(found.value - exact) <= found.error + 1e-3 * exact
        assert found.error < 0.005

    @pytest.mark.parametrize("draw", ["normal", "exponential", "lognormal"])
    def test_ordinary_columns_are_compared_as_they_are(self, draw):
        known = profile(pa.chunked_array([getattr(np.random.default_rng(21), draw)(size=50_000)]))
        assert isinstance(known, Numbers)
        assert cut_off(known) is None


class TestTinyDeviations:
    @pytest.mark.parametrize("size", [1e-4, 1e-9, 1e-30])
    def test_the_unit_of_a_column_does_not_matter(self, size):
        dice = np.random.default_rng(22)
        before, now = dice.normal(size=5000), dice.normal(size=500)
        for shift, drifted in ((0.0, ()), (0.3, ("x",))):
            sides = pa.table({"x": before * size}), pa.table({"x": (now + shift) * size})
            assert check(*sides).drifted == drifted

    def test_a_column_that_is_one_value_but_for_roundings_and_a_few_rows_is_measured_by_those(self):
        known = profile(
            pa.chunked_array([[0.0] * 160 + [1e-62, 2e-62, 3e-62, 4e-62] * 2 + [0.5, *np.arange(1.0, 8.0)]])
        )
        assert isinstance(known, Numbers)
        assert cut_off(known) is None

    def test_roundings_are_no_drift(self):
        before, now = (1 + np.arange(start, start + 1000) % 20 * 2e-16 for start in (0, 0))
        now += 2e-15
        assert not check(pa.table({"x": before}), pa.table({"x": now})).drifted


class TestKeptReferences:
    def as_once_kept(self, folder, table: pa.Table, version: int) -> None:
        """Write a reference in an older form: arrays as lists of numbers, and in the first one no buckets."""
        known = Reference.of(table)
        known.save(folder)
        stored = json.loads((folder / "profiles.json").read_text())
        assert stored["version"] == 3
        profiles = {name: asdict(found) for name, found in known.profiles.items()}
        for found in profiles.values():
            if version == 1:
                found.pop("buckets", None)
        lists = {name: json.dumps(found, default=np.ndarray.tolist) for name, found in profiles.items()}
        (folder / "profiles.json").write_text(json.dumps(stored | {"version": version, "profiles": lists}))

    @pytest.mark.parametrize("version", [1, 2])
    def test_an_old_one_is_read(self, tmp_path, version):
        dice = np.random.default_rng(23)
        table, now = (
            kinds_of(dice, rows, zipf(300)).append_column("y", pa.array(dice.standard_cauchy(rows)))
            for rows in (5000, 500)
        )
        self.as_once_kept(tmp_path, table, version)
        old = Reference.load(tmp_path)
        assert old is not None
        assert check_drift(now, old, Monitor()).columns == check(table, now).columns

    def test_one_that_kept_too_little_is_made_anew(self, tmp_path):
        self.as_once_kept(tmp_path, kinds_of(np.random.default_rng(24), 50_000, np.ones(20_000)), 1)
        assert Reference.load(tmp_path) is None

    def test_buckets_are_kept(self, tmp_path):
        dice = np.random.default_rng(25)
        table, now = kinds_of(dice, 50_000, np.ones(20_000)), kinds_of(dice, 1000, np.ones(20_000))
        (known := Reference.of(table)).save(tmp_path)
        again = Reference.load(tmp_path)
        assert again is not None
        assert check_drift(now, again, Monitor()).columns == check_drift(now, known, Monitor()).columns


def test_an_identifier_is_still_not_compared():
    users = pa.table({"x": [f"user-{number}" for number in range(30_000)]})
    with pytest.raises(MonitorError, match="has a value of its own in most rows"):
        check(users, pa.table({"x": [f"other-{number}" for number in range(500)]}))


@pytest.mark.parametrize("rows", [60, 60_000])
def test_what_chance_makes_of_a_distance_is_that_of_rows_that_are_shuffled(rows):
    """Both ways in which distances of draws are computed: by pairs of counts, and of each draw by itself."""
    from scipy.spatial.distance import jensenshannon

    dice = np.random.default_rng(26)
    shares = np.array([50, 30, 15, 4, 1, 4 / rows])
    sides = [dice.multinomial(size, shares / shares.sum()) for size in (rows, rows // 3)]
    sides[0][-1] = 1
    values = np.repeat(np.arange(6), sum(sides))
    shuffled = (np.bincount(dice.permutation(values)[: sides[1].sum()], minlength=6) for _ in range(400))
    distances = [jensenshannon(sum(sides) - now, now) for now in shuffled]
    assert has_rare(*sides)
    # Each of the two tests has half of the rate, and no more than the whole is used where both are one.
    assert np.quantile(distances, 0.75) < divergence_by_chance(*sides, 0.1) < np.quantile(distances, 0.995)
