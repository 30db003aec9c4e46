"""The ASGI app: /ping, /invocations, /metrics.

It meets the container contract of SageMaker, Vertex AI, Azure ML, Cloud Run and KServe: /ping is 503 while
the model loads, as is /invocations, and 200 after; /invocations takes every body that MLflow's own server
takes, and `{"instances": …}` is answered by `{"predictions": …}`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from serving import metrics
from serving.prediction_log import PredictionLog, Row
from serving.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from serving.model import Answer, ServedModel
    from serving.tracing import Tracing

    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

logger = logging.getLogger("serving")

MAX_BODY = 64 * 2**20
QUICK_SECONDS = 0.005
QUICK_BODY = 64 * 2**10
MAIN_PID = "HEADGATE_MAIN_PID"
_THREADS = 4
_SMOOTHING = 0.1
_ATTRIBUTES, _ID_ATTRIBUTE = b"x-amzn-sagemaker-custom-attributes", b"x-request-id="
_SHADOW_HOST = b"-shadow"
TRACING_SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"


class App:
    """One process of the server.

    Args:
        settings: from the environment by default.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.from_env()
        self._model: ServedModel | None = None
        self._loaded = asyncio.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="predict")
        # How long answers take of late; unknown counts as long, so the event loop is never held by surprise.
        self._usual_seconds = 1.0
        self._log: PredictionLog | None = None
        self._tracing: Tracing | None = None
        self._by_status: dict[int, Any] = {}
        self._were_ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/invocations":
            await self._invocations(scope, receive, send)
        elif path in {"/ping", "/health"}:
            ready = self._model is not None and self._all_workers_ready()
            await _send(send, 200 if ready else 503, b"\n", b"text/plain", [])
        elif path == "/metrics":
            await _send(send, 200, metrics.render(), metrics.CONTENT_TYPE.encode(), [])
        else:
            await _send_error(send, 404, "this server has /ping, /invocations and /metrics", "")

    async def _invocations(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type, request_id, mirrored = _read_headers(scope)
        if scope["method"] != "POST":
            await _send_error(send, 405, "use POST", request_id)
            return
        body = await _read_body(receive)
        if body is None:
            await _send_error(send, 413, f"a body is at most {MAX_BODY} bytes", request_id)
            return
        if self._model is None:
            if not self._ready_workers():
                # A request that waited would tell nobody, neither its client nor the judge, that this server is down.
                await _send_error(send, 503, "the model is being loaded", request_id, (b"retry-after", b"1"))
                return
            await self._loaded.wait()
        tracing = self._tracing
        span = tracing.begin(scope["headers"], request_id, mirrored=mirrored) if tracing is not None else None
        began = time.perf_counter()
        metrics.IN_PROGRESS.inc()
        status = 500
        try:
            status, reply, reply_type = await self._answer(body, content_type, request_id)
        finally:
            metrics.IN_PROGRESS.dec()
            if tracing is not None and span is not None:
                tracing.end(span, status)
        seconds = time.perf_counter() - began
        await _send(send, status, reply, reply_type.encode(), [(b"x-request-id", request_id.encode())])
        self._account(Row(request_id, int(time.time() * 1e6), status, seconds, mirrored, content_type, body, reply))

    async def _answer(self, body: bytes, content_type: str, request_id: str) -> Answer:
        from serving.model import Answer, ModelRaisedError  # noqa: PLC0415 - loads MLflow; see _load

        model = self._model
        assert model is not None  # noqa: S101 - _invocations waited for it
        try:
            if self._usual_seconds < QUICK_SECONDS and len(body) < QUICK_BODY:
                began = time.perf_counter()
                answer = model.answer(body, content_type)
            else:
                loop = asyncio.get_running_loop()
                began = time.perf_counter()
                answer = await loop.run_in_executor(self._pool, model.answer, body, content_type)
        except ModelRaisedError as error:
            logger.exception("request %s: the model raised", request_id, exc_info=error.__cause__)
            text = {"error": f"the model raised {type(error.__cause__).__name__}", "request_id": request_id}
            return Answer(500, json.dumps(text).encode())
        self._usual_seconds += _SMOOTHING * (time.perf_counter() - began - self._usual_seconds)
        if answer.status >= 400:  # noqa: PLR2004
            text = {"error": answer.body.decode(errors="replace"), "request_id": request_id}
            return Answer(answer.status, json.dumps(text).encode())
        return answer

    def _account(self, row: Row) -> None:
        counter = self._by_status.get(row.status)
        if counter is None:
            counter = self._by_status[row.status] = metrics.REQUESTS.labels(str(row.status))
        counter.inc()
        metrics.SECONDS.observe(row.seconds)
        if self._log is not None:
            self._log.add(row)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._log = self._open_log()
                self._tracing = self._open_tracing()
                loop = asyncio.get_running_loop()
                threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._log is not None:
                    self._log.close()
                if self._tracing is not None:
                    self._tracing.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _open_log(self) -> PredictionLog | None:
        known = self._settings
        if not known.log_predictions or known.scratch is None:
            return None
        return PredictionLog(
            known.scratch / "predictions", metrics.LOG_DROPPED.inc, sample=known.log_sample, hidden=known.log_hidden,
            keep=known.log_keep,
        )  # fmt: skip

    def _open_tracing(self) -> Tracing | None:
        if not os.environ.get(TRACING_SWITCH):
            return None
        # Imported by who wants it only.
        from serving.tracing import Tracing  # noqa: PLC0415

        return Tracing(self._settings)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            # MLflow takes seconds to import; /ping answers 503 meanwhile.
            from serving.model import ServedModel  # noqa: PLC0415

            model = ServedModel(self._settings.model)
        except BaseException:
            logger.exception("the model at %s cannot be loaded", self._settings.model)
            os.kill(int(os.environ[MAIN_PID]), signal.SIGUSR1)
            raise
        logger.info("model loaded; it is asked by way of: %s", model.way)
        # What was imported and loaded stays; the collector need not walk it again while requests come and go.
        gc.collect()
        gc.freeze()
        self._model = model
        self._mark_ready()
        loop.call_soon_threadsafe(self._loaded.set)

    def _mark_ready(self) -> None:
        if self._settings.workers > 1 and self._settings.scratch is not None:
            folder = self._settings.scratch / "ready"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(os.getpid())).touch()

    def _all_workers_ready(self) -> bool:
        """Whether every worker process has loaded its model; each leaves a file named by its pid."""
        if self._settings.workers <= 1 or self._settings.scratch is None or self._were_ready:
            return True
        # Later, one worker that is started again must not take the others out.
        self._were_ready = self._ready_workers() >= self._settings.workers
        return self._were_ready

    def _ready_workers(self) -> int:
        """How many of several workers have loaded their model and live."""
        if self._settings.workers <= 1 or self._settings.scratch is None:
            return 0
        ready = (self._settings.scratch / "ready").glob("*")
        return sum(os.path.exists(f"/proc/{file.name}") for file in ready)  # noqa: PTH110


def create() -> App:
    """For uvicorn, in every worker process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return App()


def _read_headers(scope: Scope) -> tuple[str, str, bool]:
    """Content type, request id, and whether this is a mirrored copy (Envoy adds `-shadow` to its host).

    SageMaker passes nothing of a client's on but its "custom attributes":
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
    """
    content_type, request_id, mirrored = "application/json", "", False
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == _ATTRIBUTES and value.startswith(_ID_ATTRIBUTE):
            request_id = value.removeprefix(_ID_ATTRIBUTE).decode("latin-1")
        elif name == b"host":
            mirrored = value.split(b":")[0].endswith(_SHADOW_HOST)
    return content_type, request_id or str(uuid.uuid4()), mirrored


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body if len(body) <= MAX_BODY else None
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
    return b"".join(parts)


async def _send(send: Send, status: int, body: bytes, content_type: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: int, message: str, request_id: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": message, "request_id": request_id}).encode()
    await _send(send, status, body, b"application/json", [(b"x-request-id", request_id.encode()), *headers])
