"""The life of one endpoint on the local stack: each way in which a release ends, one after the other.

What else there is to know of each is in a file of its own (test_release.py, test_approvals.py and so on).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import LONG, QUICK, without
from support import light
from support.approving import ASKS, answer_in_browser, waiting
from support.stack import wait_for

from flows.monitor import monitor
from flows.promote import promote
from headgate.errors import BadInputError, EndpointBusyError, RejectedError, RolledBackError, TimedOutError
from headgate.phases import Outcome, Phase
from headgate.release_file import parse_release
from registry import Kind, history

PHASES = ["started", "packaged", "registered", "deployed", "smoked", "shadowed", "shifting", "promoted"]


@pytest.mark.timeout(1200)
def test_one_life_of_an_endpoint(world, models, background, tmp_path):
    """Versions by what they do: 1 doubles, 2 triples, 3 raises below 0, 4 is periodic, 5 quadruples in name only."""
    goes_live_with_the_server_itself(world, models)
    is_rejected_in_shadow(world, models)
    is_rolled_back_by_the_judge(world, models)
    is_held_until_a_person_promotes_it(world, models)
    is_approved_in_the_browser(world, models)
    is_rolled_back_for_drift(world, models, tmp_path)
    is_aborted(world, models, background)
    is_killed_and_resumed(world, models, background)
    champions = [reign.revision.version.version for reign in history.reigns(world.journal, world.endpoint)]
    assert champions == [1, 4, 3, 4, 5]


def goes_live_with_the_server_itself(world, models):
    with light.real_server():
        first = world.release(models("pyfunc", does="double"), actor="ann")
    assert (first.outcome, first.version, first.champion) == (Outcome.PROMOTED, 1, 1)
    world.assert_only(1)
    with pytest.raises(BadInputError, match="no release"):
        asyncio.run(promote(world.endpoint, "again"))


def is_rejected_in_shadow(world, models):
    with world.traffic() as client, pytest.raises(RejectedError, match="answers differ"):
        world.release(models("pyfunc", does="triple"))
    assert {name.partition("-")[0] for name in client.by_revision} == {"v1"}, "no client saw the challenger"
    assert sum(counter["wrong"] for counter in client.by_revision.values()) == 0
    world.assert_only(1)
    assert world.processes() == {"v1"}, "nothing of the challenger is left"


def is_rolled_back_by_the_judge(world, models):
    more = QUICK.replace("max_disagreement: 20%", "max_disagreement: 100%").replace("60, min", "6000, min")
    with world.traffic(low=-2) as client, pytest.raises(RolledBackError, match="requests failed against 0"):
        world.release(models("pyfunc", does="negative"), more)
    failed = sum(counter["failed"] for counter in client.by_revision.values())
    assert 0 < failed < 60
    world.assert_only(1)
    assert world.processes() == {"v1"}
    last = world.journal.read(world.endpoint, kinds=(Kind.LOOK,))[-1]
    (verdict,) = world.stack.json("replay", "--release", last.release_id)
    assert (verdict["phase"], verdict["seconds"]) == ("rollback", last.evidence["seconds"]), "as it was judged then"
    assert verdict["bad"] == last.evidence["canary"]["failures"]


def is_held_until_a_person_promotes_it(world, models):
    more = "gates: {shadow: off}\nstrategy: {steps: [20%], min_duration: 1s, max_duration: 3s}\n"
    with pytest.raises(TimedOutError, match="1000 more requests"):
        world.release(models("pyfunc", does="periodic"), more)
    assert history.in_flight(world.journal, world.endpoint).phase is Phase.HELD
    assert sorted(world.state.traffic.weights.values()) == [2000, 8000]
    with pytest.raises(EndpointBusyError, match="is held since"):
        world.release(models("pyfunc", does="triple"), more)
    assert asyncio.run(promote(world.endpoint, "looks good")).outcome is Outcome.PROMOTED
    world.assert_only(4)


def is_approved_in_the_browser(world, models):
    ended = len(world.outcomes())
    with world.traffic() as client:
        world.submit(models("pyfunc", does="negative"), QUICK + ASKS, actor="dana")
        asked = waiting(world)
        assert world.state.traffic.holder.startswith("v4-")
        shown = answer_in_browser(world, asked, "approve", "ann", "looks good")
        assert asked["digest"] in shown
        assert "asked for by dana" in shown
        released = world.ended(ended + 1)
    assert (released.outcome, released.version) == (Outcome.PROMOTED, 3)
    world.assert_only(3)
    assert world.processes() == {"v3", "v4"}, "the version before stays warm"
    assert sum(counter["failed"] for counter in client.by_revision.values()) == 0
    rows = world.journal.read(world.endpoint, kinds=(Kind.PHASE,), release_id=released.release_id)
    assert [row.what for row in rows if row.what in PHASES] == PHASES
    assert "<svg" in Path(released.report).read_text()


def is_rolled_back_for_drift(world, models, tmp_path):
    reference = tmp_path / "reference.parquet"
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    more = QUICK + f"monitor: {{reference: {json.dumps(str(reference))}, window: 10m, min_rows: 50, "
    # The client asks for the same twenty numbers in turn: such rows are not independent, as the bound of chance takes
    # them to be. What is to be told apart here moves by 86.
    more += "drift: {thresholds: {x: 1}}, trigger: {violations: 2, of: 3}}\n"
    more += "rollback: {on: [errors, drift], keep_warm: 1h}\n"
    spec = parse_release(world.text("unused", more))
    with world.traffic(low=500) as client:
        wait_for(lambda: client.total > 150)
        first = asyncio.run(monitor(spec))
        assert (first.violation, first.triggered, first.drifted_columns) == (True, False, ("x",))
        world.assert_only(3)
        second = asyncio.run(monitor(spec))
    assert (second.violation, second.triggered, second.attribution.cause) == (True, True, "version")
    world.assert_only(4)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert last.actor.startswith("monitor")
    assert len(list((world.stack.home.root / "reports" / world.endpoint).glob("*-drift.html"))) == 2


def is_aborted(world, models, background):
    with world.traffic():
        process = background(models("pyfunc", does="quadruple"), LONG)
        wait_for(lambda: world.share(5) > 0, 180)
        result = world.stack.json("abort", world.endpoint, "--reason", "not now")
        assert world.share(5) == 0
        assert process.wait(180) == 4
    assert result["outcome"] == Outcome.ROLLED_BACK
    assert "took it back: not now" in result["reason"]
    world.assert_only(4)
    assert "no release" in world.stack.headgate("abort", world.endpoint, "--reason", "again", expect=1).stderr


def is_killed_and_resumed(world, models, background):
    # The reconcile that the abort has started would take back what was killed.
    with world.traffic() as client, without(world.stack, "guard"), without(world.stack, "worker"):
        process = background(models("pyfunc", does="quadruple"), QUICK, "--release-id", "resumed")
        wait_for(lambda: world.share(5) > 0, 180)
        process.kill()
        assert process.wait() == -9
        assert history.in_flight(world.journal, world.endpoint).phase is Phase.SHIFTING
        with pytest.raises(BadInputError, match="another release file"):
            world.release(models("pyfunc", does="triple"), release_id="resumed")
        assert world.release(models("pyfunc", does="quadruple"), release_id="resumed").outcome is Outcome.PROMOTED
    assert sum(counter["failed"] for counter in client.by_revision.values()) == 0
    shadows = [row for row in world.journal.read(world.endpoint, release_id="resumed") if row.what == "shadow"]
    assert len(shadows) == 1, "what was done before it died is not done again"
    world.assert_only(5)
