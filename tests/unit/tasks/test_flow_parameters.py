"""What a flow run is given passes Prefect's own look at it, whatever the target: its server refuses what does not."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.monitor import monitor
from flows.release import release
from headgate.release_file import parse_release
from headgate.stack.deployed import prefect_file
from headgate.target_settings import known_targets

if TYPE_CHECKING:
    from prefect import Flow

TARGETS = {
    "local": "{kind: local}",
    "docker": "{kind: docker}",
    "sagemaker": "{kind: sagemaker, role: 'arn:aws:iam::123456789012:role/e', captures: 's3://captures', alarms: [a], "
    "inference_components: {batch: 20%, wait: 30s}}",
    "vertex": "{kind: vertex, captures: 'bq://a-project.captures.live'}",
    "azure-ml": "{kind: azure-ml, subscription: 0b1f6471-1bf0-4dda-aec3-cb9272f09590, group: ml, workspace: main}",
    "kubernetes": "{kind: kubernetes, captures: 's3://b/live', gateway: {name: public, hostname: models.example}, "
    "keda: {polling: 10s, triggers: [{type: cpu, metadata: {value: '60'}}]}}",
}
LONGEST = 120
"""Characters that a form of the Prefect UI has on a line."""


def schema_of(flow: Flow[..., Any]) -> dict[str, Any]:
    """What Prefect stores of a flow's parameters."""
    return parameter_schema(flow).model_dump_for_openapi()


def deployed_flows() -> list[str]:
    return [one["entrypoint"] for one in yaml.safe_load(prefect_file().read_text())["deployments"]]


@pytest.mark.parametrize("kind", known_targets())
def test_a_release_file_may_be_handed_to_a_worker(kind):
    more = "monitor: {window: 1h}\napprovals: [{before: shift, expires: 3d}]\nstrategy: {steps: [5%, 50%]}\n"
    spec = parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {TARGETS[kind]}\n{more}")
    handed = {"spec": spec.model_dump(mode="json"), "release_id": "r", "actor": "a"}
    assert validate(handed, schema_of(release), raise_on_error=True) == []
    assert release.validate_parameters(handed)["spec"] == spec


@pytest.mark.parametrize("flow", [release, monitor], ids=lambda flow: flow.name)
def test_a_release_file_may_be_named_and_nothing_else_takes_its_place(flow):
    for named in ("/srv/wine.yaml", "watched:wine", "model: wine\nartifact: /m\n"):
        assert validate({"spec": named}, schema_of(flow), raise_on_error=True) == []
        assert flow.validate_parameters({"spec": named})["spec"] == named
    for wrong in ({}, {"spec": ""}, {"spec": 7}, {"spec": None}, {"spec": ["/srv/wine.yaml"]}):
        with pytest.raises(ValidationError, match="spec"):
            validate(wrong, schema_of(flow), raise_on_error=True)


@pytest.mark.parametrize("flow", [release, monitor], ids=lambda flow: flow.name)
def test_the_form_asks_for_text_first_and_does_not_spell_the_release_file_out(flow):
    schema = schema_of(flow)
    assert [one["type"] for one in schema["properties"]["spec"]["anyOf"]] == ["string", "object"]
    assert schema["definitions"] == {}
    assert len(json.dumps(schema)) < 1500
    assert schema["properties"]["spec"]["position"] == 0


@pytest.mark.parametrize("entrypoint", deployed_flows())
def test_each_field_of_a_form_has_a_description_of_one_line(entrypoint):
    module, name = entrypoint.rsplit(".", 1)
    for field, shown in schema_of(getattr(import_module(module), name))["properties"].items():
        assert 0 < len(shown.get("description", "")) <= LONGEST, field
        # One of Prefect's two UIs shows Markdown as it is written.
        assert "`" not in shown["description"], field
