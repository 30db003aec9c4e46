"""MLflow's registry webhooks: registering ours, and telling a delivery of MLflow's from anybody else's.

A delivery is signed as the Standard Webhooks specification says (https://www.standardwebhooks.com), under MLflow's own
header names: `v1,` and the base64 of HMAC-SHA256(secret, "<delivery id>.<timestamp>.<body>").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

import httpx
import sqlalchemy as sa

from headgate import clock
from headgate.errors import RefusedError, RegistryError, RegistryUnavailableError
from headgate.sign_in import mlflow_sign_in
from registry.journal import deliveries, mapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.journal import Journal

ID, TIMESTAMP, SIGNATURE = "x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"
REPLAY_SECONDS = 300.0
"""A delivery with a time further away than this, in either direction, is refused."""

_SETTINGS = {
    "URL scheme": "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http",
    "IP address": "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true",
}
"""What MLflow refuses by default, by a word of its message, and the setting that allows it."""
_SECONDS_SINCE = re.compile(r"[0-9]{1,15}")
"""`str.isdigit` takes ² for a digit, which `int` does not."""
_KEPT_SECONDS = 7 * 86400.0
_NAME = "headgate"
_EVENTS = (("MODEL_VERSION_ALIAS", "CREATED"), ("MODEL_VERSION_TAG", "SET"))
_SECONDS = 10.0


def verify(headers: Mapping[str, str], body: bytes, secret: str) -> str:
    """Check that a delivery is MLflow's.

    Args:
        headers: the request's, with names in lower case.
        body: as it came.
        secret: what the webhook was registered with.

    Returns:
        The delivery's id.

    Raises:
        RefusedError: a header is missing, the signature is another one, or the time is too far away.
    """
    delivery, timestamp, signature = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (delivery and timestamp and signature):
        raise RefusedError(f"a delivery has the headers {ID}, {TIMESTAMP} and {SIGNATURE}")
    signed = f"{delivery}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise RefusedError("the signature does not match: the webhook was registered with another secret")
    if not _SECONDS_SINCE.fullmatch(timestamp):
        raise RefusedError(f"{TIMESTAMP} is the seconds since 1970, in at most 15 digits")
    age = clock.now() - int(timestamp)
    if abs(age) > REPLAY_SECONDS:
        raise RefusedError(f"the delivery is {age:.0f} s old, and at most {REPLAY_SECONDS:.0f} s may pass")
    return delivery


@mapped
def claim(journal: Journal, delivery: str) -> bool:
    """Take a delivery, once: whether nobody has taken it before. One that goes on coming is remembered as long."""
    now, known = clock.now(), _known(delivery)
    try:
        with journal.writing() as connection:
            connection.execute(deliveries.delete().where(deliveries.c.at < now - _KEPT_SECONDS))
            again = connection.execute(deliveries.update().where(deliveries.c.id == known).values(at=now))
            if again.rowcount:
                return False
            connection.execute(deliveries.insert().values(id=known, at=now))
    except sa.exc.IntegrityError:
        return False
    return True


def _known(delivery: str) -> str:
    """What a delivery is remembered by; senders choose ids of any length."""
    return hashlib.sha256(delivery.encode()).hexdigest()


@mapped
def give_up(journal: Journal, delivery: str) -> None:
    """Let a delivery be taken again: what was to be done about it could not be done."""
    with journal.writing() as connection:
        connection.execute(deliveries.delete().where(deliveries.c.id == _known(delivery)))


def ensure_webhook(tracking_uri: str, url: str, secret: str) -> None:
    """Have MLflow tell a receiver about aliases and tags; made once, and changed where it is another one.

    Args:
        tracking_uri: the MLflow server; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD sign in.
        url: the receiver.
        secret: what deliveries are signed with.

    Raises:
        RegistryError: MLflow refuses.
    """
    api = f"{tracking_uri}/api/2.0/mlflow/webhooks"
    wanted = {
        "name": _NAME, "url": url, "secret": secret,
        "events": [{"entity": entity, "action": action} for entity, action in _EVENTS],
        "description": "releases a version when an alias or a tag says so",
    }  # fmt: skip
    with httpx.Client(timeout=_SECONDS, auth=mlflow_sign_in()) as client:
        listed = _sent(client, "GET", api).get("webhooks", [])
        known = next((hook for hook in listed if hook["name"] == _NAME), None)
        if known is None:
            _sent(client, "POST", api, wanted)
        else:
            # Secrets cannot be read back, so it is written each time.
            _sent(client, "PATCH", f"{api}/{known['webhook_id']}", wanted)


def _fix(refusal: str) -> str:
    """Return the setting of the MLflow server without which it refuses a webhook (mlflow/utils/validation.py)."""
    setting = next((setting for word, setting in _SETTINGS.items() if word in refusal), None)
    return f"start the MLflow server with {setting}" if setting else "see the log of the MLflow server"


def _sent(client: httpx.Client, method: str, url: str, content: object = None) -> dict[str, list[dict[str, str]]]:
    try:
        reply = client.request(method, url, json=content)
    except httpx.HTTPError as error:
        raise RegistryUnavailableError(f"MLflow does not answer: {error}", fix="headgate up") from error
    if reply.is_error:
        raise RegistryError(
            f"MLflow refused the webhook ({reply.status_code}): {reply.text[:300]}", fix=_fix(reply.text)
        )
    return dict(reply.json())
