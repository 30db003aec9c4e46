"""A change of a platform is done when the platform shows it."""

from __future__ import annotations

import pytest
from support.simulated import Simulation
from support.simulated_platform import ENDPOINT, Fault
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from headgate.errors import TargetError, TargetUnavailableError
from registry import history
from tasks.effect import see_to

GATES = 28
"""What a whole release passes."""


@pytest.mark.parametrize("fault", [Fault("nothing"), Fault("late"), Fault("fail"), Fault("fail", after=True)], ids=str)
def test_one_bad_answer_at_any_change_of_the_platform_harms_no_release(tmp_path, monkeypatch, fault):
    world = Simulation(tmp_path, monkeypatch)
    world.only_the_platform_fails = True
    world.act("release")
    for number in range(GATES):
        before = history.champion(world.journal, ENDPOINT).revision.name
        world.act("release", [None] * number + [fault])
        # Nobody has put anything in order.
        assert world.disorder() == [], f"{fault} at change {number}"
        assert history.champion(world.journal, ENDPOINT).revision.name != before
    assert world.went_wrong > 0


class TestSeeTo:
    @pytest.fixture(autouse=True)
    def _three_attempts(self, monkeypatch):
        attempts = lambda: Retrying(  # noqa: E731
            retry=retry_if_exception_type(TargetUnavailableError), stop=stop_after_attempt(3), reraise=True
        )
        monkeypatch.setattr("tasks.effect.attempts", attempts)

    def test_what_never_shows_is_an_error_that_says_what_is_shown(self):
        made = []
        with pytest.raises(TargetUnavailableError, match="does not show it: traffic is on v1"):
            see_to(lambda: made.append(1), lambda: "traffic is on v1")
        assert len(made) == 3

    def test_what_shows_by_itself_is_not_asked_for_again(self):
        made, shown = [], iter(["not yet", ""])
        see_to(lambda: made.append(1), lambda: next(shown))
        assert len(made) == 1

    def test_a_refusal_is_no_reason_to_try_again(self):
        made = []

        def change() -> None:
            made.append(1)
            raise TargetError("no")

        with pytest.raises(TargetError, match="no"):
            see_to(change, lambda: "")
        assert len(made) == 1
