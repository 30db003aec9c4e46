"""The local target: a revision is one supervised server process, behind the gateway of the local stack."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from deploy_targets.behind_envoy import NOBODY_STARTS_IT, PROMETHEUS_RINGS, BehindEnvoy
from deploy_targets.processes import usage_of
from deploy_targets.protocol import Feature
from deploy_targets.server_address import ServerAddress
from headgate.errors import TargetUnavailableError
from headgate.findings import Finding
from headgate.inherited import SERVER
from headgate.records import RevisionState
from headgate.stack import Program
from headgate.stack.ports import HOST
from headgate.stack.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headgate.records import Revision, Usage

_LOG_LINES = 15
_KNOWS_SOCKETS = "listener.py"
"""The module that the server in a bundle has since it can listen on a Unix socket."""


class LocalTarget(BehindEnvoy):
    """Processes of `headgate_server/`, each in its model's own environment, with weights in Envoy."""

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.AUTOSCALING: "a fixed number of worker processes runs; set replicas.min and replicas.max alike",
        Feature.SCALE_TO_ZERO: NOBODY_STARTS_IT,
        Feature.CPU_LIMIT: "processes share this machine's cores",
        Feature.MEMORY_LIMIT: "processes share this machine's memory",
        Feature.GPU: "processes share this machine's devices",
        Feature.IMAGE: "it runs processes, not images",
        Feature.ALARMS: PROMETHEUS_RINGS,
    }
    RUNS_CONTAINERS: ClassVar[bool] = False

    def _servers(self, endpoint: str) -> Mapping[str, RevisionState]:
        known = self._gateway.revisions(endpoint)
        if not self._supervisor.is_up():
            if known:
                raise TargetUnavailableError("supervisord does not answer", fix="headgate up")
            return {}
        programs = self._supervisor.states()
        # Also those whose starter died before the gateway was told of them.
        started = {_revision_of(name) for name in programs if name == _program_name(endpoint, _revision_of(name))}
        servers = {}
        for name in {*known, *started}:
            program = programs.get(_program_name(endpoint, name))
            running = program is not None and program.state == "RUNNING"
            detail = "" if running else f"its process is {program.state if program else 'gone'}"
            state = known.get(name) or RevisionState(name=name, ready=False, address=self._told_address(endpoint, name))
            servers[name] = state.model_copy(update={"ready": running, "detail": detail})
        return servers

    def preflight(self) -> list[Finding]:
        """Whether the gateway and the supervisor run, and which servers other users of the machine can call."""
        return super().preflight() or list(self._at_ports())

    def _at_ports(self) -> Iterator[Finding]:
        programs = self._supervisor.states()
        for endpoint, revision, address in self._gateway.addresses():
            if address.port and _program_name(endpoint, revision) in programs:
                yield Finding(
                    severity="warning",
                    subject=endpoint,
                    problem=f"the server of {revision} listens at port {address.port} of this machine, where its other "
                    "users can call it past the gateway: it was made by an earlier version of Headgate",
                    fix="release the model again; its new server has a socket",
                )

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """What the processes of each revision's server use, its workers with it."""
        found = {}
        for name, program in self._supervisor.states().items():
            revision = _revision_of(name)
            is_ours = name == _program_name(endpoint, revision) and program.state == "RUNNING"
            if is_ours and (used := usage_of(program.pid)) is not None:
                found[revision] = used
        return found

    def _told_address(self, endpoint: str, revision: str) -> str:
        """Return where a server was told to listen; an empty text where it was told nothing."""
        env = self._supervisor.environment(_program_name(endpoint, revision))
        if socket := env.get("HEADGATE_SOCKET"):
            return str(ServerAddress(socket=socket))
        return str(ServerAddress(port=int(env["PORT"]))) if "PORT" in env else ""

    def _choose_address(self, endpoint: str, revision: Revision) -> ServerAddress:
        image = revision.image
        if not (image.path / image.server / _KNOWS_SOCKETS).exists():
            # The server in a bundle of an earlier version. It would listen at its default port on every interface.
            return self._free_port(endpoint)
        return ServerAddress(socket=str(self._sockets.path(_program_name(endpoint, revision.name))))

    @cached_property
    def _sockets(self) -> Sockets:
        return Sockets(self._home)

    def _served(self) -> set[str]:
        names = [name for name in self._supervisor.states() if _revision_of(name) != name]
        return {name.rpartition("--")[0] for name in names}

    def _start(self, endpoint: str, revision: Revision, address: ServerAddress) -> None:
        if address.socket:
            self._sockets.prepare()
        scratch = self._scratch(endpoint, revision.name)
        scratch.mkdir(parents=True, exist_ok=True)
        env = {
            **self._env(endpoint, revision),
            "HEADGATE_HOST": HOST,
            "HEADGATE_SCRATCH": str(scratch),
            # As earlier versions wrote it: what is written another way starts a server anew.
            **({"HEADGATE_SOCKET": address.socket} if address.socket else {"PORT": str(address.port)}),
            # Whatever is set here: what the first server of an environment compiles, seconds of it, the next need not.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONUNBUFFERED": "1",
        }
        command = [str(revision.image.interpreter), "-m", revision.image.server]
        name = _program_name(endpoint, revision.name)
        self._supervisor.ensure(
            Program(
                name,
                command,
                env,
                folder=revision.image.path,
                stop_seconds=20,
                inherits=SERVER,
                secrets=revision.secrets,
            )
        )

    def _has_ended(self, endpoint: str, revision: str) -> str:
        state = self._supervisor.states().get(_program_name(endpoint, revision))
        if state is None:
            return "no process"
        return state.detail or "it ended" if state.has_ended else ""

    def _log_tail(self, endpoint: str, revision: str) -> str:
        return self._supervisor.log_tail(_program_name(endpoint, revision), _LOG_LINES)

    def _where_log(self, endpoint: str, revision: str) -> str:
        return f"the whole log is {self._supervisor.log_file(_program_name(endpoint, revision))}"

    def _end(self, endpoint: str, revision: str) -> None:
        program = _program_name(endpoint, revision)
        self._supervisor.remove(program)
        # One that was killed has left it.
        self._sockets.remove(program)


def _program_name(endpoint: str, revision: str) -> str:
    return f"{endpoint}--{revision}"


def _revision_of(program: str) -> str:
    return program.rpartition("--")[2]
