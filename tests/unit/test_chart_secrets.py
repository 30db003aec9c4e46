"""The chart's passwords: none is rendered, a Job makes them once, and each pod has its own keys only."""

from __future__ import annotations

import base64

import pytest
from helm_python import HelmError
from sqlalchemy import make_url
from support.api_server import api_server, kubeconfig
from support.chart import CLOSED, LEAST, MUCH, container, job, pods, rendered, texts

from deploy_targets.kubernetes import first_secret
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN

SECRET = "/api/v1/namespaces/headgate/secrets/hg-secrets"
JOURNAL = "HEADGATE_JOURNAL_URL"
OF_RELEASES = {JOURNAL, "HEADGATE_SEALING_KEY", PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD}
WANTED = {
    "prefect": {"PREFECT_API_DATABASE_CONNECTION_URL", PREFECT_SIGN_IN},
    "mlflow": {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", MLFLOW_USER, MLFLOW_PASSWORD,
               "MLFLOW_FLASK_SERVER_SECRET_KEY"},
    "receiver": {JOURNAL, "HEADGATE_WEBHOOK_SECRET", "HEADGATE_ALERT_TOKEN", PREFECT_SIGN_IN},
    "guard": OF_RELEASES, "worker": {PREFECT_SIGN_IN}, "flow-run": OF_RELEASES,
    "connect": {"HEADGATE_WEBHOOK_SECRET", PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD},
    "postgresql": {"POSTGRES_PASSWORD"}, "first-secret": set(),
}  # fmt: skip
SERVERS = {
    "prefect": {"PREFECT_SERVER_API_AUTH_STRING": PREFECT_SIGN_IN},
    "mlflow": {"MLFLOW_AUTH_ADMIN_USERNAME": MLFLOW_USER, "MLFLOW_AUTH_ADMIN_PASSWORD": MLFLOW_PASSWORD},
}
"""Variables of servers that have another name than the key that is in them."""


def references(pod):
    """Every reference to a Secret in a pod, as name and key; None stands for all keys."""
    found = set()
    for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        for entry in one.get("env", []):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
                assert SERVERS.get(component, {}).get(entry["name"], entry["name"]) == reference["key"]
                assert reference["key"] not in SERVERS.get(component, {}).values() or entry["name"] != reference["key"]
                found.add((reference["name"], reference["key"]))
        found |= {(entry["secretRef"]["name"], None) for entry in one.get("envFrom", []) if "secretRef" in entry}
    found |= {(one["secret"]["secretName"], None) for one in pod["spec"].get("volumes", []) if "secret" in one}
    return found


@pytest.mark.parametrize(("values", "secret", "without"), [
    (LEAST, "hg-secrets", set()), (CLOSED, "hg-secrets", set()), (MUCH, "mine", {"postgresql", "first-secret"}),
    ({**LEAST, "existingSecret": "mine"}, "mine", {"first-secret"}),
], ids=["least", "closed", "much", "existing"])  # fmt: skip
def test_each_pod_has_its_own_keys_only(values, secret, without):
    found = pods(rendered(values))
    assert found.keys() == WANTED.keys() - without
    for component, pod in found.items():
        carries = component == "worker" and values.get("worker", {}).get("type") == "process"
        wanted = {(secret, key) for key in (OF_RELEASES if carries else WANTED[component])}
        if values is MUCH and component in ("guard", "worker", "flow-run"):
            wanted.add(("keys", None))
        assert references(pod) == wanted, component


def test_the_secret_that_is_made_has_the_keys_that_pods_read():
    assert set().union(*WANTED.values()) == set(first_secret.KEYS)


def test_keys_of_the_artifacts_store_are_mlflows_alone():
    found = pods(rendered({**LEAST, "mlflow": {"envFrom": [{"secretRef": {"name": "store"}}]}}))
    assert {name for name, pod in found.items() if ("store", None) in references(pod)} == {"mlflow"}


@pytest.mark.parametrize("values", [LEAST, MUCH, CLOSED], ids=["least", "much", "closed"])
def test_the_same_values_give_the_same_bytes(values):
    assert texts(values) == texts(values)
    kinds = {kind for kind, _, _ in rendered(values)}
    assert "Deployment" in kinds
    assert "Secret" not in kinds


def test_a_database_of_ones_own_needs_its_passwords():
    with pytest.raises(HelmError, match="existingSecret has to name a Secret"):
        rendered({**LEAST, "database": {"host": "db.example"}})


def test_the_job_makes_the_secret_that_pods_read_with_the_rights_that_it_has(tmp_path, monkeypatch, capsys):
    found = rendered({**LEAST, "database": {"port": 5433, "user": "people"}})
    command = container(pods(found)["first-secret"])["command"]
    assert command[:4] == ["python3", "-P", "-m", first_secret.__name__]
    with api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.port)))
        assert first_secret.main(command[4:]) == 0, capsys.readouterr().err
        made = server.objects[SECRET]["stringData"]
        server.objects[SECRET]["data"] = {key: base64.b64encode(one.encode()).decode() for key, one in made.items()}
        assert first_secret.main(command[4:]) == 0, capsys.readouterr().err
        asked = [(verb, path) for verb, path, _ in server.asked]
    folder = SECRET.rpartition("/")[0]
    assert asked == [("POST", folder), ("POST", folder), ("GET", SECRET)]
    assert found["Role", "", "hg-first-secret"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["hg-secrets"], "verbs": ["get"]},
    ]
    (port,) = found["Service", "", "hg-postgresql"]["spec"]["ports"]
    for url in (make_url(text) for text in made.values() if "://" in text):
        assert (url.username, url.host, url.port) == ("people", "hg-postgresql", port["port"])


def test_helm_runs_it_before_all_else_and_removes_what_it_needed():
    found = rendered(LEAST)
    one = job(found, "first-secret")
    account = "hg-first-secret"
    assert one["spec"]["template"]["spec"]["serviceAccountName"] == account
    before = [found[kind, "", account] for kind in ("ServiceAccount", "Role", "RoleBinding")]
    for manifest in (one, *before):
        notes = manifest["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    last = int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
    assert all(int(manifest["metadata"]["annotations"]["helm.sh/hook-weight"]) < last for manifest in before)
    binding = found["RoleBinding", "", account]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "headgate"}]


def test_nothing_is_made_where_there_is_a_secret():
    assert not [name for _, _, name in rendered(MUCH) if "first-secret" in name]
