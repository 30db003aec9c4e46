"""Whatever somebody sends to the receiver, it is their mistake: 400, and never an error of ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json

import httpx
import pytest

from headgate import clock
from headgate.errors import BadInputError
from headgate.home import Home
from monitoring.truth import labels_from_json
from registry.webhooks import ID, SIGNATURE, TIMESTAMP
from tasks.receiver import make_app

BEARER = {"authorization": "Bearer token"}
DEEP = b"[" * 100_000
VERSION = {"name": "wine", "version": "1", "alias": "release"}
LABEL = {"request_id": "a", "label": 1}

ODD: list[object] = [
    DEEP, b'{"alerts": ' + DEEP, b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"9" * 5000,
    "x\0",
    {"entity": "model_version_alias", "data": None}, {"entity": "model_version_alias", "data": []},
    {"entity": "model_version_alias", "data": {**VERSION, "name": ["wine"]}},
    {"entity": "model_version_alias", "data": {**VERSION, "alias": {}}},
    {"entity": {}, "data": VERSION}, {"entity": "model_version_alias", "data": {**VERSION, "name": "\ud800"}},
    {"entity": "model_version_alias", "data": {**VERSION, "version": "1\0"}},
    {"alerts": 5}, {"alerts": [5]}, {"alerts": {"status": "firing"}}, {"alerts": [{"status": "firing", "labels": 5}]},
    *({"alerts": [{"status": "firing", "labels": {"endpoint": odd}}]} for odd in (5, None, [], {}, "\ud800", "a\0")),
    *({"alerts": [{"status": "firing", "labels": {"endpoint": "wine"}, name: 5}]}
      for name in ("annotations", "startsAt", "fingerprint")),
    {"alerts": [{"status": "firing", "labels": {"endpoint": "wine"}, "annotations": {"summary": {}}}]},
    *({"endpoint": odd, "labels": [LABEL]} for odd in (5, None, [], "", "wi\0ne", "\ud800", "x" * 501)),
    *({"endpoint": "wine", "labels": odd} for odd in (5, None, "ab", [5], [[LABEL]], {"a": LABEL}, [{"label": 1}])),
    *({"endpoint": "wine", "labels": [{**LABEL, name: odd}]}
      for name in ("request_id", "label", "row") for odd in ([], {}, "\ud800", "a\0")),
]  # fmt: skip


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADGATE_JOURNAL_URL", raising=False)
    app = make_app(Home(tmp_path / "home").ensure(), secret="s", token="token", prefect_api="http://127.0.0.1:9")  # noqa: S106

    def asked(requests: list[tuple[str, bytes, dict[str, str]]]) -> list[httpx.Response]:
        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
            ):
                return [await client.post(path, content=body, headers=headers) for path, body, headers in requests]

        return asyncio.run(send())

    return asked


def signed(body: bytes, timestamp: str = "") -> dict[str, str | bytes]:
    timestamp = timestamp or f"{clock.now():.0f}"
    digest = hmac.new(b"s", f"d.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {ID: "d", TIMESTAMP: timestamp.encode("latin-1"), SIGNATURE: "v1," + base64.b64encode(digest).decode()}


def test_no_body_is_an_error_of_ours(ask):
    bodies = [odd if isinstance(odd, bytes) else json.dumps(odd).encode() for odd in ODD]
    requests = [(path, body, BEARER) for path in ("/alertmanager", "/labels") for body in bodies]
    requests += [("/mlflow", body, signed(body)) for body in bodies]
    replies = ask(requests)
    both = zip(requests, replies, strict=True)
    wrong = [(path, body[:80], reply.status_code, reply.text) for (path, body, _), reply in both
             if reply.status_code != 400 or not reply.json()["error"]]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("label", [
    {"label": 1, "row": row} for row in (10**30, -1, 1e999, "x", "1e99", 0.5)
] + [{"label": None}, {"label": float("nan")}])  # fmt: skip
def test_a_label_that_is_none_is_its_senders_mistake(label):
    with pytest.raises(BadInputError, match="1 of 1 labels have no request_id, no label or no whole row"):
        labels_from_json([{"request_id": "a", **label}])


@pytest.mark.parametrize("timestamp", ["²", "9" * 5000, "-1", "1e9", "x", "1.5", "٣"])
def test_an_odd_time_is_refused_as_what_it_is(ask, timestamp):
    body = json.dumps({"entity": "model_version_alias", "data": VERSION}).encode()
    try:
        headers = signed(body, timestamp)
    except UnicodeEncodeError:
        headers = {**signed(body), TIMESTAMP: timestamp.encode()}
    (reply,) = ask([("/mlflow", body, headers)])
    assert reply.status_code == 401


def test_a_delivery_that_breaks_off_is_no_error_of_ours(tmp_path):
    app = make_app(Home(tmp_path / "home").ensure(), secret="s", token="token", prefect_api="http://127.0.0.1:9")  # noqa: S106
    parts, sent = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}], []

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/labels", "method": "POST", "query_string": b"", "app": app,
             "headers": [(b"authorization", b"Bearer token")]}  # fmt: skip
    app.state.token = "token"
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
