"""A release that a worker carries out, watched while the journal, or Prefect, does not answer."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from headgate.errors import NotKnownError, RegistryUnavailableError, RolledBackError, TargetUnavailableError
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from headgate.release_file import parse_release
from registry.history import OUTCOME
from tasks import watching

SPEC = parse_release(
    "model: wine\nartifact: /a\ntarget: {kind: local}\ngates: {shadow: {max_duration: 10m}}\n"
    "strategy: {max_duration: 2h}\napprovals: [{before: shift, expires: 1d}]\n"
)
LONGEST = 3600 + 600 + 7200 + 86400


def ended(outcome: Outcome) -> SimpleNamespace:
    result = ReleaseResult(
        release_id="r1", endpoint="wine", outcome=outcome, reason="it was worse", seconds=1.0, waited=0.0
    )
    return SimpleNamespace(seq=7, what=OUTCOME, evidence={"result": result.model_dump(mode="json")})


class Shown:
    def __init__(self) -> None:
        self.rows, self.said = [], []

    def show(self, row) -> None:
        self.rows.append(row)

    def tell(self, message) -> None:
        self.said.append(message.splitlines()[0])


class World:
    """A journal that is away from one moment to another, and a flow run that is over from some moment on."""

    def __init__(self, now, *, away=(0.5, 0.5), over=float("inf"), outcome=None, prefect_away=False) -> None:
        self._began, self._now = now.monotonic(), now
        self._away, self._over, self._outcome, self._prefect_away = away, over, outcome, prefect_away
        self.shown = Shown()

    @property
    def seconds(self) -> float:
        return self._now.monotonic() - self._began

    def read(self, *_, newest=None, **__):
        if newest is None and self._away[0] <= self.seconds < self._away[1]:
            raise RegistryUnavailableError("the journal does not answer: connection refused")
        at, outcome = self._outcome or (float("inf"), None)
        return [ended(outcome)] if newest is None and self.seconds >= at else []

    def state_of(self, _run):
        if self._prefect_away:
            raise TargetUnavailableError("away")
        return SimpleNamespace(
            is_final=lambda: self.seconds >= self._over, is_completed=lambda: False, name="Failed",
            message="Flow run encountered an exception: RolledBackError: by the run's own word",
        )  # fmt: skip

    def watch(self, timeout=None):
        return watching.carry_out(SPEC, {"release_id": "r1"}, "release/local", self.shown, timeout)


@pytest.fixture
def world(monkeypatch, tmp_path, waitless):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))

    def make(**what) -> World:
        made = World(waitless, **what)

        @contextmanager
        def opened(_url):
            yield made

        monkeypatch.setattr(watching, "open_journal", opened)
        monkeypatch.setattr(watching, "submit", lambda *_: uuid.uuid4())
        monkeypatch.setattr(watching, "state_of", made.state_of)
        monkeypatch.setattr(watching, "_patience", lambda *_: 2.0)
        return made

    return make


@pytest.mark.parametrize("prefect_away", [False, True])
def test_a_journal_that_was_away_for_an_hour_costs_nothing(world, prefect_away):
    made = world(away=(5, 3600), over=100, outcome=(50, Outcome.PROMOTED), prefect_away=prefect_away)
    if not prefect_away:
        # The run is over, so the journal has ten minutes.
        made._away = (5, 600)
    assert made.watch().outcome is Outcome.PROMOTED
    assert made.shown.said == ["the journal does not answer: connection refused"]


def test_that_the_journal_answers_again_is_said_and_the_end_is_what_it_was(world):
    made = world(away=(5, 60), outcome=(100, Outcome.ROLLED_BACK))
    with pytest.raises(RolledBackError, match="it was worse"):
        made.watch()
    assert made.shown.said == ["the journal does not answer: connection refused", "the journal answers again"]


@pytest.mark.parametrize(("over", "timeout", "after"), [
    # For as long as the release may take by its file, for ten minutes once its run is over, or as long as was asked.
    (float("inf"), None, LONGEST + 600),
    (100, None, 100 + 600),
    (float("inf"), 1800, 1800),
])  # fmt: skip
def test_what_cannot_be_read_is_not_known(world, over, timeout, after):
    made = world(away=(5, float("inf")), over=over)
    with pytest.raises(NotKnownError, match="how release r1 ends is not known: the journal has not answered") as raised:
        made.watch(timeout)
    assert made.seconds == pytest.approx(after, abs=3)
    assert raised.value.exit_code == 6
    assert "headgate status wine" in raised.value.fix


def test_a_run_that_ended_without_an_outcome_says_why(world):
    made = world(over=100)
    with pytest.raises(RolledBackError, match="by the run's own word"):
        made.watch()
    assert made.seconds == pytest.approx(104, abs=3)
