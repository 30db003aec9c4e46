"""The chart's Prefect and MLflow servers as they are rendered, run here on a real PostgreSQL: who may ask them."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from support import watched_logs
from support.chart import LEAST, container, pods, rendered
from support.journals import running_postgres
from support.own_servers import is_well, running
from support.stack import HEADGATE, http, wait_for

from deploy_targets.kubernetes.first_secret import values
from headgate.sign_in import MLFLOW_PASSWORD, PREFECT_SIGN_IN, PrefectSignIn, mlflow_sign_in
from headgate.stack.ports import HOST, free_port

POD = {"host": "10.1.2.3:4200"}
"""By what name the kubelet asks."""


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """The chart's Secret, of a PostgreSQL with its databases."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.create("prefect", "mlflow")
        url = make_url(server.url)
        yield values("headgate", f"{url.host}:{url.port}")


def given(told, secret, here):
    """The environment of a container, with the Secret's values and with what is another path here."""
    return {
        one["name"]: here(one["value"]) if "value" in one else secret[one["valueFrom"]["secretKeyRef"]["key"]]
        for one in told["env"]
    }


@contextmanager
def server(component, secret, folder):
    """Run a server's container as a process, with folders of its own; gives its address."""
    told = container(pods(rendered(LEAST))[component])
    ours = {"/var/lib/headgate": str(folder / "home"), "/tmp": str(folder / "tmp"), "0.0.0.0": HOST}  # noqa: S104, S108 - what is replaced
    (listens,) = (one["containerPort"] for one in told["ports"])
    port = free_port(for_what=component)
    ours[f"{listens}"] = str(port)
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)

    def here(text):
        # At once, as what is put in may have the name of another one in it.
        return re.sub(rf"(?<![\w.])({'|'.join(map(re.escape, ours))})(?![\w.])", lambda one: ours[one[0]], text)

    env = given(told, secret, here)
    command = [here(one) for one in told["command"]]
    assert command[:3] == ["python3", "-P", "-m"]
    url = f"http://{HOST}:{port}"
    watched_logs.watch(folder)
    with running(folder, component, *command[3:], **env):
        wait_for(lambda: is_well(url + told["readinessProbe"]["httpGet"]["path"]), 120)
        yield url, told
    watched_logs.unwatch(folder)


@contextmanager
def database(url):
    """Connect to a database of the Secret."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def probed(url, told):
    """What the probes are answered, by a kubelet that does not sign in."""
    paths = {told[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    return {http.get(url + path, headers=POD).status_code for path in paths}


def test_prefect_asks_all_but_probes_for_a_password(tmp_path, secret):
    with server("prefect", secret, tmp_path) as (url, told):
        assert probed(url, told) == {200}
        name, _, password = secret[PREFECT_SIGN_IN].partition(":")
        asked = f"{url}/api/deployments/filter"
        for auth in (None, (name, "a wrong password")):
            assert http.post(asked, json={}, auth=auth).status_code == 403
            assert http.get(f"{url}/api/admin/settings", auth=auth).status_code == 401
        assert http.post(asked, json={}, auth=(name, password)).status_code == 403, "it has no token"
        signed = PrefectSignIn.of(f"{url}/api", secret)
        assert http.post(asked, json={}, auth=signed).json() == []
        assert http.get(f"{url}/api/admin/settings", auth=signed).is_success
    with database(secret["PREFECT_API_DATABASE_CONNECTION_URL"].replace("+asyncpg", "+psycopg")) as connection:
        assert "flow_run" in sa.inspect(connection).get_table_names()


def test_mlflow_asks_all_but_probes_for_a_password_that_the_secret_may_change(tmp_path, secret):
    signed = mlflow_sign_in(secret)
    changed = {**secret, MLFLOW_PASSWORD: "another password of the Secret"}

    def answers(url, auth):
        """Of each of its processes, most probably: the connections are new."""
        asked = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept"
        return {http.get(asked, auth=auth, headers={"connection": "close"}).status_code for _ in range(12)}

    with server("mlflow", secret, tmp_path) as (url, told):
        assert probed(url, told) == {200}
        assert http.post(f"{url}/api/2.0/mlflow/experiments/create", json={"name": "kept"}, auth=signed).is_success
        assert answers(url, signed) == {200}
        for auth in (None, httpx.BasicAuth("headgate", "a wrong password"), mlflow_sign_in(changed)):
            assert answers(url, auth) == {401}
    with database(secret["MLFLOW_BACKEND_STORE_URI"]) as connection:
        assert connection.execute(sa.text("SELECT username, is_admin FROM users")).all() == [("headgate", True)]
    kept = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert kept == [], "users are in PostgreSQL, and settings in /tmp"
    assert (tmp_path / "tmp" / "basic_auth.ini").stat().st_mode & 0o077 == 0
    with server("mlflow", changed, tmp_path) as (url, _):
        assert answers(url, mlflow_sign_in(changed)) == {200}
        assert answers(url, signed) == {401}


def test_the_job_that_connects_the_servers_signs_in_to_both(tmp_path, secret):
    found = rendered(LEAST)
    told = container(pods(found)["connect"])
    template = tmp_path / "template.json"
    template.write_text(found["ConfigMap", "", "hg-pool"]["data"]["template.json"])
    ours = {"/etc/headgate/template.json": str(template), "http://hg-receiver:8000": f"http://{HOST}:9"}
    folders = [tmp_path / name for name in ("prefect", "mlflow", "home")]
    for folder in folders:
        folder.mkdir()
    with server("prefect", secret, folders[0]) as (prefect, _), server("mlflow", secret, folders[1]) as (mlflow, _):
        env = given(told, secret, lambda text: text.replace("/var/lib/headgate", str(folders[2])))
        env |= {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
        command = [HEADGATE, *(ours.get(one, one) for one in told["command"][1:])]
        done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        signed = PrefectSignIn.of(f"{prefect}/api", secret)
        (pool,) = http.post(f"{prefect}/api/work_pools/filter", json={}, auth=signed).json()
        assert (pool["name"], pool["type"]) == ("headgate", "kubernetes")
        assert len(http.post(f"{prefect}/api/deployments/filter", json={}, auth=signed).json()) >= 7
        hooks = http.get(f"{mlflow}/api/2.0/mlflow/webhooks", auth=mlflow_sign_in(secret)).json()["webhooks"]
        assert [one["url"] for one in hooks] == [f"http://{HOST}:9/mlflow"]
