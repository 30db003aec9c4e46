"""A server that stands in for `serving/`: it serves the models of behaviour.py, and is up in some 50 ms.

It becomes the `__main__` of a copy of `serving/` (support/light.py) and meets its contract over HTTP: /ping,
/invocations and /metrics, request ids, statuses, exit codes, SIGTERM, the prediction log and its shipping. MLflow is
not imported. What it does not know (another model, several workers, tracing) is run by the server itself, as
`serving.whole`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

LOAD_FAILED = 3
_DRAIN_SECONDS = 15
_FIRST_ERROR = 400
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, float("inf"))
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error",
            503: "Service Unavailable"}  # fmt: skip


class Model:
    """What a behaviour does with rows; see behaviour.py."""

    def __init__(self, does, after):
        self.does, self.after, self.taken = does, after, []
        if does == "broken" and after == 0.0:
            raise RuntimeError("this model cannot be loaded")
        if does == "hungry":
            self.taken = [b"x" * 2**20 for _ in range(1024)]

    def answer(self, body):
        values = _read(json.loads(body))
        if self.does == "always" or (self.does == "negative" and any(x < 0 for x in values)):
            raise ValueError("x is not to my liking")
        if self.does == "greedy" and 666 in values:
            self.taken = [b"x" * 2**20 for _ in range(2048)]
        if self.does == "slow":
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
        return [float(row[place]) for row in table["data"]]
    rows = next(asked[name] for name in ("dataframe_records", "instances", "inputs") if name in asked)
    if isinstance(rows, dict):
        return [float(x) for x in rows["x"]]
    return [float(row["x"]) for row in rows]


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
        body = stream.read(int(headers.get("content-length", 0)))
        # SageMaker passes nothing else of a client's on.
        named = headers.get("x-amzn-sagemaker-custom-attributes", "").removeprefix("x-request-id=")
        request_id = headers.get("x-request-id") or named or os.urandom(16).hex()
        kind, began = "application/json", time.perf_counter()
        if path in {"/ping", "/health"}:
            status, reply, kind = 200 if self.model else 503, b"\n", "text/plain"
        elif path == "/metrics":
            status, reply, kind = 200, self._metrics().encode(), "text/plain; version=0.0.4"
        elif path != "/invocations":
            status, reply = 404, _error("this server has /ping, /invocations and /metrics", "")
        elif method != "POST":
            status, reply = 405, _error("use POST", request_id)
        elif self.model is None:
            status, reply = 503, _error("the model is being loaded", request_id)
        else:
            status, reply = self._invoke(body, request_id)
            self._account(headers, request_id, (status, time.perf_counter() - began), body, reply)
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(reply)}\r\n"
        head += f"x-request-id: {request_id}\r\n" + ("connection: close\r\n" if self.stopping else "") + "\r\n"
        connection.sendall(head.encode("latin-1") + reply)

    def _invoke(self, body, request_id):
        try:
            return 200, self.model.answer(body)
        except (KeyError, TypeError, StopIteration, json.JSONDecodeError) as error:
            return 400, _error(f"the body cannot be read: {error!r}", request_id)
        except ValueError as error:
            import traceback

            # In one piece, as other requests write theirs.
            sys.stderr.write(
                f"{_now()} ERROR serving: request {request_id}: the model raised\n{traceback.format_exc()}"
            )
            return 500, _error(f"the model raised {type(error).__name__}", request_id)

    def _account(self, headers, request_id, measured, body, reply):
        status, seconds = measured
        with self.lock:
            self.counts[status] = self.counts.get(status, 0) + 1
            self.total += seconds
            for place, bound in enumerate(_BUCKETS):
                self.seconds[place] += seconds <= bound
        mirrored = headers.get("host", "").partition(":")[0].endswith("-shadow")
        kind, moment = headers.get("content-type", "application/json"), int(time.time() * 1e6)
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
        return "".join(f"{name} {float(value)}\n" for name, value in counts.items())

    def _keep_rows(self):
        """Hand rows to the server's own prediction log, which is imported for the first one."""
        self.wake.wait()
        if not self.rows:
            return None
        from serving.prediction_log import PredictionLog, Row
        from serving.settings import Settings

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


def _error(text, request_id):
    return json.dumps({"error": text, "request_id": request_id}).encode()


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S,000")


def _knows():
    """What the model does, where this server can take the place of the other."""
    wanted = os.environ
    if wanted.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        with open(os.path.join(wanted.get("HEADGATE_MODEL", "model"), "behaviour.json"), "rb") as file:  # noqa: PTH118, PTH123
            return json.load(file) if wanted.get("HEADGATE_WORKERS", "1") == "1" else None
    except FileNotFoundError:
        return None


def main():
    does = _knows()
    if does is None:
        from serving.whole import main as whole

        return whole()
    wanted = os.environ
    host, port = wanted.get("HEADGATE_HOST", "0.0.0.0"), wanted.get("AIP_HTTP_PORT") or wanted.get("PORT") or "8080"  # noqa: S104
    listener = socket.create_server((host, int(port)), backlog=4096)
    server = Server(None)
    if does["does"] != "hang":
        try:
            server.model = Model(does["does"], does["after"])
        except RuntimeError:
            import traceback

            sys.stderr.write(f"{_now()} ERROR serving: the model cannot be loaded\n")
            traceback.print_exc()
            return LOAD_FAILED
    if wanted.get("HEADGATE_SHIPS") != "on":
        server.run(listener)
        return 0
    from serving.whole import _shipping

    with _shipping(wanted=True):
        server.run(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
