"""A server that stands in for `headgate_server/`: it serves the models of behaviour.py, and starts sixty times as fast.

It becomes the `__main__` of a copy of `headgate_server/` (support/light.py) and meets its contract over HTTP: /ping,
/invocations and /metrics, request ids, statuses, exit codes, SIGTERM, the prediction log and its shipping. MLflow is
not imported. What it does not know (another model, several workers, tracing) is run by the server itself, as
`headgate_server.whole`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from headgate_server.listener import listening_at

LOAD_FAILED = 3
_DRAIN_SECONDS = 15
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, float("inf"))
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 415: "Unsupported Media Type",
            500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip
_CODES = {404: "ENDPOINT_NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 415: "UNSUPPORTED_MEDIA_TYPE", 500: "INTERNAL_ERROR",
          503: "TEMPORARILY_UNAVAILABLE"}  # fmt: skip
_JSON, _CSV = "application/json", "text/csv"


class Model:
    """What a behaviour does with rows; see behaviour.py."""

    def __init__(self, does, after):
        self.does, self.after, self.taken = does, after, []
        if does == "broken" and after == 0.0:
            raise RuntimeError("this model cannot be loaded")
        if does == "hungry":
            self.taken = [b"x" * 2**20 for _ in range(1024)]

    def answer(self, body, kind=_JSON):
        values = _read(json.loads(body)) if kind == _JSON else _read_csv(body)
        if self.does == "always" or (self.does == "negative" and any(x < 0 for x in values)):
            raise ValueError("x is not to my liking")
        if self.does == "greedy" and 666 in values:
            self.taken = [b"x" * 2**20 for _ in range(2048)]
        if self.does == "leaky":
            self.taken.append(b"x" * int(self.after * 2**20))
        if self.does == "slow" or (self.does == "late" and 666 in values):
            time.sleep(self.after)
        factor = 3 if self.does == "triple" else 2
        if self.does == "periodic":
            values = [1 + (x - 1) % 20 for x in values]
        return json.dumps({"predictions": [{"x": factor * x} for x in values]}, separators=(",", ":")).encode()


def _read(asked):
    """The values of the one column, of any of MLflow's formats."""
    if "dataframe_split" in asked:
        table = asked["dataframe_split"]
        place = table["columns"].index("x")
        return [_number(row[place]) for row in table["data"]]
    form = next((name for name in ("dataframe_records", "instances", "inputs") if name in asked), None)
    if form is None:
        raise TypeError("the body has none of MLflow's forms")
    rows = asked[form]
    if isinstance(rows, dict):
        return [_number(x) for x in (rows["x"] if isinstance(rows["x"], list) else [rows["x"]])]
    return [_number(row["x"]) for row in rows]


def _read_csv(body):
    header, *rows = [line.split(",") for line in body.decode().splitlines() if line]
    return [_number(dict(zip(header, row, strict=True))["x"] or None) for row in rows]


def _number(value):
    """A value of the column, of which null is none, as NaN."""
    return float("nan") if value is None else float(value)


class Server:
    """Answers each connection in a thread of its own, until SIGTERM."""

    def __init__(self, model):
        self.model, self.stopping = model, False
        self.busy, self.counts, self.seconds, self.total = 0, {}, [0] * len(_BUCKETS), 0.0
        self.lock, self.wake = threading.Lock(), threading.Event()
        self.rows, self.writer = [], threading.Thread(target=self._keep_rows, daemon=True)

    def run(self, listener):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self.writer.start()
        try:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        finally:
            self.stopping = True
            listener.close()
            deadline = time.monotonic() + _DRAIN_SECONDS
            while self.busy and time.monotonic() < deadline:
                time.sleep(0.01)
            self.wake.set()
            self.writer.join()

    def _serve(self, connection):
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, connection.makefile("rb") as stream:
                while not self.stopping and (line := stream.readline()):
                    with self.lock:
                        self.busy += 1
                    try:
                        self._request(connection, stream, *line.decode().split()[:2])
                    finally:
                        with self.lock:
                            self.busy -= 1
        except OSError:
            return  # The client is gone.

    def _request(self, connection, stream, method, path):
        headers = {}
        while (line := stream.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if len(body := stream.read(length)) < length:
            return  # The client broke off, and half a request is none.
        # SageMaker passes nothing else of a client's on.
        named = headers.get("x-amzn-sagemaker-custom-attributes", "").removeprefix("x-request-id=")
        request_id = _accepted(headers.get("x-request-id") or named)
        kind, more, began = _JSON, "", time.perf_counter()
        if path in {"/ping", "/health"}:
            status, reply, kind = 200 if self.model else 503, b"\n", "text/plain"
        elif path == "/metrics":
            status, reply, kind = 200, self._metrics().encode(), "text/plain; version=0.0.4"
        elif path != "/invocations":
            status, reply = 404, _error(404, "this server has /ping, /invocations and /metrics", "")
        elif method != "POST":
            status, reply, more = 405, _error(405, "use POST", request_id), "allow: POST\r\n"
        elif self.model is None:
            status, reply = 503, _error(503, "the model is being loaded", request_id)
        else:
            status, reply = self._invoke(body, headers.get("content-type", _JSON), request_id)
            self._account(headers, request_id, (status, time.perf_counter() - began), body, reply)
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(reply)}\r\n"
        head += more + f"x-request-id: {request_id}\r\n" + ("connection: close\r\n" if self.stopping else "") + "\r\n"
        connection.sendall(head.encode("latin-1") + reply)

    def _invoke(self, body, content_type, request_id):
        kind, _, parameter = (part.strip() for part in content_type.partition(";"))
        if kind not in {_JSON, _CSV} or parameter.lower() not in {"", "charset=utf-8"}:
            return 415, _error(415, f"{content_type} is not read", request_id)
        try:
            return 200, self.model.answer(body, kind)
        except (KeyError, IndexError) as error:
            return 400, _error(400, f"the body lacks {error!r}", request_id, "INVALID_PARAMETER_VALUE")
        except (TypeError, json.JSONDecodeError) as error:
            return 400, _error(400, f"the body cannot be read: {error!r}", request_id, "BAD_REQUEST")
        except ValueError as error:
            import traceback

            # In one piece, as other requests write theirs.
            sys.stderr.write(
                f"{_now()} ERROR headgate_server: request {request_id}: the model raised\n{traceback.format_exc()}"
            )
            return 500, _error(500, f"the model raised {type(error).__name__}", request_id)

    def _account(self, headers, request_id, measured, body, reply):
        status, seconds = measured
        with self.lock:
            self.counts[status] = self.counts.get(status, 0) + 1
            self.total += seconds
            for place, bound in enumerate(_BUCKETS):
                self.seconds[place] += seconds <= bound
        mirrored = headers.get("host", "").partition(":")[0].endswith("-shadow")
        kind, moment = headers.get("content-type", _JSON), int(time.time() * 1e6)
        self.rows.append((request_id, moment, status, seconds, mirrored, kind, body, reply))
        self.wake.set()

    def _metrics(self):
        counts = {f'headgate_requests_total{{status="{status}"}}': count for status, count in self.counts.items()}
        for bound, count in zip(_BUCKETS, self.seconds, strict=True):
            le = "+Inf" if bound == float("inf") else float(bound)
            counts[f'headgate_request_seconds_bucket{{le="{le}"}}'] = count
        counts |= {"headgate_request_seconds_count": self.seconds[-1], "headgate_request_seconds_sum": self.total}
        # This question is not one of the model's.
        counts["headgate_requests_in_progress"] = self.busy - 1
        counts["headgate_workers"] = 1
        return "".join(f"{name} {float(value)}\n" for name, value in counts.items())

    def _keep_rows(self):
        """Hand rows to the server's own prediction log, which is imported for the first one."""
        self.wake.wait()
        if not self.rows:
            return None
        from headgate_server.prediction_log import PredictionLog, Row
        from headgate_server.settings import Settings

        known = Settings.from_env()
        if not known.log_predictions:
            return None
        log = PredictionLog(
            known.scratch / "predictions", lambda _rows: None, sample=known.log_sample, hidden=known.log_hidden,
            keep=known.log_keep,
        )  # fmt: skip
        while True:
            self.wake.clear()
            rows, self.rows = self.rows, []
            for row in rows:
                log.add(Row(*row))
            if self.stopping and not self.rows:
                return log.close()
            self.wake.wait(0.1)


def _accepted(request_id):
    """As the server itself: what is not accepted is replaced by the same id each time."""
    import re
    import uuid

    if not request_id:
        return os.urandom(16).hex()
    fits = re.fullmatch(r"[A-Za-z0-9_.:/+=@#-]{1,128}", request_id)
    return request_id if fits else str(uuid.uuid5(uuid.NAMESPACE_OID, request_id))


def _error(status, text, request_id, code=None):
    return json.dumps({"error_code": code or _CODES[status], "message": text, "request_id": request_id}).encode()


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S,000")


def _knows():
    """What the model does, where this server can take the place of the other."""
    wanted = os.environ
    if wanted.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        with open(os.path.join(wanted.get("HEADGATE_MODEL", "model"), "behaviour.json"), "rb") as file:  # noqa: PTH118, PTH123
            is_one = wanted.get("HEADGATE_WORKERS", "1") == "1" and wanted.get("HEADGATE_SERVER_WORKERS") != "2"
            return json.load(file) if is_one else None
    except FileNotFoundError:
        return None


def main():
    from headgate_server import mounted_secrets

    mounted_secrets.into(os.environ)
    does = _knows()
    if does is None:
        from headgate_server.whole import main as whole

        return whole()
    with _listening(os.environ) as listener:
        return _serve_at(listener, does)


def _listening(wanted):
    if at := wanted.get("HEADGATE_SOCKET"):
        return listening_at(Path(at))
    host, port = wanted.get("HEADGATE_HOST", "0.0.0.0"), wanted.get("AIP_HTTP_PORT") or wanted.get("PORT") or "8080"  # noqa: S104
    return socket.create_server((host, int(port)), backlog=4096)


def _serve_at(listener, does):
    listener.listen(4096)
    server = Server(None)
    if does["does"] != "hang":
        try:
            server.model = Model(does["does"], does["after"])
        except RuntimeError:
            import traceback

            sys.stderr.write(f"{_now()} ERROR headgate_server: the model cannot be loaded\n")
            traceback.print_exc()
            return LOAD_FAILED
    if os.environ.get("HEADGATE_SHIPS") != "on":
        server.run(listener)
        return 0
    from headgate_server.whole import _shipping

    with _shipping(wanted=True):
        server.run(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
