"""The stack's MLflow server: what its sign-in is set to."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tasks.mlflow_server import only_own_pages, renew_password, users_in, write_config


def test_who_is_not_signed_in_may_nothing_and_a_password_is_not_hashed_for_each_request(tmp_path):
    path = tmp_path / "basic_auth.ini"
    write_config(path, "postgresql+psycopg://headgate:p%40ss@db.example/mlflow")
    config = configparser.ConfigParser()
    config.read(path)
    assert config["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert config["mlflow"]["database_uri"] == "postgresql+psycopg://headgate:p%40ss@db.example/mlflow"
    assert 0 < config.getint("mlflow", "auth_cache_ttl_seconds") <= 60, "other processes take the old one so long"
    assert "admin_password" not in config["mlflow"]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.filterwarnings("ignore:No path_separator found in configuration:DeprecationWarning")
def test_the_administrator_gets_the_stacks_password_where_it_is_another_one(tmp_path):
    """As after secrets.json was lost and made anew; other users stay."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    database = users_in([], {}, tmp_path / "basic_auth.ini")
    assert database == f"sqlite:///{tmp_path / 'users.db'}"
    assert not renew_password(database, "headgate", "the first password"), "MLflow itself makes the first one"
    store = SqlAlchemyStore()
    store.init_db(database)
    store.create_user("headgate", "the first password", is_admin=True)
    store.create_user("ann", "another password")
    assert not renew_password(database, "headgate", "the first password")
    assert renew_password(database, "headgate", "the second password")
    assert store.authenticate_user("headgate", "the second password")
    assert not store.authenticate_user("headgate", "the first password")
    assert store.authenticate_user("ann", "another password")
    store.engine.dispose()


@pytest.mark.parametrize(("arguments", "environ", "database"), [
    (["--host", "h"], {}, "sqlite:////f/users.db"),
    (["--backend-store-uri", "sqlite:////m/mlflow.db", "--workers", "1"], {}, "sqlite:////f/users.db"),
    (["--backend-store-uri", "/m/runs"], {}, "sqlite:////f/users.db"),
    (["--backend-store-uri", "file:///m/runs"], {}, "sqlite:////f/users.db"),
    ([], {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://u:p@d/mlflow"}, "postgresql+psycopg://u:p@d/mlflow"),
    (["--backend-store-uri=mysql://d/a"], {"MLFLOW_BACKEND_STORE_URI": "postgresql://d/b"}, "mysql://d/a"),
    (["--backend-store-uri", "sqlite:////m/a.db"], {"MLFLOW_BACKEND_STORE_URI": "postgresql://d/b"},
     "sqlite:////f/users.db"),
])  # fmt: skip
def test_users_are_where_the_runs_are_if_that_is_a_server(arguments, environ, database):
    assert users_in(arguments, environ, Path("/f/basic_auth.ini")) == database


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("origin", "answered"), [
    (None, True), ("http://127.0.0.1:4", True), ("http://127.0.0.1:5", False), ("http://localhost:4", False),
    ("http://evil.test", False), ("null", False), ("", False),
])  # fmt: skip
def test_a_page_of_another_server_may_ask_nothing(monkeypatch, origin, answered):
    """Also one of another port of this machine, which MLflow itself trusts."""
    import flask

    monkeypatch.setattr("mlflow.server.auth.authenticate_request_basic_auth", lambda: "who signed in")
    headers = {"Host": "127.0.0.1:4", **({} if origin is None else {"Origin": origin})}
    with flask.Flask("test").test_request_context("/", headers=headers):
        found = only_own_pages()
    assert (found == "who signed in") is answered
    assert answered or found.status_code == 403
