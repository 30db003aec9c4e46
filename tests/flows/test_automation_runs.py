"""Each automation of docs/events.md on the real server: its event, and the run or the message that follows.

Drift and an alias are in test_by_itself.py; alerts, tags and killed releases in test_events.py.
"""

from __future__ import annotations

import pytest
from conftest import QUICK
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events import emit_event
from prefect.states import Cancelled, Crashed, Failed, Running
from support.runs import by_automation
from support.small_server import answering
from support.stack import wait_for

from flows.rollback import rollback
from headgate.events import resource_of
from headgate.phases import Outcome
from tasks.automations import PREFIX, apply_automations
from tasks.deployments import open_client


@pytest.mark.parametrize("ending", [Crashed, Failed, Cancelled])
def test_a_flow_run_that_ends_badly_starts_reconcile(world, ending):
    with open_client() as client:
        run = client.create_flow_run(rollback, parameters={"endpoint": world.endpoint, "reason": ""}, state=Running())
        client.set_flow_run_state(run.id, ending(), force=True)
    actor = f"automation ({run.name} is {ending().name})"
    assert wait_for(lambda: by_automation(world, "reconcile", actor=actor), 180)


def test_a_release_that_ends_badly_is_told_through_the_block_that_was_named(world, models):
    taken: list[bytes] = []
    name = f"ops-{world.endpoint}"
    with answering(lambda _path: (200, b"ok"), taken) as url:
        said = {"text": "{{subject}} | {{body}}"}
        CustomWebhookNotificationBlock(name=name, url=url, json_data=said).save(name)
        try:
            assert (
                dict(apply_automations(notify=f"custom-webhook/{name}"))[f"{PREFIX}failed release → notify"] == "made"
            )
            with pytest.raises(Exception, match="nothing"):
                world.release("nothing", QUICK)
            for ended in ("rolled-back", "rejected", "promoted"):
                payload = {"endpoint": world.endpoint, "reason": f"was {ended}", "release_id": "r1"}
                emit_event(f"headgate.release.{ended}", resource=resource_of(world.endpoint), payload=payload)
            wait_for(lambda: len(taken) >= 3, 60)
        finally:
            with open_client() as client:
                for one in client.read_automations_by_name(f"{PREFIX}failed release → notify"):
                    client.delete_automation(one.id)
    told = sorted(body.decode() for body in taken)
    assert [f"headgate: {world.endpoint} |" in body for body in told] == [True] * 3
    assert any(f"headgate.release.{Outcome.FAILED}: " in body for body in told)
    assert not any("was promoted" in body for body in told)
