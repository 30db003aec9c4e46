"""Make the Secret of the chart's programs once: `python -P -m deploy_targets.kubernetes.first_secret NAME --server …`.

A Job of the chart (ops/helm) runs it before everything else is installed or upgraded. A template that made passwords
would make others at each rendering, and leave them in the release that Helm stores. The Job makes them in the cluster,
so no rendered text has them.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deploy_targets.kubernetes.api import Api, ChangedError
from deploy_targets.kubernetes.names import MANAGED, MANAGER
from headgate.errors import HeadgateError, TargetError
from headgate.sealed import VARIABLE, new_key
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN
from headgate.stack.secrets import USER

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = (
    "POSTGRES_PASSWORD", "HEADGATE_JOURNAL_URL", "PREFECT_API_DATABASE_CONNECTION_URL", "MLFLOW_BACKEND_STORE_URI",
    "HEADGATE_WEBHOOK_SECRET", "HEADGATE_ALERT_TOKEN", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "HEADGATE_SEALING_KEY", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)  # fmt: skip
"""What the chart's programs read of it."""
_LABELS = {"app.kubernetes.io/name": MANAGER, MANAGED: MANAGER}
"""Without `app.kubernetes.io/instance`: by that label Argo CD takes an object for its own, and prunes what it did not
render."""
_BYTES = 32


def values(user: str, server: str) -> dict[str, str]:
    """Return new values of all keys.

    Args:
        user: of the database.
        server: HOST:PORT of PostgreSQL, with databases headgate, prefect and mlflow.
    """
    password = secrets.token_urlsafe(_BYTES)
    at = f"{quote(user, safe='')}:{password}@{server}"
    return {
        "POSTGRES_PASSWORD": password,
        "HEADGATE_JOURNAL_URL": f"postgresql+psycopg://{at}/headgate",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{at}/prefect",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg://{at}/mlflow",
        # MLflow signs its deliveries with it.
        "HEADGATE_WEBHOOK_SECRET": secrets.token_urlsafe(_BYTES),
        # Alertmanager shows it.
        "HEADGATE_ALERT_TOKEN": secrets.token_urlsafe(_BYTES),
        # MLflow encrypts the webhook's secret with it: a Fernet key, 32 bytes in URL-safe base64.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).decode(),
        # Values of runtime.env are sealed with it (headgate/sealed.py).
        VARIABLE: new_key(),
        # People and programs sign in to Prefect with the first, and to MLflow as its administrator with the others.
        PREFECT_SIGN_IN: f"{USER}:{secrets.token_urlsafe(_BYTES)}",
        MLFLOW_USER: USER,
        MLFLOW_PASSWORD: secrets.token_urlsafe(_BYTES),
        # MLflow signs the tokens of its forms with it.
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(_BYTES),
    }


def make(api: Api, name: str, made: dict[str, str]) -> bool:
    """Make the Secret, or leave the one that is there as it is.

    Args:
        api: the cluster and the namespace.
        name: of the Secret.
        made: its values, by key.

    Returns:
        Whether it was made now.

    Raises:
        TargetError: the one that is there lacks a key, or the cluster refuses the call.
        TargetUnavailableError: the cluster does not answer.
    """
    manifest = {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": api.namespace, "labels": _LABELS}, "stringData": made,
    }  # fmt: skip
    try:
        api.create("secrets", manifest)
    except ChangedError:
        # Its 409 says that the name is taken. Where somebody removes it meanwhile, the Job's next try makes it.
        found = api.find("secrets", name)
        if found is None:
            raise
        _require(found, name, api.namespace)
        return False
    return True


def _require(found: dict[str, Any], name: str, namespace: str) -> None:
    data = found.get("data") or {}
    if missing := [key for key in KEYS if not data.get(key)]:
        raise TargetError(
            f"Secret {name} in namespace {namespace} has no value for {', '.join(missing)}, "
            f"and the chart's programs read {len(KEYS)} keys of it",
            fix="add the keys, with the command of 'The whole stack in a cluster' in docs/kubernetes.md or by "
            f"kubectl edit secret {name} -n {namespace}; or delete the Secret, where nothing is stored under its "
            "password yet, and install again",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make it, and say what was done.

    Returns:
        The exit code: 0 where the Secret is there with all keys, 1 otherwise.
    """
    parser = argparse.ArgumentParser(
        prog="python -P -m deploy_targets.kubernetes.first_secret", description=main.__doc__
    )
    parser.add_argument("name", help="of the Secret")
    parser.add_argument("--namespace", required=True, help="that it is in")
    parser.add_argument("--user", required=True, help="of the databases")
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="of PostgreSQL")
    given = parser.parse_args(arguments)
    try:
        made = make(Api("", given.namespace), given.name, values(given.user, given.server))
    except HeadgateError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Secret {given.name} {'was made' if made else 'is there and stays as it is'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
