from __future__ import annotations

from datetime import UTC, datetime

from headgate.phases import Outcome
from headgate.records import Counts, Disagreement, Event, Look, ReleaseResult, ShadowReport, Verdict
from monitoring.plots import rollout_plot
from monitoring.report import Evidence, write_report


def looks() -> tuple[Look, ...]:
    def at(second: int) -> Look:
        stable, canary = Counts(requests=100 * second, failures=1), Counts(requests=5 * second, failures=second)
        return Look(
            seconds=second,
            share=500,
            stable=stable,
            canary=canary,
            e_value=2.0**second,
            needed=100,
            verdict=Verdict.RUNNING,
            reason="r",
        )

    return tuple(map(at, range(1, 9)))


def test_the_report_is_one_page_that_loads_nothing(tmp_path):
    now = datetime.now(UTC)
    shadow = ShadowReport(
        pairs=10, unmatched=1, disagreements=2, errors=1, rate=0.2, limit=0.1, e_value=3, latency_ratio=1.1,
        passed=False, reason="2 of 10 answers differ",
        examples=(Disagreement(request_id="1", request="<script>alert(1)</script>", champion="a", challenger="b"),),
    )  # fmt: skip
    result = ReleaseResult(release_id="r1", endpoint="wine", outcome=Outcome.ROLLED_BACK, reason="e-value 256")
    events = (Event(at=now, what="judge", actor="judge", reason="roll back"),)
    evidence = Evidence(result=result, title="wine", looks=looks(), shadow=shadow, events=events)
    file = tmp_path / "reports" / "r1.html"
    write_report(evidence, file)
    page = file.read_text()
    assert "<svg" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert not [line for line in page.splitlines() if "src=" in line or "<link" in line]
    for text in ("rolled back", "2 of 10 answers differ", "roll back", "e-value 256"):
        assert text in page


def test_the_plot_is_a_picture():
    assert rollout_plot(looks(), "wine", kind="png").startswith(b"\x89PNG")
    assert b"<svg" in rollout_plot(looks(), "wine")
