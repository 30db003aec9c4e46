"""Hold the server's socket, start its worker processes, and replace a worker that has ended.

A server that was asked for one process starts a second worker once the first has loaded the model, where it has room
(room.py): a request that hangs then costs at most the requests of its worker. The second worker, and one that
takes another's place beside a worker that answers, accepts connections only once it has loaded the model.

The socket stays open while a worker is replaced, so connections wait in its queue and none is refused. A worker ends
itself when a request has missed its deadline (deadline.py); the parent kills workers that do not answer /ping for
longer than that (health.py). uvicorn's own parent also kills a worker whose interpreter does not answer for five
seconds, which happens while some models load; this parent does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from uvicorn.supervisors.multiprocess import Multiprocess, Process

from headgate_server import gpu, health, metrics, room

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from uvicorn import Config, Server

    from headgate_server.settings import Settings

logger = logging.getLogger("headgate_server")

MAIN_PID = "HEADGATE_MAIN_PID"
LOAD_FAILED = 3
CRASHED = 1
LATE = 4
"""The exit code of a worker of which a request missed its deadline."""
_ENDED, _LOADS, _SPARE = "HEADGATE_WORKERS_ENDED", "HEADGATE_WORKER_LOADS", "HEADGATE_WORKER_SPARE"
_LOOK_SECONDS = 1.0
"""Between two looks at the memory of two workers."""
LOADS_AGAIN = 3.0
"""How many times as long as the first load a worker in the place of another may take to load the model."""
_UNHEALTHY_SECONDS = 10.0
"""What a server may be without an answer to /ping beyond the time within which it answers again by itself."""
_NOTE = "workers"
LOADING, LOADED = "model-loading", "model-worker"
"""Names of a second worker's process, before and after it has loaded the model: deploy_targets/processes.py passes over
the first, so that what the server uses grows by a worker at once and not while one loads."""
_worker: _Worker | None = None


def stop_accepting() -> None:
    """Stop accepting connections in this worker process; the socket's queue keeps them for the next worker."""
    if _worker is not None:
        for listener in _worker.server.servers:
            listener.close()


def tell_loaded() -> None:
    """Tell the parent that this worker process has loaded the model."""
    if _worker is not None:
        _worker.child_conn.send_bytes(b"loaded")
        os.kill(int(os.environ[MAIN_PID]), signal.SIGUSR2)


def when_retired(loop: AbstractEventLoop, end: Callable[[], None]) -> None:
    """Have this worker process end as it is told when the parent retires it (`_Worker.retire`)."""
    if _worker is not None:
        loop.add_signal_handler(signal.SIGUSR1, end)


def name_process(name: str) -> None:
    """Set the name that the kernel shows for this process, of at most 15 letters, where the kernel has such names."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def _end_with_parent(server: Server) -> None:
    """End this worker when its parent was killed: nothing else would, and it would keep the socket."""
    parent = parent_process()
    assert parent is not None  # noqa: S101 - it is a worker
    parent.join()
    if not server.started:
        # uvicorn obeys a signal only once the model is loaded.
        os._exit(CRASHED)
    signal.raise_signal(signal.SIGTERM)


class _Worker(Process):
    """Run one worker, and let its app stop the server's listeners.

    Attributes:
        is_loaded: whether it has told the parent that it has loaded the model.
        is_retired: whether it was told to end, without another in its place.
        is_spare: whether another one answers while it loads.
    """

    is_loaded = is_retired = is_spare = False

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM; uvicorn runs it in the new process."""
        global _worker  # noqa: PLW0603 - there is one in a process
        _worker = self
        threading.Thread(target=_end_with_parent, args=(self.server,), name="parent", daemon=True).start()
        self.server.run(sockets)

    def listen(self) -> None:
        """Note what it has told the parent."""
        if not self.is_loaded and not self.parent_conn.closed and self.parent_conn.poll():
            self.is_loaded = self.parent_conn.recv_bytes() == b"loaded"

    def retire(self) -> None:
        """Have it answer its requests and end."""
        assert self.pid is not None  # noqa: S101 - it was started
        self.is_retired = True
        os.kill(self.pid, signal.SIGUSR1)


class Workers(Multiprocess):
    """Run as many workers as were asked for, or one and a second one where it has room.

    Args:
        config: uvicorn's.
        listener: the socket that all workers accept from.
        settings: the server's.

    Attributes:
        exit_code: of this process, once `run` has returned.

    Raises:
        SettingError: HEADGATE_SERVER_MEMORY is no size.
    """

    processes: list[_Worker]  # type: ignore[assignment] # uvicorn's is of its own class

    def __init__(self, config: Config, listener: socket.socket, settings: Settings) -> None:
        super().__init__(config, [listener])
        self.exit_code = 0
        self._settings = settings
        self._ended = 0
        self._started = time.monotonic()
        self._load_seconds = 0.0
        self._wanted = settings.server_workers
        self._note = settings.scratch / _NOTE if settings.scratch is not None else None
        self._figures = room.Figures(
            room.memory_limit(os.environ.get("HEADGATE_SERVER_MEMORY", "")), room.cpus(), gpu.is_seen(),
            had_two=self._had_two(),
        )  # fmt: skip
        self._is_decided = settings.workers > 1
        if settings.workers > 1:
            self._together(settings)
        elif why := room.why_one(self._wanted, self._figures) or self._together(settings):
            self._say(1, why)
        # Python writes to one end when a signal comes, so that waiting for it and for workers is one call.
        self._signals, woken = socket.socketpair()
        for end in (self._signals, woken):
            end.settimeout(0)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self._woken = woken

    def run(self) -> None:
        """Serve until SIGTERM, or until a worker cannot load the model; see `exit_code`."""
        self.init_processes()
        threading.Thread(target=self._see_to_health, name="health", daemon=True).start()
        while not self.should_exit.is_set():
            # A worker alone has nothing to give up, and workers that were asked for stay.
            is_looked_at = self._wanted == "auto" and self.processes_num == 1 and len(self._serving()) > 1
            wait(
                [self._signals, *(worker.process.sentinel for worker in self.processes)],
                _LOOK_SECONDS if is_looked_at else None,
            )
            self._read_signals()
            self.keep_subprocess_alive()
            if is_looked_at:
                self._relieve()
        # Else connections would wait for workers that take no more.
        for listener in self.sockets:
            listener.close()
        for worker in self.processes:
            worker.listen()
            if worker.is_spare and not worker.is_loaded:
                # It has no requests, and would end only once it has loaded the model.
                worker.kill()
            else:
                worker.terminate()
        self.join_all()

    def init_processes(self) -> None:
        """Start the first workers."""
        self.processes = [self._start() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended; where a second one ended before it answered, go on with one."""
        for worker in list(self.processes):
            if self.should_exit.is_set() or worker.process.exitcode is None:
                continue
            worker.listen()
            is_pair = self.processes_num == 1 and len(self.processes) > 1
            if worker.is_retired or (is_pair and not worker.is_loaded):
                self._drop(worker)
                continue
            if not self._load_seconds or (self.processes_num == 1 and not worker.is_loaded):
                # The platform starts all of it again, later each time.
                logger.error("worker %s ended with %s while it loaded the model", worker.pid, worker.exitcode)
                self.exit_code = LOAD_FAILED if worker.exitcode == LOAD_FAILED else CRASHED
                self.should_exit.set()
                return
            why = "a request missed its deadline" if worker.exitcode == LATE else f"it ended with {worker.exitcode}"
            logger.warning("worker %s: %s; another takes its place", worker.pid, why)
            assert worker.pid is not None  # noqa: S101 - it was started
            metrics.forget(worker.pid)
            self._ended += 1
            place = self.processes.index(worker)
            # Two workers of one server: the other one answers meanwhile.
            self.processes[place] = self._start(self._ended, is_spare=is_pair and bool(self._serving()))

    def handle_usr1(self) -> None:
        """Stop all workers: one of them cannot load the model."""
        self.exit_code = LOAD_FAILED
        self.should_exit.set()

    def handle_hup(self) -> None:
        """Do nothing, nor at SIGTTIN and SIGTTOU, by which uvicorn's own parent changes its workers."""

    handle_ttin = handle_ttou = handle_hup

    def handle_usr2(self) -> None:
        """Note which workers have loaded the model, and how long the first one has taken."""
        for worker in self.processes:
            worker.listen()
        self._load_seconds = self._load_seconds or time.monotonic() - self._started
        if not self._is_decided and self._serving():
            self._decide()

    def _decide(self) -> None:
        """Start a second worker where there is room for it, now that the first one can be measured."""
        (first,) = self._serving()
        assert first.pid is not None  # noqa: S101 - it was started
        others = sum(room.resident(pid) for pid in (room.children() | {os.getpid()}) - {first.pid})
        self._figures = self._figures._replace(worker=room.resident(first.pid), others=others)
        if not self._figures.worker and first.process.exitcode is not None:
            # The worker in its place is measured.
            return
        why = room.why_one(self._wanted, self._figures)
        if not why and self._wanted == "auto" and not self._figures.worker:
            why = "/proc does not say how much memory it uses"
        if not why and not metrics.is_shared(first.pid):
            why = "the disk has no space for what two count together"
        self._say(1 if why else 2, why)
        if not why:
            self.processes.append(self._start(is_spare=True))

    def _say(self, number: int, why: str) -> None:
        """Log how many workers there are, with the figures, and note it for when this server is started again."""
        self._is_decided = True
        logger.info("workers: %d%s; %s", number, f", as {why}" if why else "", room.in_words(self._figures))
        if self._note is not None:
            try:
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(f"{number}\n", encoding="ascii")
            except OSError as error:
                logger.warning("the number of workers is not noted: %s", error)

    def _had_two(self) -> bool:
        try:
            return self._note is not None and self._note.read_text(encoding="ascii").strip() == "2"
        except (OSError, UnicodeDecodeError):
            return False

    def _together(self, settings: Settings) -> str:
        """Prepare the folder of what several workers count together; return why that cannot be, or an empty text."""
        if settings.scratch is None:
            return "it has no folder to write to (HEADGATE_SCRATCH)"
        try:
            metrics.share(settings.scratch)
        except OSError as error:
            return f"what two count together cannot be written: {error}"
        return ""

    def _see_to_health(self) -> None:
        """End workers that do not answer /ping, although the deadline has ended what a request could hold up.

        Such a worker was stopped, or hangs while it loads the model again. What ends while it loads ends the server,
        and the platform starts it anew.
        """

        def give_up(seconds: float) -> None:
            logger.error("/ping was not answered with 200 for %.0f s: the workers are killed", seconds)
            for worker in list(self.processes):
                worker.kill()

        def patience() -> float:
            loads = any(not worker.is_loaded for worker in list(self.processes))
            load_seconds = LOADS_AGAIN * self._load_seconds if loads else 0.0
            return max(self._settings.deadline, load_seconds) + _UNHEALTHY_SECONDS

        health.watch(
            lambda: not self._load_seconds or health.is_ready(self._settings), give_up, patience, self.should_exit
        )

    def _relieve(self) -> None:
        """End the larger of two workers where the server's memory is near its limit."""
        serving, limit = self._serving(), self._figures.limit
        if limit is None or len(serving) < 2:  # noqa: PLR2004
            return
        used = sum(room.resident(pid) for pid in room.children() | {os.getpid()})
        if used < limit * room.TIGHT_PART:
            return
        largest = max(serving, key=lambda worker: room.resident(worker.pid or 0))
        logger.warning(
            "worker %s is ended, and one is left: the server has %d MiB of %d MiB of memory in use, of which this "
            "worker has %d MiB", largest.pid, used >> 20, limit >> 20, room.resident(largest.pid or 0) >> 20,
        )  # fmt: skip
        largest.retire()
        self._say(1, "memory was near its limit")

    def _drop(self, worker: _Worker) -> None:
        """Go on without a worker that has ended."""
        if not worker.is_retired:
            logger.error(
                "worker %s ended with %s while it loaded the model; the server goes on with the other worker",
                worker.pid, worker.exitcode,
            )  # fmt: skip
            self._say(1, "the other one could not load the model")
        assert worker.pid is not None  # noqa: S101 - it was started
        metrics.forget(worker.pid)
        self.processes.remove(worker)

    def _serving(self) -> list[_Worker]:
        """The workers that have loaded the model, live, and were not told to end."""
        return [
            worker for worker in self.processes
            if worker.is_loaded and not worker.is_retired and worker.process.exitcode is None
        ]  # fmt: skip

    def _start(self, ended: int = 0, *, is_spare: bool = False) -> _Worker:
        """Start a worker.

        Args:
            ended: how many have ended before it; 0 where it takes no other's place.
            is_spare: whether another one answers while it loads.
        """
        os.environ |= {_ENDED: str(ended), _LOADS: str(self._load_seconds), _SPARE: str(int(is_spare))}
        worker = _Worker(self.config, self.sockets)
        worker.is_spare = is_spare
        worker.start()
        return worker

    def _read_signals(self) -> None:
        try:
            self._signals.recv(4096)
        except BlockingIOError:
            return
        self.handle_signals()
