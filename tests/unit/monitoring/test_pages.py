from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.browser import open_browser, picture

from headgate.counts import Counts, latencies
from headgate.health import Accuracy, Attribution, HealthReport, QualityPoint, QualityReport
from headgate.monitor import Monitor
from headgate.phases import Outcome
from headgate.records import Event, ReleaseResult, Usage, Window
from headgate.verdicts import Disagreement, Look, ShadowReport, Verdict
from monitoring.drift import Reference, to_arrow, write_evidently
from monitoring.drift.check import check_drift
from monitoring.pages import Checked, Evidence, write_check, write_release
from monitoring.pages.plots import quantiles_of

BOUNDS = (0.001, 0.01, 0.1)
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def looks(last: int = 8) -> tuple[Look, ...]:
    def at(second: int) -> Look:
        slow = (50 * second, 40 * second, 10 * second, 0)
        stable = Counts(requests=100 * second, failures=1, histograms=latencies(slow))
        canary = Counts(requests=5 * second, failures=second, histograms=latencies((0, 0, 5 * second, 0)))
        started_again = min(second // 8, 1)
        return Look(
            seconds=second, share=500, stable=stable, canary=canary, e_value=2.0 ** min(second, 60), needed=100,
            verdict=Verdict.RUNNING, reason="r", usage={
                "stable": Usage(memory=190 * 2**20, cpu=second * 0.5, servers=("1@0",)),
                "canary": Usage(memory=(190 + second) * 2**20, cpu=second * 0.05, servers=(f"2@{started_again}",)),
            },
        )  # fmt: skip

    return tuple(map(at, range(1, last + 1)))


def a_release(last: int = 8) -> Evidence:
    shadow = ShadowReport(
        pairs=10, unmatched=1, disagreements=2, errors=1, rate=0.2, limit=0.1, e_value=3, latency_ratio=1.1,
        passed=False, reason="2 of 10 answers differ",
        examples=(Disagreement(request_id="1", request="<script>alert(1)</script>", champion="a", challenger="b"),),
    )  # fmt: skip
    result = ReleaseResult(release_id="r1", endpoint="wine", outcome=Outcome.ROLLED_BACK, reason="e-value 256")
    events = (Event(at=NOW, what="judge", actor="judge", reason="roll back"),)
    return Evidence(result=result, title="wine", looks=looks(last), bounds=BOUNDS, shadow=shadow, events=events)


def a_check(columns: int = 4) -> Checked:
    """Half of the columns have moved; one of them is text."""
    dice = np.random.default_rng(0)
    before = pd.DataFrame({f"x{number}": dice.normal(0, 1, 2000) for number in range(columns)})
    now = before.sample(600, random_state=1).reset_index(drop=True)
    now.iloc[:, : columns // 2] += 2
    before["<b>grade"], now["<b>grade"] = "good", "poor"
    before["seen"], now["seen"] = NOW, NOW
    reference = Reference.of(to_arrow(before))
    found = check_drift(to_arrow(now), reference, Monitor())
    wrong = Accuracy(
        revision="v3-ab", labels=80, wrong=9, rate=0.11, low=0.05, high=0.2, mean_absolute_error=None,
        root_mean_squared_error=None,
    )  # fmt: skip
    quality = QualityReport(
        champion=wrong, before=None, pairs=0, only_ours=0, only_theirs=0, e_value=1, difference=(-1, 1),
        verdict="open", unknown=0, reason="9 of 80 labelled answers were wrong",
        over_time=tuple(QualityPoint(day=NOW - timedelta(days=day), labels=20, wrong=day) for day in (3, 2, 1)),
    )  # fmt: skip
    report = HealthReport(
        endpoint="wine", revision="v3-ab", version=3, window=Window(start=NOW - timedelta(hours=1), end=NOW),
        rows=found.rows, drifted_columns=found.drifted, share=found.share, limit=0.5, violation=True, triggered=True,
        reason=found.reason, columns=found.columns, problems=found.problems, passed_over=found.passed_over,
        attribution=Attribution(cause="version", asked=400, reason="v3's answers moved by 2"), quality=quality,
    )  # fmt: skip
    return Checked(report, reference.profiles, found.window, [report], "r1-evidently.html")


def loads_nothing(page: str) -> bool:
    return not re.search(r"src=|<link|@import|url\((?!#)", page)


def test_the_page_of_a_release_is_one_file_that_loads_nothing(tmp_path):
    page, plot = write_release(a_release(), tmp_path / "reports" / "r1.html")
    text = page.read_text()
    assert plot == tmp_path / "reports" / "r1.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert text.count("<svg") == 2
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert loads_nothing(text)
    for said in ("rolled back", "2 of 10 answers differ", "roll back", "e-value 256", "p99, ms"):
        assert said in text
    used = re.findall(
        r'number">([\d.]+ MiB, [\d.]+ MiB)</td>\s*<td class="number">(.*?)</td>\s*<td class="number">(\d)<', text
    )
    assert used == [("190 MiB, 190 MiB", "5", "0"), ("191 MiB, 198 MiB", "unknown", "1")]


def test_what_a_cloud_does_not_say_of_servers_is_unknown(tmp_path):
    used = [
        {arm: Usage(memory=None, memory_part=part, cpu=None, servers=(), at=NOW) for arm in ("stable", "canary")}
        for part in (0.25, 0.305)
    ]
    seen = tuple(look.model_copy(update={"usage": usage}) for look, usage in zip(looks(2), used, strict=True))
    text = write_release(a_release().model_copy(update={"looks": seen}), tmp_path / "r1.html")[0].read_text()
    cell, unknown = "25% of what it was given, 30.5% of what it was given", '<td class="number">unknown</td>'
    assert len(re.findall(rf'<td class="number">{cell}</td>\s*{unknown}\s*{unknown}', text)) == 2


def test_a_target_that_does_not_say_what_servers_use_has_no_columns_of_it(tmp_path):
    known = a_release()
    looks = tuple(look.model_copy(update={"usage": {}}) for look in known.looks)
    page, _ = write_release(known.model_copy(update={"looks": looks}), tmp_path / "r1.html")
    assert "restarts" not in page.read_text()


def test_a_release_without_a_shift_has_a_page_and_no_plot(tmp_path):
    evidence = a_release().model_copy(update={"looks": (), "bounds": (), "shadow": None, "events": ()})
    (page,) = write_release(evidence, tmp_path / "r1.html")
    assert "No live traffic was shifted" in page.read_text()
    assert "<svg" not in page.read_text()


def test_a_day_of_looks_is_no_larger_than_an_hour_of_them(tmp_path):
    hour, day = (write_release(a_release(last), tmp_path / f"{last}.html")[0] for last in (3600, 86_400))
    assert day.stat().st_size < 1.05 * hour.stat().st_size < 300_000


@pytest.mark.parametrize(("level", "says"), [(0.25, 0.5), (0.5, 1.0), (0.7, 5.5), (0.95, 55.0), (1.0, 100.0)])
def test_quantiles_lie_evenly_within_their_buckets(level, says):
    assert quantiles_of((50, 40, 10, 0), BOUNDS, (level,)) == pytest.approx((says,))


def test_what_is_above_the_last_bucket_is_as_slow_as_its_bound():
    assert quantiles_of((0, 0, 1, 99), BOUNDS, (0.5,)) == pytest.approx((100.0,))
    assert quantiles_of((0, 0, 0, 0), BOUNDS, (0.5,)) == ()


def test_the_page_of_a_check_shows_every_column_the_furthest_first(tmp_path):
    checked = a_check()
    page, plot = write_check(checked, tmp_path / "c-drift.html")
    text = page.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert loads_nothing(text)
    assert "<b>grade" not in text
    rows = re.findall(r"<tr( class=\"drifted\")?><td>([^<]+)</td><td>(?:wasserstein|jensenshannon)", text)
    assert {name for _, name in rows} == {"x0", "x1", "x2", "x3", "&lt;b&gt;grade"}
    assert [bool(drifted) for drifted, _ in rows] == [True, True, True, False, False]
    for said in ("alarm", "To blame: the version", "is a time and not compared", "9 of 80 labelled", "r1-evidently"):
        assert said in text


def test_a_check_that_labels_decided_has_a_page(tmp_path):
    checked = a_check()
    report = checked.report.model_copy(update={"columns": (), "drifted_columns": (), "attribution": None})
    (page,) = write_check(Checked(report, {}, {}), tmp_path / "c-drift.html")
    assert "No column was compared" in page.read_text()


def test_two_hundred_columns_are_no_more_than_a_person_reads(tmp_path):
    page, _ = write_check(a_check(200), tmp_path / "c-drift.html")
    assert page.stat().st_size < 300_000
    assert page.read_text().count("<td>wasserstein") == 200


OWNED = "document.title='owned'"
BREAKS_OUT = f"</script><svg onload={OWNED}><script>{OWNED}</script><img src=x onerror={OWNED}>"


def test_what_clients_send_runs_nothing_on_evidentlys_page(tmp_path):
    """Evidently writes values into a script as they are: `</script>` ended it, and what followed was an element."""
    dice = np.random.default_rng(0)
    before = pd.DataFrame({"x": dice.normal(0, 1, 500), "grade": dice.choice(["good", "a&b"], 500), BREAKS_OUT: "same"})
    now = before.assign(grade=dice.choice(["good", BREAKS_OUT, "&lt;"], 500))
    reference, page = Reference.of(to_arrow(before)), tmp_path / "evidently.html"
    write_evidently(to_arrow(now), reference, check_drift(to_arrow(now), reference, Monitor()), page)
    assert BREAKS_OUT not in page.read_text()
    with open_browser() as browser:
        complaints = []
        browser.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        browser.on("pageerror", lambda error: complaints.append(str(error)))
        browser.goto(page.as_uri())
        browser.get_by_text("Drift in column").first.wait_for()
        browser.locator(".main-svg").first.wait_for()
        assert complaints == []
        assert browser.title() != "owned"
        assert browser.locator("svg[onload], img[onerror]").count() == 0


@pytest.mark.parametrize("name", ["release", "window"])
def test_a_page_runs_no_script_even_where_one_got_into_it(tmp_path, name):
    write = {"release": lambda: write_release(a_release(), tmp_path / "p.html"),
             "window": lambda: write_check(a_check(), tmp_path / "p.html")}  # fmt: skip
    page = Path(write[name]()[0])
    page.write_text(page.read_text().replace("<h1>", BREAKS_OUT + "<h1>", 1))
    with open_browser() as browser:
        browser.goto(page.as_uri())
        assert browser.locator("svg[onload]").count() == 1
        assert browser.title() != "owned"


@pytest.mark.parametrize("name", ["release", "window"])
def test_on_a_phone_nothing_is_cut_off(tmp_path, name):
    write = {"release": lambda: write_release(a_release(60), tmp_path / "p.html"),
             "window": lambda: write_check(a_check(), tmp_path / "p.html")}  # fmt: skip
    page = Path(write[name]()[0])
    with open_browser() as browser:
        began = time.monotonic()
        browser.goto(page.as_uri())
        assert time.monotonic() - began < 20
        picture(browser, f"page-{name}", whole=True)
        browser.set_viewport_size({"width": 390, "height": 844})
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        picture(browser, f"page-{name}-phone")
        # What a screen reader is told: the plots are spoken of in their captions.
        assert browser.locator("h1").count() == 1
        assert browser.locator("svg:not([aria-hidden])").count() == 0
        assert browser.locator("figure").count() == browser.locator("figcaption").count() > 0
