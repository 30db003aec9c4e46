"""What a real Envoy counts of each way in which an answer can end, and what the judge is given of it."""

from __future__ import annotations

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.cutting import Cutting, cutting
from support.stack import start_gateway, wait_for

from deploy_targets import envoy_counts
from deploy_targets.envoy import Gateway
from deploy_targets.kubernetes.gateways import _RETRIES
from deploy_targets.server_address import ServerAddress
from headgate.gateway_limits import EndpointLimits
from headgate.records import ModelVersion, Traffic
from headgate.stack import Ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.counts import Counts

VERSION = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)
LIMITS = EndpointLimits(request=0.3)
"""Seconds: what takes longer is cut."""
EACH = 5
NUMBERS = count()
NO_ANSWER = "no answer"

ENDS = {
    # By what the server does: what the client gets, and whether it is the version's failure.
    "ok": (200, 0), "until close": (200, 0), "ok and close": (200, 0),
    "400": (400, 1), "500": (500, 1), "503": (503, 1), "504": (504, 1),
    "close": (NO_ANSWER, 1), "close chunked": (NO_ANSWER, 1), "reset": (NO_ANSWER, 1), "garbage": (NO_ANSWER, 1),
    "stall": (NO_ANSWER, 1), "mute": (504, 1), "gone": (503, 1), "gone by reset": (503, 1),
    "half a head": (502, 1), "no head": (502, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with start_gateway(tmp_path_factory.mktemp("counts")) as started:
        yield started


class Asked:
    """One version behind the gateway, whose server does what a test plans."""

    def __init__(self, home, hosts: ExitStack) -> None:
        ports = Ports.remembered(home)
        # Envoy keeps the counters of a removed cluster for a moment: the next one of its name would begin with them.
        self.endpoint = f"wine-{next(NUMBERS)}"
        self.gateway, self.url = Gateway(home.gateway, ports), f"{ports.gateway_url}/{self.endpoint}/invocations"
        self.hosts, self.port, self.server = hosts, ports.gateway, hosts.enter_context(cutting())
        self.client = hosts.enter_context(httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=0)))
        self.gateway.add(self.endpoint, "v1", ServerAddress.of(self.server.address), VERSION, LIMITS)
        self.gateway.set_traffic(self.endpoint, Traffic.all_to("v1"))
        self.before = self.counts()

    def counts(self, revision: str = "v1") -> Counts:
        return self.gateway.counts(self.endpoint)[revision]

    def since(self) -> tuple[int, int]:
        """Requests and failures since the test began."""
        counted = self.counts().since(self.before)
        return counted.requests, counted.failures

    def expect(self, requests: int, failures: int) -> None:
        """Wait until so much was counted since the test began; say what was where it is something else."""
        with suppress(AssertionError):
            wait_for(lambda: self.since() == (requests, failures), 20)
        assert self.since() == (requests, failures)

    def add(self, revision: str) -> Cutting:
        """Another version, whose server is returned."""
        server = self.hosts.enter_context(cutting())
        self.gateway.add(self.endpoint, revision, ServerAddress.of(server.address), VERSION, LIMITS)
        self.hosts.callback(self.gateway.remove, self.endpoint, revision)
        self.hosts.callback(self.gateway.set_traffic, self.endpoint, None)
        return server

    def configure(
        self, retry_policy: Mapping[str, Any] | None = None, cluster: str = "", more: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Have the gateway ask again, ask another cluster for v1's requests, and never look at a server's health."""
        clusters, table = (self.gateway._read(name)["resources"] for name in ("clusters", "routes"))
        for one in clusters:
            one.pop("health_checks", None)
        self.gateway._write("clusters", [*clusters, *more])
        for way in table[0]["virtual_hosts"][0]["routes"]:
            if "route" in way:
                way["route"] |= {"retry_policy": retry_policy} if retry_policy else {}
                for weighted in way["route"]["weighted_clusters"]["clusters"] if cluster else ():
                    weighted["name"] = cluster
        marker = f"{retry_policy} {cluster} {len(clusters)}"
        table[0]["metadata"]["filter_metadata"]["test"] = {"marker": marker}
        self.gateway._write("routes", table)
        wait_for(lambda: marker in str(self.gateway._get("/config_dump", resource="dynamic_route_configs")))
        wait_for(lambda: "health_checks" not in str(self.gateway._get("/config_dump", mask="dynamic_active_clusters")))
        wait_for(lambda: "warming" not in str(self.gateway._get("/config_dump", resource="dynamic_warming_clusters")))
        self.before = self.counts()

    def ask(self, body: bytes = b"1") -> object:
        try:
            return self.client.post(self.url, content=body).status_code
        except httpx.RemoteProtocolError:
            return NO_ANSWER

    def leave(self, after_headers: bool) -> None:
        """Ask as a client that is gone before the answer, or in the middle of it."""
        had = len(self.server.received)
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            head = f"POST /{self.endpoint}/invocations HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\n"
            client.sendall(head.encode() + b"1")
            if after_headers:
                assert client.recv(10) == b"HTTP/1.1 2"
            wait_for(lambda: len(self.server.received) > had)


@pytest.fixture
def asked(home):
    with ExitStack() as hosts:
        made = Asked(home, hosts)
        yield made
        made.gateway.set_traffic(made.endpoint, None)
        made.gateway.remove(made.endpoint, "v1")


@pytest.mark.parametrize("what", ENDS)
def test_each_end_of_an_answer_is_counted_once(asked, what):
    told, is_failure = ENDS[what]
    for number in range(1, EACH + 1):
        asked.server.plan.append(what)
        assert asked.ask() == told
        asked.expect(number, number * is_failure)
    asked.ask()
    asked.expect(EACH + 1, EACH * is_failure)


@pytest.mark.parametrize(("does", "after_headers"), [("stall", True), ("mute", False)])
def test_a_client_that_leaves_is_no_failure(asked, does, after_headers):
    for _ in range(EACH):
        asked.server.plan.append(does)
        asked.leave(after_headers)
    asked.ask()
    # What was not answered is no trial either.
    asked.expect(EACH * after_headers + 1, 0)
    asked.server.plan.append("close")
    assert asked.ask() == NO_ANSWER
    asked.expect(EACH * after_headers + 2, 1)


def test_health_checks_that_are_cut_are_no_requests(asked):
    asked.server.ping = "close"
    wait_for(lambda: not asked.gateway.revisions(asked.endpoint)["v1"].ready)
    assert asked.since() == (0, 0)
    asked.server.ping = "ok"
    wait_for(lambda: asked.gateway.revisions(asked.endpoint)["v1"].ready)
    asked.ask()
    asked.expect(1, 0)


def test_ends_of_all_kinds_one_after_the_other_hide_none_of_each_other(asked):
    requests = failures = 0
    for what in (*ENDS, *reversed(ENDS)):
        asked.server.plan.append(what)
        asked.ask()
        requests, failures = requests + 1, failures + ENDS[what][1]
        asked.expect(requests, failures)


@pytest.mark.parametrize(("what", "size"), [("ok", 1), ("ok", 5_000_000), ("ok and close", 1), ("413 and close", 1)])
def test_an_answer_before_the_body_was_read_is_whole(asked, what, size):
    asked.server.early = True
    for number in range(1, EACH + 1):
        asked.server.plan.append(what)
        assert asked.ask(b"x" * size) == (413 if what == "413 and close" else 200)
        asked.expect(number, number * (what == "413 and close"))


def test_no_client_sees_how_answers_are_told_apart(asked):
    answer = asked.client.post(asked.url, content=b"1", headers={envoy_counts.MARK: "true"})
    assert answer.status_code == 200
    assert envoy_counts.MARK not in answer.headers


def test_what_is_read_while_requests_end_is_never_more_than_is_so(asked):
    """All ways at once, by many clients, and a look at every moment."""
    many = 12
    asked.server.plan, number = list(ENDS) * many, len(ENDS) * many
    looks: list[tuple[int, int]] = []
    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(asked.ask) for _ in range(number)]
        while not all(one.done() for one in running):
            looks.append(asked.since())
        told = Counter(one.result() for one in running)
    bad = number - told[200]
    assert bad == many * sum(failed for _, failed in ENDS.values())
    asked.expect(number, bad)
    assert max(failures for _, failures in looks) <= bad
    assert len(looks) > 10


ON_ALL = {"retry_on": "5xx,reset,connect-failure,retriable-4xx", "num_retries": 2}
POLICIES = {"0 retries": (None, 0), "those of a cluster": (_RETRIES, 2), "of all failures": (ON_ALL, 2)}


@pytest.mark.parametrize("policy", POLICIES)
def test_each_attempt_at_a_dead_server_is_counted_once(asked, policy):
    retries, times = POLICIES[policy]
    asked.configure(retries)
    asked.server.stop()
    told = [asked.ask() for _ in range(EACH)]
    asked.server.start()
    assert told == [503] * EACH
    asked.expect(EACH * (1 + times), EACH * (1 + times))
    asked.ask()
    asked.expect(EACH * (1 + times) + 1, EACH * (1 + times))


def test_a_server_that_fails_its_health_checks_fails_each_request_once(asked):
    asked.server.stop()
    told = [asked.ask() for _ in range(EACH)]
    wait_for(lambda: not asked.gateway.revisions(asked.endpoint)["v1"].ready)
    told += [asked.ask() for _ in range(EACH)]
    asked.server.start()
    assert told == [503] * (2 * EACH)
    asked.expect(2 * EACH, 2 * EACH)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_comes_and_goes_fails_while_it_is_gone(asked, policy):
    retries, times = POLICIES[policy]
    asked.configure(retries)
    told = []
    for _ in range(EACH):
        asked.server.stop()
        told.append(asked.ask())
        asked.server.start()
        told.append(asked.ask())
    assert told == [503, 200] * EACH
    asked.expect(EACH * (2 + times), EACH * (1 + times))


@pytest.mark.parametrize("what", ["409", "500", "gone", "half a head", "no head", "mute", "stall", "close"])
def test_a_failure_that_a_second_attempt_hides_is_counted(asked, what):
    asked.configure(ON_ALL)
    told = []
    for _ in range(EACH):
        asked.server.plan = [what]
        told.append(asked.ask())
    # A time limit is of all attempts, and headers that were sent cannot be taken back.
    is_hidden = what not in {"mute", "stall", "close"}
    assert told == ([200] * EACH if is_hidden else [ENDS[what][0]] * EACH)
    asked.expect(EACH * (1 + is_hidden), EACH)
    assert asked.counts().since(asked.before).client_errors == EACH * (what == "409")


@pytest.mark.parametrize("what", ["dead", "gone"])
def test_a_version_in_whose_place_another_answers_is_not_a_quiet_one(asked, what):
    other, both = asked.add("v2"), f"{asked.endpoint}--both"
    priorities = {
        "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "update_frequency": 1,
    }
    retry = {**ON_ALL, "retry_priority": {"name": "envoy.retry_priorities.previous_priorities",
                                          "typed_config": priorities}}  # fmt: skip
    failover = {
        "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
        "clusters": [f"{asked.endpoint}--v1", f"{asked.endpoint}--v2"],
    }
    cluster = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": both, "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": failover},
        "metadata": {"filter_metadata": {"headgate": {"endpoint": "other", "revision": "both"}}},
    }  # fmt: skip
    asked.configure(retry, both, [cluster])
    asked.server.plan = ["gone"] * EACH
    if what == "dead":
        asked.server.stop()
    told = [asked.ask() for _ in range(EACH)]
    asked.server.start() if what == "dead" else None
    assert told == [200] * EACH
    assert len(other.received) == EACH
    asked.expect(EACH, EACH)
    # Such an attempt is a trial besides those that were answered here.
    asked.gateway.set_traffic(asked.endpoint, None)
    asked.gateway.set_traffic(asked.endpoint, Traffic.all_to("v1"))
    wait_for(lambda: asked.ask() == 200 and len(asked.server.received) > EACH * (what == "gone"))
    asked.before = asked.counts()
    asked.ask()
    asked.expect(1, 0)
