"""How the chart's pods are looked at, how long they may take to end, and who finds them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from inspect import signature
from types import SimpleNamespace

import httpx
import prefect.cli.worker
import pytest
from prefect.settings import Settings
from prefect.workers.server import build_healthcheck_server
from support.chart import LEAST, MUCH, container, environment, pods, rendered

from deploy_targets.kubernetes.names import GATEWAY
from headgate.home import Home
from tasks.guard import LOOKED
from tasks.receiver import make_app

PROCESS = {**LEAST, "worker": {"type": "process"}}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
OTHERS = (("prefect", "/api/health", 4200), ("mlflow", "/health", 5000), ("receiver", "/health", 8000))


@pytest.fixture(scope="module")
def least():
    return pods(rendered(LEAST))


def patience(pod, kind="livenessProbe"):
    """Seconds for which a probe may fail, with Kubernetes' default of three failures."""
    probe = container(pod)[kind]
    return probe["periodSeconds"] * probe.get("failureThreshold", 3)


def test_the_worker_serves_what_its_probes_ask(least, monkeypatch):
    worker = container(least["worker"])
    module, *told = worker["command"][3:]
    assert module == "tasks.worker"
    assert told == ["start", "--pool", "headgate", "--type", "kubernetes", "--with-healthcheck"]
    assert "with_healthcheck" in signature(prefect.cli.worker.start).parameters
    (port,) = worker["ports"]
    name = "PREFECT_WORKER_WEBSERVER_PORT"
    monkeypatch.setenv(name, environment(least["worker"])[name])
    assert Settings().worker.webserver.port == port["containerPort"]
    polls = [True]
    server = build_healthcheck_server(SimpleNamespace(is_worker_still_polling=lambda **_: polls[-1]), 10)

    async def answer(path):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.config.app), base_url="http://w") as client:
            return (await client.get(path)).status_code

    for kind in PROBES:
        asked = worker[kind]["httpGet"]
        assert asked["port"] == port["name"]
        for healthy, status in ((True, 200), (False, 503)):
            polls.append(healthy)
            assert asyncio.run(answer(asked["path"])) == status


def test_flow_runs_in_a_workers_pod_outlast_a_server_that_is_away_for_half_an_hour(least):
    assert patience(least["worker"]) == 60
    assert patience(pods(rendered(PROCESS))["worker"]) == 1800


@pytest.mark.parametrize(("age", "works"), [(0, True), (50, True), (70, False), (None, False)])
def test_the_guards_probe_fails_once_it_has_not_looked_for_a_minute(least, tmp_path, age, works):
    guard = container(least["guard"])
    file = f"{environment(least['guard'])['HEADGATE_HOME']}/{LOOKED}"
    if age is not None:
        (tmp_path / LOOKED).touch()
        then = time.time() - age
        os.utime(tmp_path / LOOKED, (then, then))
    for kind in PROBES:
        *shell, line = guard[kind]["exec"]["command"]
        assert shell == ["/bin/sh", "-c"]
        assert line.count(file) == 1
        there = [*shell, line.replace(file, str(tmp_path / LOOKED))]
        assert (subprocess.run(there, check=False, capture_output=True).returncode == 0) is works


@pytest.mark.parametrize(("component", "path", "number"), OTHERS)
def test_servers_are_asked_where_they_listen(least, component, path, number):
    server = container(least[component])
    (port,) = server["ports"]
    assert port["containerPort"] == number
    for kind in PROBES:
        assert server[kind]["httpGet"] == {"path": path, "port": port["name"]}


def test_what_hangs_is_started_anew_and_what_is_slow_is_not(least):
    """How long each program may fail its probe before it is started anew, when it starts and later."""
    found = {
        name: tuple(patience(pod, kind) for kind in ("startupProbe", "livenessProbe"))
        for name, pod in least.items() if "livenessProbe" in container(pod)
    }  # fmt: skip
    servers = dict.fromkeys(("prefect", "mlflow", "receiver"), (300, 120))
    assert found == {**servers, "postgresql": (1800, 120), "guard": (300, 45), "worker": (300, 60)}


def test_a_probe_has_time_on_a_busy_node(least):
    """Kubernetes' default is a second, in which a busy node has not started a command."""
    found = {
        (name, kind): (container(pod)[kind]["timeoutSeconds"], "exec" in container(pod)[kind])
        for name, pod in least.items() for kind in PROBES if kind in container(pod)
    }  # fmt: skip
    assert {name for name, _ in found} == {"prefect", "mlflow", "receiver", "postgresql", "guard", "worker"}
    assert set(found.values()) == {(5, False), (10, True)}


def test_the_database_is_asked_by_tcp(least):
    """At its socket a server answers too that only makes the databases."""
    for kind in PROBES:
        command = container(least["postgresql"])[kind]["exec"]["command"]
        assert command == ["pg_isready", "-h", "127.0.0.1", "-U", "headgate"]


@pytest.mark.parametrize(("values", "seconds"), [
    (LEAST, 30), (PROCESS, 600), (MUCH, 1200), ({**LEAST, "worker": {"graceSeconds": 45}}, 45),
])  # fmt: skip
def test_a_worker_that_carries_flow_runs_has_time_to_end_them(values, seconds):
    found = {name: pod["spec"].get("terminationGracePeriodSeconds") for name, pod in pods(rendered(values)).items()}
    assert found.pop("worker") == seconds
    assert set(found.values()) == {None}


@pytest.mark.parametrize("values", [LEAST, MUCH], ids=["least", "much"])
def test_each_service_finds_the_pods_of_one_program(values):
    found = rendered(values)
    for (kind, _, name), manifest in found.items():
        if kind != "Service" or name == GATEWAY:
            continue
        chosen = manifest["spec"]["selector"]
        (one,) = (pod for pod in pods(found).values() if chosen.items() <= pod["metadata"]["labels"].items())
        (asked,) = manifest["spec"]["ports"]
        assert asked["targetPort"] in {port["name"] for port in container(one)["ports"]}


def test_services_are_of_the_kind_that_is_wanted():
    found = rendered(MUCH)
    kinds = {name: found["Service", "", f"hg-{name}"]["spec"]["type"] for name in ("prefect", "mlflow", "receiver")}
    assert kinds == {"prefect": "LoadBalancer", "mlflow": "LoadBalancer", "receiver": "NodePort"}
    assert found["Service", "", "hg-prefect"]["metadata"]["annotations"] == {"internal": "true"}
    assert rendered(LEAST)["Service", "", "hg-prefect"]["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize(("component", "host"), [("prefect", "prefect"), ("mlflow", "models")])
def test_browsers_come_by_an_ingress_or_a_route(component, host):
    found = rendered(MUCH)
    (port,) = found["Service", "", f"hg-{component}"]["spec"]["ports"]
    ingress, route = found["Ingress", "", f"hg-{component}"], found["HTTPRoute", "", f"hg-{component}"]
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == f"{host}.example"
    (path,) = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": f"hg-{component}", "port": {"name": port["name"]}}}
    assert ingress["spec"]["tls"] == [{"secretName": f"{host}-tls", "hosts": [f"{host}.example"]}]
    assert (ingress["spec"]["ingressClassName"], ingress["metadata"]["annotations"]) == ("nginx", {"auth": "oauth2"})
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route["spec"]["hostnames"] == [f"{host}.other.example"]
    assert route["spec"]["rules"] == [{"backendRefs": [{"name": f"hg-{component}", "port": port["port"]}]}]


def test_nothing_is_open_to_the_outside_by_default():
    kinds = {kind for kind, _, _ in rendered(LEAST)}
    assert not kinds & {"Ingress", "HTTPRoute", "NetworkPolicy", "ServiceMonitor"}


def test_prometheus_finds_the_receiver(tmp_path):
    found = rendered(MUCH)
    monitor = found["ServiceMonitor", "", "hg-receiver"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    chosen = monitor["spec"]["selector"]["matchLabels"].items()
    services = {
        name: manifest for (kind, _, name), manifest in found.items()
        if kind == "Service" and chosen <= manifest["metadata"].get("labels", {}).items()
    }  # fmt: skip
    assert services.keys() == {"hg-receiver"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == "15s"
    assert endpoint["port"] in {port["name"] for port in services["hg-receiver"]["spec"]["ports"]}
    app = make_app(Home(tmp_path), secret="s", token="t", prefect_api="http://127.0.0.1:9/api", prefect_auth="")  # noqa: S106 - of nobody
    assert endpoint["path"] in {route.path for route in app.routes}
