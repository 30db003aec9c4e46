"""What someone who is asked for an approval sees: the plan, the content, the comparison, and where the plots are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError
from headgate.phases import Phase
from headgate.units import format_percent, rough_percent
from registry import Kind
from tasks.markdown import as_code
from tasks.package import plan_release
from tasks.report import interim_report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.job import ReleaseJob


def evidence(job: ReleaseJob, before: str, spec_hash: str) -> str:
    """Markdown for the form.

    Args:
        job: the release that waits.
        before: the step that waits.
        spec_hash: of the release file that is approved.
    """
    rows = job.journal.read(job.endpoint, release_id=job.release_id)
    image = next(row.evidence["image"] for row in rows if row.what == Phase.PACKAGED)
    version = next(row.evidence["version"] for row in rows if row.what == Phase.REGISTERED)
    champion = job.champion
    facts = [
        ("release", f"`{job.release_id}`, asked for by {job.actor}"),
        ("new version", f"{version['name']} v{version['version']}, from {as_code(job.spec.artifact)}"),
        ("image", f"`{image['digest'][:19]}` ({image['size'] / 1e6:.1f} MB)"),
        ("champion", f"{champion.version}, `{champion.name}`" if champion else "none: this is the first version"),
        *_gates(job),
        *_judged(job),
        ("report with plots", _link(job)),
    ]
    steps = [
        (step.name, step.does + (f"; {step.gate}" if step.gate else "")) for step in plan_release(job).steps
    ]  # fmt: skip
    return "\n".join([
        f"# {job.endpoint}: {before} {version['name']} v{version['version']}?", "",
        *_listed(facts), "", "## Plan", "", *_listed(steps), "", "## Your answer", "",
        "Who approves or rejects, and why, is kept in the history. The answer holds for this content only:", "",
        "```", f"image         {image['digest']}", f"release file  sha256:{spec_hash}", "```",
    ])  # fmt: skip


def _gates(job: ReleaseJob) -> list[tuple[str, str]]:
    facts = []
    for row in job.journal.read(job.endpoint, kinds=(Kind.DECISION,), release_id=job.release_id):
        if row.what == "smoke":
            facts.append(("smoke", row.reason))
        elif row.what == "shadow" and "report" in row.evidence:
            report = row.evidence["report"]
            facts.append(("shadow", _compared(report)))
            facts += [
                (
                    f"differs {number}",
                    f"{as_code(one['request'])}: {as_code(one['champion'])} became {as_code(one['challenger'])}",
                )
                for number, one in enumerate(report["examples"][:3], start=1)
            ]
    return facts


def _compared(report: dict[str, Any]) -> str:
    latency = report["latency_ratio"]
    return (
        f"{report['pairs']} pairs, {report['disagreements']} differ ({rough_percent(report['rate'])}, at most "
        f"{format_percent(report['limit'])} may), {report['unmatched']} unmatched"
        + (f"; median latency {latency:.2f} times the champion's" if latency is not None else "")
    )


def _judged(job: ReleaseJob) -> list[tuple[str, str]]:
    looks = job.journal.read(job.endpoint, kinds=(Kind.LOOK,), release_id=job.release_id, newest=1)
    return [("judge", look.reason) for look in looks]


def _link(job: ReleaseJob) -> str:
    try:
        link = interim_report(job)
    except (HeadgateError, OSError) as error:
        return f"not in MLflow ({str(error).splitlines()[0]}); on the worker: `{job.report_file}`"
    return f"[in MLflow]({link})"


def _listed(rows: Iterable[tuple[str, str]]) -> list[str]:
    """A list, not a table: the form is narrow, and a table's long cells are cut off in it."""
    return [f"- **{name}**: {' '.join(text.split())}" for name, text in rows]
