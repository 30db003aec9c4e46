"""The chart's network policies, read as a cluster does: who reaches whom, and nobody else."""

from __future__ import annotations

from itertools import product

import pytest
from support.chart import CLOSED, MUCH, pods, rendered

PORTS = {"prefect": 4200, "mlflow": 5000, "receiver": 8000, "postgresql": 5432}
RELEASES = ("guard", "worker", "flow-run")
NEEDED = {
    ("prefect", "postgresql"), ("mlflow", "postgresql"), ("receiver", "postgresql"), ("mlflow", "receiver"),
    ("receiver", "prefect"), ("connect", "prefect"), ("connect", "mlflow"),
    ("worker", "prefect"),
    *((one, server) for one in ("guard", "flow-run") for server in ("postgresql", "prefect", "mlflow")),
}  # fmt: skip
KUBERNETES_API = {"first-secret", *RELEASES}


class Network:
    """Evaluates the policies of what was rendered."""

    def __init__(self, values):
        found = rendered(values)
        self.policies = [manifest["spec"] for (kind, _, _), manifest in found.items() if kind == "NetworkPolicy"]
        self.labels = {name: pod["metadata"]["labels"] for name, pod in pods(found).items()}

    def _rules(self, name, direction):
        """The rules of a pod in one direction; None where no policy chooses it, so that all is allowed."""
        chosen = [
            one for one in self.policies
            if one["podSelector"]["matchLabels"].items() <= self.labels[name].items()
            and direction.capitalize() in one["policyTypes"]
        ]  # fmt: skip
        return [rule for one in chosen for rule in one.get(direction, [])] if chosen else None

    def reaches(self, one, other, port):
        out, into = self._rules(one, "egress"), self._rules(other, "ingress")
        return self._allows(out, "to", other, port) and self._allows(into, "from", one, port)

    def _allows(self, rules, key, peer, port):
        if rules is None:
            return True
        for rule in rules:
            peers = [one["podSelector"]["matchLabels"] for one in rule.get(key, []) if one.keys() == {"podSelector"}]
            is_peer = key not in rule or any(one.items() <= self.labels[peer].items() for one in peers)
            if is_peer and (port, "TCP") in ports(rule):
                return True
        return False

    def outside(self, name):
        """The ports at which a pod reaches any address."""
        rules = self._rules(name, "egress")
        assert rules is not None, f"no policy chooses {name}"
        return {port for rule in rules if "to" not in rule for port in ports(rule)}

    def peers(self, name):
        """Who may ask a pod, besides pods of the release."""
        rules = self._rules(name, "ingress")
        assert rules is not None, f"no policy chooses {name}"
        return [one for rule in rules for one in rule["from"] if "namespaceSelector" in one]


def ports(rule):
    return {(one["port"], one["protocol"]) for one in rule.get("ports", [])}


@pytest.fixture(scope="module")
def closed():
    return Network(CLOSED)


@pytest.fixture(scope="module")
def much():
    return Network(MUCH)


def test_each_reaches_what_it_needs_and_nothing_else(closed):
    assert len(closed.labels) == 9
    pairs = {
        (one, other) for one, other in product(closed.labels, repeat=2)
        for port in PORTS.values() if one != other and closed.reaches(one, other, port)
    }  # fmt: skip
    assert pairs == NEEDED
    for one, other in NEEDED:
        assert [port for port in PORTS.values() if closed.reaches(one, other, port)] == [PORTS[other]]


def test_a_worker_that_carries_flow_runs_reaches_what_they_need():
    carries = Network({**CLOSED, "worker": {"type": "process"}})
    reached = {other for other, port in PORTS.items() if carries.reaches("worker", other, port)}
    assert reached == {"postgresql", "prefect", "mlflow"}


@pytest.mark.parametrize("kind", ["kubernetes", "process"])
def test_who_has_a_databases_address_reaches_it(kind):
    values = {**CLOSED, "worker": {"type": kind}}
    closed, found = Network(values), pods(rendered(values))
    for name, pod in found.items():
        keys = {one["name"] for one in pod["spec"]["containers"][0]["env"] if "valueFrom" in one}
        has_address = any(key.endswith(("_URL", "_URI")) for key in keys)
        assert closed.reaches(name, "postgresql", 5432) is has_address, name


def test_the_outside_is_the_clusters_dns_and_the_ports_that_are_given(closed):
    dns = {(53, "UDP"), (53, "TCP")}
    given = {(443, "TCP"), (6443, "TCP")}
    for name in closed.labels:
        wanted = dns | (given if name in KUBERNETES_API | {"prefect"} else set())
        assert closed.outside(name) == wanted, name


def test_nobody_from_elsewhere_asks_by_default(closed):
    assert [one for name in closed.labels for one in closed.peers(name)] == []


def test_a_database_of_ones_own_and_a_store_are_outside(much):
    assert "postgresql" not in much.labels
    for name in much.labels:
        assert ((6432, "TCP") in much.outside(name)) is (name != "connect"), name
    assert (443, "TCP") in much.outside("mlflow"), "its artifacts are in a bucket"
    assert (6443, "TCP") not in much.outside("worker")


def test_more_may_ask_and_be_asked_where_values_say(much):
    (client,), (monitoring,) = MUCH["networkPolicies"]["clients"], MUCH["networkPolicies"]["monitoring"]
    assert {name: much.peers(name) for name in much.labels if much.peers(name)} == {
        "prefect": [client], "mlflow": [client], "receiver": [client, monitoring],
    }  # fmt: skip
    beside = Network({**CLOSED, "networkPolicies": {"enabled": True, "clients": [client]}})
    assert beside.peers("postgresql") == [client], "people's journal is the release's"
    (rule,) = MUCH["networkPolicies"]["egress"]
    assert {name for name in much.labels if rule in much._rules(name, "egress")} == set(RELEASES)
