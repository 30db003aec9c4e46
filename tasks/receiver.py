"""Webhooks in, Prefect events out: a small server that MLflow's registry and Alertmanager call.

It takes labels, too, and answers Prometheus.

It starts nothing itself. What an event leads to is an automation of the Prefect server (tasks/automations.py), where it
can be seen, changed and switched off. Run it with `python -P -m tasks.receiver`; its settings are the variables
HEADGATE_WEBHOOK_SECRET, HEADGATE_ALERT_TOKEN, HEADGATE_RECEIVER_PORT, PREFECT_API_URL, and PREFECT_API_AUTH_STRING
where the server asks for it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import uuid
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from anyio import create_task_group, sleep, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headgate.errors import BadInputError, HeadgateError, RefusedError
from headgate.events import ALERT_FIRING, VERSION_WANTED, resource_of
from headgate.home import Home
from headgate.sign_in import PREFECT_SIGN_IN, PrefectSignIn
from headgate.stack.ports import HOST
from registry.history import champion as live
from registry.history import in_flight
from registry.journal import Journal
from registry.watches import watched
from registry.webhooks import claim, give_up, verify
from tasks.deliveries import Delivery, GivenLabels, Notification, why_not
from tasks.metrics import render, scraped, server_metrics
from tasks.upkeep import Seen, look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from headgate.spec import ReleaseSpec

logger = logging.getLogger(__name__)

MAX_BODY = 1_000_000
_SECONDS = 10.0
_LOOK_SECONDS = 15.0
_NAMESPACE = uuid.UUID("b3a7c9de-52c0-4a38-9f0e-6d5f3f9a1b42")

Event = dict[str, Any]
_ACTIONS = {VERSION_WANTED: "release", ALERT_FIRING: "rollback"}


async def mlflow(request: Request) -> JSONResponse:
    """A delivery of MLflow: a version got an alias or a tag."""
    body = await _body(request)
    if body is None:
        return _refused(413, f"a delivery has at most {MAX_BODY} bytes")
    try:
        delivery = verify(request.headers, body, request.app.state.secret)
    except RefusedError as error:
        return _refused(401, error.message)
    try:
        content = Delivery.model_validate_json(body)
    except ValidationError as error:
        said = "the body is no delivery of MLflow's registry: entity, data.name and data.version"
        return _refused(400, f"{said}; {why_not(error)}")
    entity, data, name, version = content.entity, content.data, content.data.name, str(content.data.version)

    def wanted(spec: ReleaseSpec) -> bool:
        when = spec.release_when
        if when is None or spec.model != name:
            return False
        said = data.alias if entity == "model_version_alias" else data.key
        return bool(said) and said == (when.alias if entity == "model_version_alias" else when.tag)

    def events(journal: Journal) -> list[Event]:
        return [
            _event(
                VERSION_WANTED, spec.endpoint, delivery,
                {"model": name, "version": version, "artifact": f"models:/{name}/{version}",
                 "reason": f"{entity} of {name} v{version}"},
            )
            for spec in watched(journal).values() if wanted(spec)
        ]  # fmt: skip

    return await _pass_on(request, f"mlflow/{delivery}", events)


async def alertmanager(request: Request) -> JSONResponse:
    """A notification of Alertmanager (version 4 of its format); each firing alert names an endpoint by a label."""
    if not _shows_token(request):
        return _refused(
            401, "Alertmanager's http_config needs `authorization: {credentials: …}`; see docs/operating.md"
        )
    body = await _body(request)
    if body is None:
        return _refused(413, f"a notification has at most {MAX_BODY} bytes")
    try:
        firing = [alert for alert in Notification.model_validate_json(body).alerts if alert.status == "firing"]
    except ValidationError as error:
        return _refused(400, f"each alert has a status and labels; {why_not(error)}")
    named = [alert for alert in firing if alert.labels.get("endpoint")]
    if firing and not named:
        return _refused(400, "no alert that fires has the label `endpoint`")
    passed: list[str] = []
    for alert in named:
        endpoint, name = alert.labels["endpoint"], alert.labels.get("alertname", "alert")
        said = alert.annotations.get("summary", "")
        key = f"alert/{endpoint}/{alert.fingerprint or name}/{alert.starts_at}"
        payload = {"alert": name, "reason": f"alert {name}: {said}".rstrip(": ")}
        reply = await _pass_on(request, key, partial(_alarm, endpoint, key, payload))
        if reply.status_code >= 400:  # noqa: PLR2004 - HTTP's own limit
            return reply
        passed += json.loads(bytes(reply.body))["events"]
    return JSONResponse({"events": passed}, 202)


def _alarm(endpoint: str, key: str, payload: dict[str, str], journal: Journal) -> list[Event]:
    """The event, with what is in flight or live now: a second alert about it shall not take back what follows it."""
    flight, champion = in_flight(journal, endpoint), live(journal, endpoint)
    of = flight.release_id if flight else (champion.revision.name if champion else "")
    return [_event(ALERT_FIRING, endpoint, key, {**payload, "of": of})]


async def labels(request: Request) -> JSONResponse:
    """Labels of an endpoint's requests."""
    if not _shows_token(request):
        return _refused(401, "labels need `Authorization: Bearer …`; see docs/operating.md")
    body = await _body(request)
    if body is None:
        return _refused(413, f"at most {MAX_BODY} bytes; send them in parts, or as a file: headgate labels")
    try:
        content = GivenLabels.model_validate_json(body)
    except ValidationError as error:
        said = 'the body is {"endpoint": …, "labels": [{"request_id": …, "label": …}]}'
        return _refused(400, f"{said}; {why_not(error)}")
    endpoint, given = content.endpoint, content.labels

    def keep() -> int:
        # Seconds to import, and only for who sends labels.
        from monitoring.truth import labels_from_json  # noqa: PLC0415
        from tasks.truth import add_labels  # noqa: PLC0415

        state = request.app.state
        return add_labels(state.home, state.journal(), endpoint, labels_from_json(given))

    try:
        return JSONResponse({"new": await to_thread.run_sync(keep)}, 202)
    except BadInputError as error:
        return _refused(400, str(error))
    except HeadgateError as error:
        return _refused(503, error.message)


async def metrics(request: Request) -> Response:
    """What Prometheus is told of releases, the judge, checks and labels."""
    try:
        text = await to_thread.run_sync(lambda: render(request.app.state.journal(), request.app.state.seen))
    except HeadgateError as error:
        return _refused(503, error.message)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def targets(request: Request) -> JSONResponse:
    """Where Prometheus finds metrics, as its `http_sd_configs` takes it."""
    try:
        return JSONResponse(await to_thread.run_sync(scraped, request.app.state.home, request.url.netloc))
    except HeadgateError as error:
        return _refused(503, error.message)


async def metrics_of_server(request: Request) -> Response:
    """What a server of this machine counts, for Prometheus, which cannot ask a Unix socket."""
    endpoint, revision = (request.path_params[name] for name in ("endpoint", "revision"))
    try:
        found = await to_thread.run_sync(server_metrics, request.app.state.home, endpoint, revision)
    except HeadgateError as error:
        return _refused(503, error.message)
    if found is None:
        return _refused(404, "the gateway of this machine knows no such revision; /targets has all of them")
    text, kind = found
    return Response(text, headers={"content-type": kind})


async def health(_request: Request) -> JSONResponse:
    """Whether it runs."""
    return JSONResponse({"status": "ok"})


async def _keep_looking(app: Starlette) -> None:
    """Look at the servers every 15 s, apart from requests: Prometheus does not wait for a busy Prefect server."""
    while True:
        try:
            app.state.seen = await to_thread.run_sync(look, app.state.home)
        except Exception:
            # Webhooks do not depend on it.
            logger.exception("the servers cannot be looked at; tried again in %.0f s", _LOOK_SECONDS)
        await sleep(_LOOK_SECONDS)


async def _pass_on(request: Request, key: str, events: Callable[[Journal], list[Event]]) -> JSONResponse:
    """Emit the events of a delivery, once; one that cannot be passed on may come again."""
    state = request.app.state

    def take() -> list[Event] | None:
        # Made first: what cannot be made may come again.
        found = events(state.journal())
        return found if claim(state.journal(), key) else None

    def let_go() -> None:
        give_up(state.journal(), key)

    try:
        fresh = await to_thread.run_sync(take)
    except HeadgateError as error:
        return _refused(503, error.message)
    if fresh is None:
        return JSONResponse({"events": [], "note": "this delivery was taken before"}, 200)
    if fresh:
        try:
            (await state.prefect.post("/events", json=fresh)).raise_for_status()
        except httpx.HTTPError as error:
            await to_thread.run_sync(let_go)
            return _refused(503, f"the Prefect server does not take the event: {type(error).__name__}")
    return JSONResponse({"events": [event["event"] for event in fresh]}, 202)


def _event(name: str, endpoint: str, key: str, payload: dict[str, str]) -> Event:
    return {
        "id": str(uuid.uuid5(_NAMESPACE, f"{key}/{endpoint}")),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": resource_of(endpoint, action=_ACTIONS[name]),
        "payload": {"schema": 1, "endpoint": endpoint, **payload},
    }


def _shows_token(request: Request) -> bool:
    shown = request.headers.get("authorization", "")
    return hmac.compare_digest(shown.encode(), f"Bearer {request.app.state.token}".encode())


async def _body(request: Request) -> bytes | None:
    """The body; None where it is too large, of which no more is read."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _refused(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why}, status)


async def _broken_off(_request: Request, _error: Exception) -> Response:
    """What nobody waits for any more: half a body is none, and no error of ours."""
    return _refused(400, "the body broke off")


def make_app(home: Home, *, secret: str, token: str, prefect_api: str, prefect_auth: str = "") -> Starlette:
    """The server.

    Args:
        home: where the journal is.
        secret: what MLflow signs with.
        token: what Alertmanager, and who sends labels, shows.
        prefect_api: where events go.
        prefect_auth: `user:password`, where that server asks for it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        auth = PrefectSignIn(prefect_api, prefect_auth)
        async with httpx.AsyncClient(base_url=prefect_api, timeout=_SECONDS, auth=auth) as client:
            app.state.home, app.state.secret, app.state.token, app.state.prefect = home, secret, token, client
            # Opened when it is first needed: a journal that is away then is asked again by the next request.
            app.state.journal = cache(lambda: Journal(home.journal_url))
            app.state.seen = Seen(None, {})
            async with create_task_group() as tasks:
                tasks.start_soon(_keep_looking, app)
                yield
                tasks.cancel_scope.cancel()
            if app.state.journal.cache_info().currsize:
                app.state.journal().close()

    routes = [
        Route("/mlflow", mlflow, methods=["POST"]), Route("/alertmanager", alertmanager, methods=["POST"]),
        Route("/labels", labels, methods=["POST"]),
        Route("/health", health), Route("/metrics", metrics), Route("/targets", targets),
        Route("/servers/{endpoint}/{revision}/metrics", metrics_of_server, methods=["GET"]),
    ]  # fmt: skip
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={ClientDisconnect: _broken_off})


def main() -> None:
    """Serve, as the environment says.

    Raises:
        BadInputError: a setting is missing.
    """
    names = ("HEADGATE_WEBHOOK_SECRET", "HEADGATE_ALERT_TOKEN", "HEADGATE_RECEIVER_PORT", "PREFECT_API_URL")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise BadInputError(f"not set: {', '.join(missing)}", fix="headgate up sets them; see docs/operating.md")
    secret, token, port, api = (os.environ[name] for name in names)
    auth = os.environ.get(PREFECT_SIGN_IN, "")
    app = make_app(Home.from_env().ensure(), secret=secret, token=token, prefect_api=api, prefect_auth=auth)
    uvicorn.run(app, host=os.environ.get("HEADGATE_RECEIVER_HOST", HOST), port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
