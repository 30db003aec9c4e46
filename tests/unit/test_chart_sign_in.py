"""How the chart's servers and those that ask them sign in: by the Secret, and with no password in any text."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.server.auth import is_unprotected_route
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import apply_values
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration
from support.chart import CHART, LEAST, MUCH, container, environment, pods, rendered, texts
from support.stack import prefect_settings

from deploy_targets.kubernetes.first_secret import values
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN

PASSWORD = "headgate:planted-in-the-environment-of-the-worker"
KUBERNETES = CHART.parents[2] / "docs" / "kubernetes.md"
BY_ITSELF = {**LEAST, "existingSecret": "mine"}


def referred(pod):
    """The variables of a pod that are keys of a Secret, as name, Secret and key."""
    entries = [(one["name"], one["valueFrom"]["secretKeyRef"]) for one in container(pod)["env"] if "valueFrom" in one]
    return {(name, one["name"], one["key"]) for name, one in entries}


@pytest.mark.parametrize(("given", "secret"), [(LEAST, "hg-secrets"), (MUCH, "mine")], ids=["least", "much"])
def test_each_server_has_its_sign_in_and_clients_have_theirs(given, secret):
    found = {name: referred(pod) for name, pod in pods(rendered(given)).items()}
    of_prefect = ("PREFECT_SERVER_API_AUTH_STRING", secret, PREFECT_SIGN_IN)
    of_mlflow = {
        ("MLFLOW_AUTH_ADMIN_USERNAME", secret, MLFLOW_USER), ("MLFLOW_AUTH_ADMIN_PASSWORD", secret, MLFLOW_PASSWORD),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", secret, "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    }  # fmt: skip
    assert {name for name, one in found.items() if of_prefect in one} == {"prefect"}
    assert {name for name, one in found.items() if of_mlflow & one} == {"mlflow"}
    assert of_mlflow <= found["mlflow"]
    clients = {
        key: {name for name, one in found.items() if (key, secret, key) in one}
        for key in (PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD)
    }
    release = {"guard", "flow-run", "connect"} | ({"worker"} if given is MUCH else set())
    assert clients == {
        PREFECT_SIGN_IN: release | {"receiver", "worker"}, MLFLOW_USER: release, MLFLOW_PASSWORD: release,
    }  # fmt: skip


def test_no_variable_of_a_sign_in_has_a_value_in_a_manifest():
    secret = {key for key in values("headgate", "db:5432") if key != "HEADGATE_JOURNAL_URL"}
    secret |= {"PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"}
    for given in (LEAST, MUCH):
        for pod in pods(rendered(given)).values():
            assert not secret & environment(pod).keys()
        pool = json.loads(rendered(given)["ConfigMap", "", "hg-pool"]["data"]["template.json"])
        assert not secret & pool["variables"]["properties"]["env"]["default"].keys()


def test_prefect_asks_for_a_token_too_and_hears_only_its_own_pages():
    def pages(given):
        known = environment(pods(rendered(given))["prefect"])
        assert known["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
        return known["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")

    own = ["http://localhost:4200", "http://127.0.0.1:4200"]
    assert pages(LEAST) == own
    assert pages({**LEAST, "prefect": {"uiApiUrl": "https://prefect.acme.com/api"}}) == [
        *own,
        "https://prefect.acme.com",
    ]
    assert pages({**LEAST, "prefect": {"uiApiUrl": "/api"}}) == own
    names = ("prefect.example", "prefect.other.example")
    assert set(pages(MUCH)) == {*own, *(f"{scheme}://{name}" for name in names for scheme in ("http", "https"))}


def test_mlflows_server_is_the_one_with_a_sign_in_and_its_settings_are_on_no_volume_that_stays():
    pod = pods(rendered(LEAST))["mlflow"]
    assert container(pod)["command"][:4] == ["python3", "-P", "-m", "tasks.mlflow_server"]
    known = environment(pod)
    assert known["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] == "true"
    folder = str(Path(known["MLFLOW_AUTH_CONFIG_PATH"]).parent)
    (mount,) = (one for one in container(pod)["volumeMounts"] if one["mountPath"] == folder)
    (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == mount["name"])
    assert "emptyDir" in volume


def test_mlflows_probes_need_no_sign_in():
    """Prefect's are asked of a server in tests/flows/test_chart_servers.py."""
    server = container(pods(rendered(LEAST))["mlflow"])
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert is_unprotected_route(server[kind]["httpGet"]["path"])


@pytest.mark.parametrize(("given", "secret"), [(LEAST, "hg-secrets"), (BY_ITSELF, "mine")], ids=["least", "existing"])
def test_the_worker_makes_jobs_with_the_sign_in_by_reference(monkeypatch, given, secret):
    """As Prefect's worker makes them, which puts its own settings into each Job."""
    found = rendered(given)
    template = json.loads(found["ConfigMap", "", "hg-pool"]["data"]["template.json"])
    own = {**environment(pods(found)["worker"]), PREFECT_SIGN_IN: PASSWORD, MLFLOW_PASSWORD: PASSWORD}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    asked = []

    async def create_namespaced_job(_, __, body):
        asked.append(body)
        return SimpleNamespace(metadata=SimpleNamespace(name="job", namespace="headgate"))

    client = type("Client", (), {"__init__": lambda *_: None, "create_namespaced_job": create_namespaced_job})
    monkeypatch.setattr("prefect_kubernetes.worker.BatchV1Api", client)
    properties = template["variables"]["properties"]
    default = {name: one["default"] for name, one in properties.items() if "default" in one} | {"name": "release"}
    with prefect_settings(own):
        prepared = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], default))
        prepared.prepare_for_flow_run(FlowRun(flow_id="00000000-0000-0000-0000-000000000000"))
        assert prepared.get_environment_variable_value(PREFECT_SIGN_IN) == PASSWORD, "it puts its own there"
        asyncio.run(KubernetesWorker(work_pool_name="headgate")._create_job(prepared, SimpleNamespace()))
    (body,) = asked
    assert PASSWORD not in json.dumps(body)
    (made,) = body["spec"]["template"]["spec"]["containers"]
    for key in (PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD):
        (entry,) = (one for one in made["env"] if one["name"] == key)
        assert entry == {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


@pytest.mark.parametrize(("given", "secret"), [(LEAST, "hg-secrets"), (BY_ITSELF, "mine")], ids=["least", "existing"])
def test_what_helm_says_at_the_end_signs_in(tmp_path, given, secret):
    """The lines that it shows are run by a shell, with a kubectl that knows one Secret."""
    (notes,) = (text for name, text in texts(given).items() if name.endswith("NOTES.txt"))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\n[ \"$1 $2 $3 $4 $5\" = 'get secret -n headgate {secret}' ] || exit 1\n"
        "printf 'of %s' \"$7\" | base64\n"
    )
    kubectl.chmod(0o755)
    lines = notes.splitlines()
    shown = [line for line in lines if line.startswith("  kubectl get secret")]
    begin = next(number for number, line in enumerate(lines) if line.startswith("  export PREFECT_API_URL="))
    script = "\n".join([*shown, "echo", *lines[begin : begin + 4], "env"])
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-ec", script], env=env, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == "of jsonpath={.data.PREFECT_API_AUTH_STRING}"
    for key in (PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD):
        assert f"{key}=of jsonpath={{.data.{key}}}" in rest
    assert "PREFECT_API_URL=http://localhost:4200/api" in rest
    assert "MLFLOW_TRACKING_URI=http://localhost:5000" in rest


def test_the_docs_command_adds_what_a_secret_of_an_earlier_version_lacks(tmp_path):
    """It is run by a shell, with a kubectl that keeps what it is told, and an openssl that makes as many bytes."""
    section = KUBERNETES.read_text().partition("keeps that pod from starting")[2]
    command = textwrap.dedent("  " + section.partition("  ```\n")[2].partition("  ```")[0].lstrip(" "))
    more = section.partition('`HEADGATE_SEALING_KEY` too, with `"HEADGATE_SEALING_KEY": "')[2].partition('"`')[0]
    programs = {
        "kubectl": f"#!/bin/sh\nprintf '%s ' \"$@\" > {tmp_path}/told\ncat > {tmp_path}/given\n",
        "openssl": f"#!{sys.executable}\nimport base64, os, sys\nmade = os.urandom(int(sys.argv[3]))\n"
        "print(made.hex() if sys.argv[2] == '-hex' else base64.encodebytes(made).decode())\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-euc", f"{command}\nprintf %s {more}"], env=env, capture_output=True, text=True, check=True
    )
    told = "patch secret headgate-secrets -n headgate --patch-file /dev/stdin "
    assert (tmp_path / "told").read_text() == told
    added = json.loads((tmp_path / "given").read_text())["stringData"]
    assert added.keys() == {PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY"}
    assert len(set(added.values())) == 4
    assert {len(one.removeprefix("headgate:")) for one in added.values()} == {64, len("headgate")}
    assert len(base64.urlsafe_b64decode(done.stdout)) == 64
