"""A plan looks at the artifact as a release does: it finds what would refuse it, and says what is new."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from headgate.counts import Counts
from headgate.home import Home
from headgate.phases import Phase
from headgate.plan import describe
from headgate.records import Image, ModelVersion, Revision
from headgate.release_file import check_release, parse_release
from headgate.verdicts import Look, Verdict
from registry import Entry, Kind
from registry.history import APPROVAL, APPROVAL_REQUESTED
from registry.journal import open_journal
from tasks.foresee import foresee, open_plan

ENDPOINT = "wine"


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


class Planned:
    """Plans of one endpoint, on a machine whose stack was never started."""

    def __init__(self, folder, patch) -> None:
        self.folder = folder
        self.home = Home(folder / "home").ensure()
        patch.setenv("HEADGATE_HOME", str(self.home.root))
        # MLflow without a server.
        patch.setenv("MLFLOW_TRACKING_URI", f"file://{folder}/mlruns")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def __call__(self, artifact, more: str = ""):
        text = f"model: {ENDPOINT}\nartifact: {json.dumps(str(artifact))}\ntarget: {{kind: local}}\n{more}"
        with open_plan(parse_release(text)) as job:
            return foresee(job)

    def copy(self, model):
        return shutil.copytree(model, self.folder / f"copy-{len(list(self.folder.iterdir()))}")

    def goes_live(self, model) -> None:
        bundle = self.folder / "bundle"
        shutil.copytree(model, bundle / "model")
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        image = Image(digest="sha256:" + "1" * 64, lock_digest="", path=bundle, interpreter=None, size=size)
        version = ModelVersion(name=ENDPOINT, version=3, digest=image.digest)
        live = Revision.of(version, image, env={}, workers=1, ready_timeout=60)
        self.write(Kind.LIVE, live.name, evidence={"revision": live.model_dump(mode="json")})

    def write(self, kind, what, at=0.0, release_id="r", evidence=None) -> None:
        with open_journal(self.home.journal_url) as journal:
            journal.append(Entry(
                endpoint=ENDPOINT, release_id=release_id, kind=kind, what=what, actor="dana", evidence=evidence or {},
                at=datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=at),
            ))  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch):
    return Planned(tmp_path, monkeypatch)


def told(planned, severity: str = "error") -> dict[str, str]:
    """What a plan says of the artifact; that the stack is down is not of interest."""
    return {one.subject: one.problem for one in planned.problems if one.severity == severity and one.subject != "local"}


@pytest.mark.parametrize(("artifact", "says"), [
    ("runs:/0123456789abcdef0123456789abcdef/model", "cannot be fetched"), ("/nowhere/model", "there is no folder"),
])  # fmt: skip
def test_what_is_not_there_refuses_the_plan(plan, artifact, says):
    planned = plan(artifact)
    assert says in told(planned)["artifact"]
    assert not planned.is_possible
    assert planned.content is None


def test_what_does_harm_is_found_before_the_release(plan, models):
    folder = plan.copy(models("wine"))
    (folder / "more.pkl").write_bytes(pickle.dumps(Harmful()))
    assert "more.pkl runs posix.system when it is loaded" in told(plan(folder))["artifact"]
    warned = plan(folder, "image: {scan: warn}\n")
    assert not told(warned)
    assert "more.pkl runs posix.system" in told(warned, "warning")["scan"]
    assert "was not scanned" in told(plan(folder, "image: {scan: off}\n"), "warning")["scan"]


def test_a_first_release_is_all_new(plan, models):
    planned = plan(models("wine"))
    assert not told(planned)
    says = dict(describe(planned.content))
    assert "sklearn" in says["artifact"]
    assert "KiB in" in says["artifact"]
    assert "alcohol double" in says["inputs"]
    assert says["new"] == "all of it: nothing is live"
    assert planned.estimate == "unknown: no earlier release"


def test_the_same_model_has_nothing_new(plan, models):
    plan.goes_live(models("wine"))
    changes = plan(models("wine")).content.changes
    assert (changes.weights, changes.requirements, changes.signature) == ((), (), ())
    assert "nothing: the same files as live" in dict(describe(plan(models("wine")).content))["new in weights"]


def test_what_is_new_is_told_part_by_part(plan, models):
    plan.goes_live(models("wine"))
    folder = plan.copy(models("wine", regularisation=0.1))
    (folder / "requirements.txt").write_text((folder / "requirements.txt").read_text() + "\nrich\n")
    written = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = json.loads(written["signature"]["inputs"])
    inputs[0]["type"], inputs[1]["name"] = "long", "acid"
    written["signature"]["inputs"] = json.dumps(inputs)
    (folder / "MLmodel").write_text(yaml.safe_dump(written))
    planned = plan(folder)
    changes = planned.content.changes
    assert len(changes.weights) == 1
    assert changes.weights[0].startswith("changed: model.")
    assert changes.requirements == ("new: rich",)
    assert changes.signature == (
        "new input acid (double)", "input malic_acid (double) is gone", "input alcohol was double, and is long",
    )  # fmt: skip
    assert "is not that of wine@v3: new input acid" in told(planned, "warning")["signature"]


def test_large_files_that_are_in_the_image_only_are_not_called_new(plan, models):
    plan.goes_live(models("wine"))
    weights = next((plan.folder / "bundle" / "model").glob("model.*"))
    weights.unlink()
    changes = plan(models("wine")).content.changes
    assert changes.weights == ()
    assert not changes.weights_compared


def test_a_live_version_that_is_elsewhere_is_said(plan, models):
    plan.goes_live(models("wine"))
    shutil.rmtree(plan.folder / "bundle")
    content = plan(models("wine")).content
    assert (content.changes, content.unlike) == (None, "the files of wine@v3 are not on this machine")


def test_packages_from_elsewhere_are_told_and_passwords_are_refused(plan, models):
    folder = plan.copy(models("wine"))
    more = "\n--extra-index-url https://ann:secret@index.example/simple\nrye @ https://files.example/rye.zip\n./a.whl\n"
    (folder / "requirements.txt").write_text((folder / "requirements.txt").read_text() + more)
    planned = plan(folder)
    assert "a.whl, which the model's folder has not" in told(planned)["requirements"]
    assert planned.content.sources == (
        "--extra-index-url https://index.example/simple", "rye @ https://files.example/rye.zip", "./a.whl",
    )  # fmt: skip
    assert (
        "the model's requirements.txt has an address with a password: --extra-index-url https://index"
        in (told(planned)["artifact"])
    )
    assert "secret" not in planned.model_dump_json()
    assert "from elsewhere" in told(planned, "warning")["requirements"]


def test_a_smoke_gate_without_anything_to_send_is_found(plan, models):
    assert "neither an input example nor a signature" in told(plan(models("no_signature")))["gates.smoke.examples"]
    assert not told(plan(models("no_signature"), "gates: {smoke: off}\n"))
    named = "gates: {smoke: {examples: /nowhere.jsonl}}\n"
    assert "cannot be read" in told(plan(models("wine"), named))["gates.smoke.examples"]


def test_a_signature_that_cannot_be_read_is_found(plan, models):
    folder = plan.copy(models("wine"))
    written = yaml.safe_load((folder / "MLmodel").read_text())
    (folder / "MLmodel").write_text(yaml.safe_dump({**written, "signature": {"inputs": "[1]"}}))
    assert "the inputs of the signature" in told(plan(folder))["artifact"]


def test_without_mlflow_only_what_is_in_it_is_not_looked_at(plan, models, monkeypatch):
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
        planned = plan("runs:/1/model")
        assert "does not answer (ConnectError)" in told(planned)["mlflow"]
        assert "was not looked at, nor scanned" in told(planned, "warning")["artifact"]
        here = plan(models("wine"))
    assert here.content is not None
    assert "artifact" not in told(here, "warning")


def test_a_plan_says_what_the_endpoints_traffic_cannot_bring(plan, models):
    plan.goes_live(models("wine"))
    counts = Counts(requests=100, failures=0)
    look = Look(
        seconds=1000,
        share=5000,
        stable=counts,
        canary=counts,
        e_value=1,
        needed=100,
        verdict=Verdict.RUNNING,
        reason="r",
    )
    plan.write(Kind.LOOK, "running", evidence=look.model_dump(mode="json"))
    more = "judge: {error_rate: {margin_points: 0%}}\n"
    found = told(plan(models("wine"), more), "warning")
    assert "is 1000, and 360 come within strategy.max_duration (1h)" in found["strategy.min_requests"]
    assert "none of 200 requests failed" in found["judge.error_rate.margin_points"]


def shifted(plan, requests: int, seconds: float, failures: int = 0, client_errors: int = 0) -> None:
    half = Counts(requests=requests // 2, failures=failures // 2, client_errors=client_errors // 2)
    look = Look(
        seconds=seconds, share=5000, stable=half, canary=half, e_value=1, needed=100, verdict=Verdict.RUNNING,
        reason="r",
    )  # fmt: skip
    plan.write(Kind.LOOK, "running", evidence=look.model_dump(mode="json"))


def decisions(planned) -> list[tuple[str, str]]:
    return [(one.severity, f"{one.problem}; {one.fix}") for one in planned.problems if one.subject == "decision"]


def test_a_plan_says_how_long_a_decision_takes_at_the_endpoints_own_traffic(plan, models):
    plan.goes_live(models("wine"))
    shifted(plan, 20_000, 200.0, failures=220, client_errors=200)
    shadow, shift = decisions(plan(models("wine")))
    assert shadow[0] == shift[0] == "ok"
    assert "compares 100 requests a second: it passes a version after 1000 pairs (10 s) if no answer" in shadow[1]
    assert "after about 5220 (52 s) if 0.25% do" in shadow[1]
    assert "at 100 requests a second, of which 0.1% fail (at the shift of 2026-11-20" in shift[1]
    assert "100 of 100 good versions within strategy.max_duration (1h)" in shift[1]
    assert "takes back 100 of 100, half of them within" in shift[1]


def test_a_plan_warns_of_a_decision_that_will_hardly_come_in_time(plan, models):
    plan.goes_live(models("wine"))
    shifted(plan, 2000, 400.0, failures=2)
    (_, shadow), (severity, says) = decisions(plan(models("wine"), "gates: {shadow: {percent: 50%}}\n"))
    assert severity == "warning"
    assert "at 5 requests a second, of which 0.1% fail" in says
    assert "of 100 good versions within strategy.max_duration (1h), half of them within 1 h" in says
    assert "; strategy.max_duration of " in says
    assert "compares 2.5 requests a second" in shadow


def test_a_plan_without_traffic_that_was_counted_says_which_would_do(plan, models):
    assert decisions(plan(models("wine"))) == [], "a first version is not compared"
    plan.goes_live(models("wine"))
    ((severity, says),) = decisions(plan(models("wine")))
    assert severity == "ok"
    assert "not known" in says
    assert "within strategy.max_duration (1h) takes about 10 requests a second, where 0.1% of them fail" in says
    assert "to pass the shadow gate within 10m (1000 pairs) takes 1.7" in says


def test_a_tolerance_that_fits_at_the_counted_failure_rate_is_no_warning_of_a_plan(plan, models):
    subject, more = "judge.error_rate.tolerance_points", "judge: {error_rate: {margin_points: 2%}}\n"
    plan.goes_live(models("wine"))

    def warned():
        text = f"model: {ENDPOINT}\nartifact: {json.dumps(str(models('wine')))}\ntarget: {{kind: local}}\n{more}"
        file = plan.folder / "release.yaml"
        file.write_text(text)
        spec, warnings = check_release(file)
        with open_plan(spec) as job:
            return subject in told(foresee(job, [problem.as_warning() for problem in warnings]), "warning")

    assert warned()
    shifted(plan, 20_000, 200.0, failures=1000)
    assert not warned()


def test_a_plan_says_that_a_release_is_frozen_now(plan, models):
    now = datetime.now(UTC)
    start, end = now - timedelta(minutes=2), now + timedelta(hours=1)
    window = f"{{start: '{start:%M %H} * * *', end: '{end:%M %H} * * *', reason: audit}}"
    assert (
        f"until {end:%F %H:%M} UTC (audit)" in told(plan(models("wine"), f"freeze: [{window}]\n"), "warning")["freeze"]
    )
    assert "freeze" not in told(plan(models("wine")), "warning")


def release(plan, name: str, *, seconds: float, shifted: bool, waited: float = 0.0, ends: Phase = Phase.PROMOTED):
    plan.write(Kind.PHASE, Phase.STARTED, 0, name)
    if waited:
        plan.write(Kind.NOTE, APPROVAL_REQUESTED, 1, name, {"key": name})
        plan.write(Kind.DECISION, APPROVAL, 1 + waited, name, {"key": name})
    if shifted:
        plan.write(Kind.PHASE, Phase.SHIFTING, 2, name)
    plan.write(Kind.PHASE, ends, seconds + waited, name)


def test_the_time_is_that_of_earlier_releases_with_the_same_steps(plan, models):
    release(plan, "first", seconds=30, shifted=False)
    plan.goes_live(models("wine"))
    assert plan(models("wine")).estimate == "unknown: no earlier release with a shift; the first took 30 s"
    release(plan, "second", seconds=300, shifted=True, waited=4000)
    release(plan, "lost", seconds=9000, shifted=True, ends=Phase.UNDONE)
    assert plan(models("wine")).estimate == "5 min, as the one promoted release before took"
    release(plan, "third", seconds=600, shifted=True)
    said = plan(models("wine"), "approvals: [{before: shift}]\n").estimate
    assert said == "7 min (5 min to 10 min), as the last 2 promoted releases took, and the wait for approvals"
