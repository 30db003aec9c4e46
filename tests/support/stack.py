"""Starting the local stack, whole or in part, for as long as a test session lasts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deploy_targets.envoy import Gateway
from headgate.home import Home
from headgate.sign_in import PREFECT_SIGN_IN, PrefectSignIn
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import client_env, stack_programs
from support import watched_logs
from support.processor import patient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

http = httpx.Client(timeout=90, limits=httpx.Limits(max_keepalive_connections=0))
"""For questions that are asked again and again: `httpx.get` reads certificates for a tenth of a second each time.

A Prefect server on SQLite may stand still for a minute, as long as it waits for a lock of its database.
"""


def prefect_client(env: Mapping[str, str]) -> httpx.Client:
    """A client of the Prefect server that an environment names, signed in as it says; paths begin below its API."""
    api = env["PREFECT_API_URL"]
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=api, timeout=90, limits=limits, auth=PrefectSignIn.of(api, env))


@contextmanager
def prefect_settings(env: Mapping[str, str]) -> Iterator[None]:
    """Have this process's Prefect, which was imported in another environment, use and sign in to an environment's."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings(
        {PREFECT_API_URL: env["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: env.get(PREFECT_SIGN_IN)}
    ):
        yield


HEADGATE = str(Path(sys.executable).parent / "headgate")


@dataclass(frozen=True)
class Stack:
    """A running local stack."""

    root: Path
    ports: Ports
    env: dict[str, str]

    @property
    def home(self) -> Home:
        return Home(self.root)

    @cached_property
    def prefect(self) -> httpx.Client:
        """Asks the Prefect server's API, signed in."""
        return prefect_client(self.env)

    def headgate(
        self, *arguments: str, expect: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user would."""
        return headgate(*arguments, root=self.root, expect=expect, env=env)

    def json(self, *arguments: str, expect: int = 0) -> Any:
        """The JSON that a command prints last."""
        return json.loads(self.headgate(*arguments, "--json", expect=expect).stdout.splitlines()[-1])


def headgate(
    *arguments: str, root: Path, expect: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [HEADGATE, *arguments], capture_output=True, text=True, check=False, timeout=400,
        env={**os.environ, "HEADGATE_HOME": str(root), **(env or {})},
    )  # fmt: skip
    assert done.returncode == expect, f"headgate {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@contextmanager
def start_gateway(root: Path, threads: int = 2) -> Iterator[Home]:
    home = Home(root).ensure()
    ports = Ports.choose(home)
    gateway, supervisor = Gateway(home.gateway, ports), Supervisor(home)
    gateway.prepare()
    supervisor.start()
    watched_logs.watch(home.logs)
    try:
        program = next(program for program in stack_programs(home, ports) if program.name == "gateway")
        program.command[program.command.index("--concurrency") + 1] = str(threads)
        supervisor.ensure(program)
        wait_for(gateway.is_up, 20)
        yield home
    finally:
        supervisor.stop()
        watched_logs.unwatch(home.logs)


@contextmanager
def start_stack(root: Path) -> Iterator[Stack]:
    begin_stack(root)
    try:
        yield running_stack(root)
    finally:
        end_stack(root)
        watched_logs.unwatch(Home(root).logs)


def begin_stack(root: Path) -> None:
    headgate("up", root=root)
    watched_logs.watch(Home(root).logs)


def running_stack(root: Path) -> Stack:
    home = Home(root)
    ports = Ports.remembered(home)
    assert ports is not None
    return Stack(root, ports, client_env(home, ports))


def end_stack(root: Path) -> None:
    headgate("down", root=root)


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What the condition gives once it is true, which takes a usual machine at most so many seconds."""
    deadline = time.monotonic() + patient(seconds)
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true after {patient(seconds):.0f} s: {condition}"
        time.sleep(0.05)
    return value
