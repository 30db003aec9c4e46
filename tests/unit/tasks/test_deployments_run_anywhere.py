"""The deployments of prefect.yaml on workers of every kind: a flow run copies no folder, and stays in its own."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.runner._workspace_resolver import prepare_workspace
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from support.stack import prefect_settings

from headgate.stack.deployed import prefect_file

DESCRIBED = yaml.safe_load(prefect_file().read_text(encoding="utf-8"))


@pytest.mark.parametrize("entrypoint", [one["entrypoint"] for one in DESCRIBED["deployments"]])
def test_a_flow_run_in_a_container_copies_nothing_of_the_folder_that_it_starts_in(tmp_path, monkeypatch, entrypoint):
    """As `prefect flow-run execute` prepares it, which starts in / where an image names no folder."""
    started, workspace = tmp_path / "image", tmp_path / "workspace"
    started.mkdir()
    (started / "large").write_bytes(b"x")
    monkeypatch.chdir(started)
    deployment = SimpleNamespace(
        id=uuid.uuid4(), entrypoint=entrypoint, path=None, storage_document_id=None, pull_steps=DESCRIBED["pull"],
        name="local", version=None, job_variables={},
    )  # fmt: skip
    # Without an address Prefect would start a server of its own, for the logs of the run.
    with (
        prefect_settings({"PREFECT_API_URL": "http://127.0.0.1:9/api"}),
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}),
    ):
        prepared = asyncio.run(prepare_workspace(None, FlowRun(flow_id=uuid.uuid4()), deployment, workspace))
    assert list(workspace.iterdir()) == []
    assert prepared.working_directory == started
    assert prepared.runtime_entrypoint == entrypoint
