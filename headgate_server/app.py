"""The ASGI app: /ping, /invocations, /metrics.

It meets the container contract of SageMaker, Vertex AI, Azure ML, Cloud Run and KServe: /ping is 503 while
the model loads, as is /invocations, and 200 after; /invocations takes every body that MLflow's own server
takes, and `{"instances": …}` is answered by `{"predictions": …}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headgate_server import metrics, workers
from headgate_server.bodies import Bodies, BodyError, BrokenOffError
from headgate_server.deadline import Asked, Deadline, LateError, end_at_once
from headgate_server.prediction_log import PredictionLog, Row
from headgate_server.settings import Settings
from headgate_server.workers import MAIN_PID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headgate_server.model import Answer, ServedModel
    from headgate_server.tracing import Tracing

    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

logger = logging.getLogger("headgate_server")

QUICK_SECONDS = 0.005
QUICK_BODY = 64 * 2**10
_THREADS = 4
_SMOOTHING = 0.1
_ATTRIBUTES, _ID_ATTRIBUTE = b"x-amzn-sagemaker-custom-attributes", b"x-request-id="
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/+=@#-]{1,128}")
_SHADOW_HOST = b"-shadow"
_CODES = {404: "ENDPOINT_NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 408: "REQUEST_TIMEOUT", 413: "REQUEST_TOO_LARGE",
          500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}  # fmt: skip
TRACING_SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"


class App:
    """One process of the server.

    Args:
        settings: from the environment by default.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.from_env()
        self._bodies = Bodies(self._settings.deadline)
        self._deadline = Deadline(self._settings.deadline, workers.stop_accepting, self._end)
        self._replaces = self._settings.workers_ended > 0
        # Requests wait in its socket for so long, while it loads the model.
        self._patience = max(self._settings.deadline, workers.LOADS_AGAIN * self._settings.worker_loads)
        self._began = time.monotonic()
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
            await self._send(send, 200 if self._is_ready() else 503, b"\n", b"text/plain", [])
        elif path == "/metrics":
            await self._send(send, 200, metrics.render(), metrics.CONTENT_TYPE.encode(), [])
        else:
            await self._send_error(send, 404, "this server has /ping, /invocations and /metrics", "")

    async def _invocations(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type, request_id, mirrored = _read_headers(scope)
        if scope["method"] != "POST":
            await self._send_error(send, 405, "use POST", request_id, (b"allow", b"POST"))
            return
        self._deadline.in_progress += 1
        try:
            body = await self._bodies.read(receive)
            if self._model is not None or await self._can_answer(send, request_id):
                await self._reply(scope, send, (request_id, content_type, mirrored), body)
        except BodyError as error:
            await self._send_error(send, error.status, str(error), request_id, *error.headers)
        except BrokenOffError:
            # The client is gone. Half a request has no row in the log and no count.
            logger.debug("the client of request %s was gone before its whole body had come", request_id)
        finally:
            self._deadline.in_progress -= 1

    async def _can_answer(self, send: Send, request_id: str) -> bool:
        """Wait for a model that is being loaded again; answer 503 and return False at the first load."""
        if self._replaces or self._ready_workers():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loaded.wait(), self._patience)
                return True
        # Neither the client nor the judge would notice that this server is down if the request waited.
        await self._send_error(send, 503, "the model is being loaded", request_id, (b"retry-after", b"1"))
        return False

    async def _reply(self, scope: Scope, send: Send, asked: tuple[str, str, bool], body: bytes) -> None:
        request_id, content_type, mirrored = asked
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
        await self._send(send, status, reply, reply_type.encode(), [(b"x-request-id", request_id.encode())])
        self._account(Row(request_id, int(time.time() * 1e6), status, seconds, mirrored, content_type, body, reply))

    async def _answer(self, body: bytes, content_type: str, request_id: str) -> Answer:
        from headgate_server.model import Answer, ModelRaisedError  # noqa: PLC0415 - loads MLflow; see _load

        model = self._model
        assert model is not None  # noqa: S101 - _invocations waited for it
        began = time.perf_counter()
        try:
            # MLflow's parsers take seconds for some bodies, and never run in the event loop.
            is_quick = self._usual_seconds < QUICK_SECONDS and len(body) < QUICK_BODY
            answer = model.quick_answer(body, content_type) if is_quick else None
            if answer is None:
                ask = model.mlflow_answer if is_quick else model.answer
                answer = await self._in_a_thread(ask, body, content_type, request_id)
        except LateError:
            said = f"the model has not answered within {self._settings.deadline:g} s"
            return Answer(503, _error(503, said, request_id))
        except ModelRaisedError as error:
            logger.exception("request %s: the model raised", request_id, exc_info=error.__cause__)
            said = f"the model raised {type(error.__cause__).__name__}; its traceback is in the server's log"
            return Answer(500, _error(500, said, request_id))
        self._usual_seconds += _SMOOTHING * (time.perf_counter() - began - self._usual_seconds)
        if answer.status >= 400:  # noqa: PLR2004
            return Answer(answer.status, json.dumps({**json.loads(answer.body), "request_id": request_id}).encode())
        return answer

    async def _in_a_thread(
        self, ask: Callable[[bytes, str], Answer], body: bytes, content_type: str, request_id: str
    ) -> Answer:
        asked = Asked(request_id)

        def work() -> Answer:
            asked.begin()
            return ask(body, content_type)

        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        asked.answer = running
        self._deadline.add(asked)
        try:
            return await running
        except asyncio.CancelledError:
            if asked.is_late:
                raise LateError from None
            raise
        finally:
            self._deadline.remove(asked)

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
                metrics.count_workers_ended(self._settings.workers_ended)
                is_one_more = self._settings.is_spare and not self._replaces
                if is_one_more:
                    workers.name_process(workers.LOADING)
                self._log = self._open_log()
                self._tracing = self._open_tracing()
                loop = asyncio.get_running_loop()
                workers.when_retired(loop, self._deadline.retire)
                threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()
                self._watching = loop.create_task(self._watch())
                if self._settings.is_spare:
                    # It accepts connections from now on, and another worker answers until then.
                    await self._loaded.wait()
                    if is_one_more:
                        workers.name_process(workers.LOADED)
                await send({"type": "lifespan.startup.complete"})
            else:
                self._watching.cancel()
                self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _watch(self) -> None:
        # Loading may hold the interpreter for minutes.
        await self._loaded.wait()
        await self._deadline.watch()

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._tracing is not None:
            self._tracing.close()

    def _end(self) -> None:
        """End this process as one of which a request missed its deadline; it does not return."""
        self._close()
        end_at_once(workers.LATE)

    async def _send(
        self, send: Send, status: int, body: bytes, content_type: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        head = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
        if self._deadline.is_ending:
            head.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _send_error(
        self, send: Send, status: int, message: str, request_id: str, *headers: tuple[bytes, bytes]
    ) -> None:
        body = _error(status, message, request_id)
        id_header = (b"x-request-id", request_id.encode())
        await self._send(send, status, body, b"application/json", [id_header, *headers])

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
        from headgate_server.tracing import Tracing  # noqa: PLC0415

        return Tracing(self._settings)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            # MLflow takes seconds to import; /ping answers 503 meanwhile.
            from headgate_server.model import ServedModel  # noqa: PLC0415

            model = ServedModel(self._settings.model)
        except BaseException:
            logger.exception("the model at %s cannot be loaded", self._settings.model)
            if self._settings.is_spare:
                end_at_once(workers.LOAD_FAILED)
            os.kill(int(os.environ[MAIN_PID]), signal.SIGUSR1)
            raise
        logger.info("model loaded; it is asked by way of: %s", model.way)
        # What was imported and loaded stays; the collector need not walk it again while requests come and go.
        gc.collect()
        gc.freeze()
        if self._log is not None:
            self._log.types = model.csv_types
        self._model = model
        self._mark_ready()
        metrics.WORKERS.set(1)
        loop.call_soon_threadsafe(self._loaded.set)
        workers.tell_loaded()

    def _is_ready(self) -> bool:
        """Whether requests are answered, those included that wait for a model that is being loaded again."""
        if self._model is None:
            return self._replaces and time.monotonic() < self._began + self._patience
        return self._replaces or self._all_workers_ready()

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
    return content_type, _accepted(request_id), mirrored


def _accepted(request_id: str) -> str:
    """The id of a client, where it has 1 to 128 of a few letters; else one of ours: a log and labels are keyed by it.

    What is not accepted is replaced by the same id each time, so that a copy of a request keeps that of the original.
    """
    if not request_id:
        return str(uuid.uuid4())
    return request_id if _REQUEST_ID.fullmatch(request_id) else str(uuid.uuid5(uuid.NAMESPACE_OID, request_id))


def _error(status: int, message: str, request_id: str) -> bytes:
    """An error's body: `error_code` and `message` as MLflow's server has them, and the request's id."""
    return json.dumps({"error_code": _CODES[status], "message": message, "request_id": request_id}).encode()
