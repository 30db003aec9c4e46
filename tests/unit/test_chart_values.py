"""What may be said in the chart's values: each has a type and a description, and Helm refuses what has none."""

from __future__ import annotations

import json

import pytest
import yaml
from helm_python import HelmError
from support.chart import CLOSED, DIGEST, LEAST, MUCH, SCHEMA, VALUES, rendered

from headgate.errors import BadInputError
from headgate.limits import (
    GATEWAY_CONNECTIONS,
    GATEWAY_DRAIN,
    GATEWAY_HEADER_SIZE,
    GATEWAY_HEADERS,
    GATEWAY_IDLE,
    GATEWAY_MEMORY,
    GATEWAY_UPLOAD,
    number_of,
    seconds_of,
)

FREE = {
    "affinity", "global", "nodeSelector", "serviceMonitor.labels", "worker.annotations", "worker.env",
    *(f"{name}.{part}" for name in ("prefect", "mlflow") for part in (
        "service.annotations", "ingress.annotations", "httpRoute.annotations",
    )),
    "receiver.service.annotations",
    *(f"{name}.resources.{part}" for name in (
        "database", "prefect", "mlflow", "receiver", "guard", "jobs", "worker", "gateway",
    ) for part in ("requests", "limits")),
}  # fmt: skip
"""What people name themselves, or Kubernetes does."""
KUBERNETES = {
    "affinity", "global", "mlflow.envFrom[]", "networkPolicies.clients[]", "networkPolicies.monitoring[]",
    "networkPolicies.egress[]", "tolerations[]", "topologySpreadConstraints[]", "hostAliases[]", "worker.envFrom[]",
    "worker.volumes[]", "worker.volumeMounts[]",
    *(f"{name}.resources.claims[]" for name in (
        "database", "prefect", "mlflow", "receiver", "guard", "jobs", "worker", "gateway",
    )),
}  # fmt: skip
"""Objects whose fields are those of Kubernetes' API, which refuses them itself."""


@pytest.fixture(scope="module")
def schema():
    return json.loads(SCHEMA.read_text())


def parts(schema, path=""):
    """Each part of a schema, by its path; `[]` is an entry of a list, `{}` a value of a free name."""
    yield path, schema
    for name, one in schema.get("properties", {}).items():
        yield from parts(one, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from parts(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from parts(schema["additionalProperties"], f"{path}{{}}")


def test_every_value_has_a_type_and_a_description(schema):
    for path, one in parts(schema):
        assert one.get("type"), path
        assert len(one.get("description", "")) > 5, path


def test_only_what_is_free_takes_any_name(schema):
    objects = {path: one for path, one in parts(schema) if one["type"] == "object"}
    assert len(objects) > 30
    assert {path for path, one in objects.items() if one.get("additionalProperties") is not False} == FREE | KUBERNETES


def test_it_has_the_values_that_there_are(schema):
    def names(values, known, path=""):
        for name, value in values.items():
            yield f"{path}{name}"
            if isinstance(value, dict) and "properties" in known.get("properties", {}).get(name, {}):
                yield from names(value, known["properties"][name], f"{path}{name}.")

    given = set(names(yaml.safe_load(VALUES.read_text()), schema))
    described = {
        path for path, _ in parts(schema) if path and "[" not in path and "{" not in path and path != "global"
    }  # fmt: skip
    # Parts of resources are Kubernetes' own; few have all of them.
    described = {path for path in described if ".resources." not in path}
    assert {path for path in given if ".resources." not in path} == described


@pytest.mark.parametrize(("path", "variable"), [
    ("limits.connections", GATEWAY_CONNECTIONS), ("limits.memoryMiB", GATEWAY_MEMORY),
    ("limits.headersKiB", GATEWAY_HEADER_SIZE), ("timeouts.headersSeconds", GATEWAY_HEADERS),
    ("timeouts.uploadSeconds", GATEWAY_UPLOAD), ("timeouts.idleSeconds", GATEWAY_IDLE),
    ("timeouts.drainSeconds", GATEWAY_DRAIN),
])  # fmt: skip
def test_a_limit_of_the_gateway_may_be_what_its_variable_may_be(schema, monkeypatch, path, variable):
    kind, name = path.split(".")
    entry = schema["properties"]["gateway"]["properties"][kind]["properties"][name]
    read = number_of if kind == "limits" else seconds_of
    for bound, beyond in ((entry["minimum"], -1), (entry["maximum"], 1)):
        monkeypatch.setenv(variable, str(bound))
        assert read(variable) == bound
        monkeypatch.setenv(variable, str(bound + beyond))
        with pytest.raises(BadInputError, match=variable):
            read(variable)


@pytest.mark.parametrize(("values", "says"), [
    ({"databse": {"host": "db.example"}}, r"additional properties 'databse' not allowed"),
    ({"database": {"hots": "db.example"}}, r"at '/database': additional properties 'hots' not allowed"),
    ({"prefect": {"ingress": {"hosts": ["a"]}}}, r"at '/prefect/ingress': additional properties 'hosts'"),
    ({"targets": [{"namespace": "models", "kedda": True}]}, r"at '/targets/0': additional properties 'kedda'"),
    ({"targets": [{"keda": True}]}, r"at '/targets/0': missing property 'namespace'"),
    ({"worker": {"type": "docker"}}, r"at '/worker/type': value must be one of 'kubernetes', 'process'"),
    ({"worker": {"replicas": "two"}}, r"at '/worker/replicas': got string, want integer"),
    ({"worker": {"graceSeconds": 0}}, r"at '/worker/graceSeconds': minimum: got 0, want 1"),
    ({"database": {"image": "postgres"}}, r"at '/database/image': 'postgres' does not match pattern"),
    ({"database": {"image": "postgres@sha256:ab"}}, r"at '/database/image': .* does not match pattern"),
    ({"image": {"repository": "r", "digest": "ab"}}, r"at '/image/digest': 'ab' does not match pattern"),
    ({"prefect": {"service": {"type": "Ingress"}}}, r"at '/prefect/service/type': value must be one of"),
    ({"gateway": {"limits": {"body": 1}}}, r"at '/gateway/limits': additional properties 'body' not allowed"),
    ({"gateway": {"limits": {"connections": 15}}}, r"at '/gateway/limits/connections': minimum: got 15, want 16"),
    ({"gateway": {"timeouts": {"idleSeconds": "75s"}}}, r"at '/gateway/timeouts/idleSeconds': got string, want number"),
])  # fmt: skip
def test_what_is_wrong_is_refused_by_its_name(values, says):
    with pytest.raises(HelmError, match=says):
        rendered({**LEAST, **values})


@pytest.mark.parametrize(("values", "says"), [
    ({}, r"image\.repository has to name an image"),
    ({**LEAST, "prefect": {"ingress": {"enabled": True}}}, r"prefect\.ingress\.host has to be the name"),
    ({**LEAST, "mlflow": {"httpRoute": {"enabled": True}}}, r"mlflow\.httpRoute\.parentRefs has to name a Gateway"),
])  # fmt: skip
def test_what_is_missing_is_named(values, says):
    with pytest.raises(HelmError, match=says):
        rendered(values)


@pytest.mark.parametrize("values", [
    LEAST, MUCH, CLOSED, {**LEAST, "global": {"of": "a chart around this one"}},
    {**LEAST, "database": {"image": f"registry.example:5000/postgres:17@{DIGEST}"}},
    {**LEAST, "worker": {"env": {"A": 1, "B": True, "C": "x"}}},
])  # fmt: skip
def test_what_is_right_is_taken(values):
    assert ("Deployment", "", "hg-worker") in rendered(values)
