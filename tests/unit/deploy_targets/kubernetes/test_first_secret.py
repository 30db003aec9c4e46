"""The Secret of the chart's programs: made once, by a Job, and left alone from then on."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from sqlalchemy import make_url

from deploy_targets.kubernetes import first_secret
from deploy_targets.kubernetes.first_secret import KEYS, main, values

PATH = "/api/v1/namespaces/headgate/secrets/hg-secrets"
GIVEN = ("hg-secrets", "--namespace", "headgate", "--user", "headgate", "--server", "hg-postgresql:5432")


def encoded(texts):
    """As an API server answers `stringData`."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"metadata": {"resourceVersion": "1"}, "data": data}


def test_it_is_made_with_every_key(server, capsys):
    assert main(GIVEN) == 0
    made = server.objects[PATH]
    assert (made["kind"], made["type"], made["metadata"]["namespace"]) == ("Secret", "Opaque", "headgate")
    assert tuple(made["stringData"]) == KEYS
    assert "was made" in capsys.readouterr().out
    assert [(verb, path) for verb, path, _ in server.asked] == [("POST", PATH.rpartition("/")[0])]


def test_argo_cd_does_not_take_it_for_its_own(server):
    main(GIVEN)
    assert "app.kubernetes.io/instance" not in server.objects[PATH]["metadata"]["labels"]


def test_no_two_have_the_same_values():
    one, other = values("headgate", "db:5432"), values("headgate", "db:5432")
    assert [key for key in KEYS if one[key] == other[key]] == ["MLFLOW_TRACKING_USERNAME"]
    own = {key: one[key].removeprefix("headgate:") for key in KEYS if "://" not in one[key]}
    assert own.pop("MLFLOW_TRACKING_USERNAME") == "headgate"
    assert len(set(own.values())) == 8, "no value is used for two things"
    assert all(len(value) >= 43 for value in own.values()), "each has 32 random bytes"
    assert len(base64.urlsafe_b64decode(one["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"])) == 32


@pytest.mark.parametrize("user", ["headgate", "a b@c:d/e"])
def test_the_urls_are_those_of_the_databases(user):
    made = values(user, "hg-postgresql:5433")
    urls = {key: make_url(text) for key, text in made.items() if "://" in text}
    assert {key: (url.drivername, url.database) for key, url in urls.items()} == {
        "HEADGATE_JOURNAL_URL": ("postgresql+psycopg", "headgate"),
        "PREFECT_API_DATABASE_CONNECTION_URL": ("postgresql+asyncpg", "prefect"),
        "MLFLOW_BACKEND_STORE_URI": ("postgresql+psycopg", "mlflow"),
    }
    for url in urls.values():
        assert (url.username, url.password) == (user, made["POSTGRES_PASSWORD"])
        assert (url.host, url.port) == ("hg-postgresql", 5433)


def test_one_that_is_there_stays_as_it_is(server, capsys):
    server.objects[PATH] = before = encoded(values("headgate", "db:5432"))
    kept = dict(before["data"])
    assert main(GIVEN) == 0
    assert server.objects[PATH]["data"] == kept
    assert "stays as it is" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [lambda data, key: data.pop(key), lambda data, key: data.update({key: ""})])
def test_a_key_that_is_missing_is_named(server, capsys, spoil):
    server.objects[PATH] = encoded(values("headgate", "db:5432"))
    spoil(server.objects[PATH]["data"], "HEADGATE_ALERT_TOKEN")
    assert main(GIVEN) == 1
    said = capsys.readouterr().err
    assert "Secret hg-secrets in namespace headgate has no value for HEADGATE_ALERT_TOKEN," in said
    assert "kubectl edit secret hg-secrets -n headgate" in said


def test_one_that_is_removed_meanwhile_is_for_the_next_try(server, capsys):
    server.refusals.append((409, {"message": "already exists"}))
    assert main(GIVEN) == 1
    assert "came too late" in capsys.readouterr().err
    assert main(GIVEN) == 0
    assert PATH in server.objects


def test_what_the_cluster_refuses_is_said(server, capsys):
    server.refusals.append((403, {"message": "because"}))
    assert main(GIVEN) == 1
    assert "does not allow POST secrets: because" in capsys.readouterr().err


def test_it_is_a_program(server):
    command = [sys.executable, "-m", first_secret.__name__, *GIVEN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Secret hg-secrets was made\n"), done.stderr
    assert PATH in server.objects
