"""The real flows, with everything around them failing, dying and interfering at any change they make."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.simulated import Simulation, recover
from support.simulated_platform import Fault

from headgate.verdicts import Verdict

EXAMPLES = int(os.environ.get("HEADGATE_TEST_EXAMPLES", "15"))
"""Of some ten acts each; more are for a long evening."""

WHO = ("release", "the same again", "rollback", "abort", "promote", "reconcile", "guard")

fails = st.builds(Fault, st.just("fail"), st.booleans(), lasting=st.booleans())
lies = st.builds(Fault, st.sampled_from(["nothing", "late"]), lasting=st.booleans())
dies = st.builds(Fault, st.just("die"), st.booleans())
between = st.builds(Fault, st.just("between"), st.booleans(), st.sampled_from(WHO), st.booleans())
# Few of a flow's changes go wrong, or it would not come far: some 25 are what a whole release makes.
plans = st.dictionaries(st.integers(0, 27), st.one_of(fails, lies, dies, between), max_size=3).map(
    lambda at: [at.get(number) for number in range(28)]
)
seen = st.sampled_from(
    [(), (), (), (Verdict.ADVANCE,), (Verdict.ROLLBACK,), (Verdict.INCONCLUSIVE,), (Verdict.ADVANCE, Verdict.ROLLBACK)]
)


class Endpoint(RuleBasedStateMachine):
    """Whatever anybody does, and whenever they die, an endpoint can be put in order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="hg-sim-")
        self.patch = pytest.MonkeyPatch()
        self.world = Simulation(Path(self.folder.name), self.patch)

    @initialize()
    def first(self) -> None:
        self.world.act("release")

    @rule(who=st.sampled_from(WHO), plan=plans, seen=seen)
    def act(self, who, plan, seen) -> None:
        self.world.verdicts = list(seen)
        self.world.act(who, plan)

    @rule(plan=plans, seen=seen)
    def release(self, plan, seen) -> None:
        self.world.verdicts = list(seen)
        self.world.act("release", plan)

    @rule()
    def put_in_order(self) -> None:
        recover(self.world)
        assert self.world.disorder() == []

    @invariant()
    def clients_are_served(self) -> None:
        assert self.world.problems() == []

    def teardown(self) -> None:
        try:
            self.put_in_order()
        finally:
            self.world.journal.close()
            self.patch.undo()
            self.folder.cleanup()


TestEndpoint = Endpoint.TestCase
TestEndpoint.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck),
    # What is found is found with its plan; to make that smaller takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)  # fmt: skip
