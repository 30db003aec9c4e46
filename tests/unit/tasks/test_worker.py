"""A worker that waits for its server ends when it is told to, also as a container's first process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from support.small_server import answering


def test_one_that_waits_ends_by_its_own_handler():
    asked = threading.Event()

    def away(path):
        if path == "/api/health":
            asked.set()
        return 503, b""

    with answering(away) as url:
        command = [sys.executable, "-m", "tasks.worker", "start", "--pool", "p", "--type", "process"]
        with subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": f"{url}/api"}) as worker:
            assert asked.wait(120), "it never asked for its server"
            worker.send_signal(signal.SIGTERM)
            # A default action of the kernel's would be -15, and would not be taken where it is process 1.
            assert worker.wait(60) == 128 + signal.SIGTERM
