"""Start the stack's MLflow server, which asks for a password: `python -P -m tasks.mlflow_server --host …`.

The sign-in is MLflow's own application `basic-auth`. MLFLOW_AUTH_CONFIG_PATH says where its settings are written;
MLFLOW_AUTH_ADMIN_USERNAME and MLFLOW_AUTH_ADMIN_PASSWORD are the administrator's. Its users are in the server's own
database, beside its runs, where that is on a database server: a pod may have no other storage that stays. With SQLite
they are in a file beside the settings.

A password is checked by scrypt, which takes 150 ms of CPU, for each request. MLflow remembers one that was right for
as long as `auth_cache_ttl_seconds` says, and forgets it when it is changed by its API. Another process of the same
server (`--workers`) does not hear of the change, so it takes the old password until then.

A browser that has signed in shows the password with each request to this server, also with those that a page of another
server makes. MLflow refuses these, but for pages of any other port of this machine, which another user may serve. So
`only_own_pages` stands before its sign-in.

Source: MLflow 3.17, server/auth/config.py, server/auth/__init__.py and server/auth/db.
"""

from __future__ import annotations

import argparse
import configparser
import io
import os
import runpy
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headgate.home import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask import Response
    from werkzeug.datastructures import Authorization

CONFIG = "MLFLOW_AUTH_CONFIG_PATH"
BACKEND = "MLFLOW_BACKEND_STORE_URI"
_USER, _PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"
_REMEMBERED_SECONDS = 60


def users_in(arguments: Sequence[str], environ: Mapping[str, str], path: Path) -> str:
    """Return the address of the database of users.

    Args:
        arguments: of `mlflow server`, of which `--backend-store-uri` counts before the environment's.
        environ: the environment.
        path: of the settings.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--backend-store-uri", default=environ.get(BACKEND, ""))
    backend: str = parser.parse_known_args(arguments)[0].backend_store_uri
    beside = f"sqlite:///{path.with_name('users.db')}"
    return backend if "://" in backend and not backend.startswith(("sqlite", "file:")) else beside


def write_config(path: Path, database: str) -> None:
    """Write the settings of `basic-auth`: whoever is no administrator may do nothing that was not granted.

    Args:
        path: of the file, which its owner alone can read: the address may have a password.
        database: the address of the database of users.
    """
    config = configparser.ConfigParser(interpolation=None)
    config["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": database.replace("%", "%%"),
        "auth_cache_ttl_seconds": str(_REMEMBERED_SECONDS),
        "authorization_function": f"tasks.mlflow_server:{only_own_pages.__name__}",
    }
    text = io.StringIO()
    config.write(text)
    write_atomically(path, text.getvalue())


def only_own_pages() -> Authorization | Response:
    """Refuse a request that a page of another server makes; MLflow's own sign-in decides on all others.

    A browser names the page's server in the header Origin, which no page can change. Programs send none.
    """
    import flask  # noqa: PLC0415 - of MLflow's environment, in which this is called
    from mlflow.server.auth import authenticate_request_basic_auth  # noqa: PLC0415

    origin = flask.request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != flask.request.host:
        return flask.Response("a page of another server may ask nothing here\n", HTTPStatus.FORBIDDEN)
    signed_in: Authorization | Response = authenticate_request_basic_auth()
    return signed_in


def renew_password(database: str, user: str, password: str) -> bool:
    """Give the administrator the stack's password, where there is one with another; whether it was changed.

    MLflow takes the password from its settings only when it makes the administrator.
    """
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - after MLflow's settings

    store = SqlAlchemyStore()
    store.init_db(database)
    changed = store.has_user(user) and not store.authenticate_user(user, password)
    if changed:
        store.update_user(user, password=password, is_admin=True)
    store.engine.dispose()
    return changed


if __name__ == "__main__":
    _path = Path(os.environ[CONFIG])
    _database = users_in(sys.argv[1:], os.environ, _path)
    write_config(_path, _database)
    renew_password(_database, os.environ[_USER], os.environ[_PASSWORD])
    sys.argv = ["mlflow", "server", "--app-name", "basic-auth", *sys.argv[1:]]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
