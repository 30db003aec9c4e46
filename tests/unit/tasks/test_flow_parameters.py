"""What a flow run is given passes Prefect's own look at it, whatever the target: its server refuses what does not."""

from __future__ import annotations

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.release import release
from headgate.release_file import parse_release
from headgate.target_settings import known_targets

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


@pytest.mark.parametrize("kind", known_targets())
def test_a_release_file_may_be_handed_to_a_worker(kind):
    more = "monitor: {window: 1h}\napprovals: [{before: shift, expires: 3d}]\nstrategy: {steps: [5%, 50%]}\n"
    spec = parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {TARGETS[kind]}\n{more}")
    handed = {"spec": spec.model_dump(mode="json"), "release_id": "r", "actor": "a"}
    schema = parameter_schema(release).model_dump_for_openapi()
    assert validate(handed, schema, raise_on_error=True) == []
    assert release.validate_parameters(handed)["spec"] == spec
