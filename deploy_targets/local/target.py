"""The local target: a revision is one supervised server process, behind the gateway of the local stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from deploy_targets.behind_envoy import NOBODY_STARTS_IT, PROMETHEUS_RINGS, BehindEnvoy
from deploy_targets.protocol import Feature
from headgate.errors import TargetUnavailableError
from headgate.records import RevisionState
from headgate.stack import Program
from headgate.stack.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.records import Revision

_LOG_LINES = 15


class LocalTarget(BehindEnvoy):
    """Processes of `serving/`, each in its model's own environment, with weights in Envoy."""

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
            state = known.get(name) or RevisionState(name=name, ready=False, address=self._address(endpoint, name))
            servers[name] = state.model_copy(update={"ready": running, "detail": detail})
        return servers

    def _address(self, endpoint: str, revision: str) -> str:
        port = self._supervisor.environment(_program_name(endpoint, revision)).get("PORT", "0")
        return f"http://{HOST}:{port}"

    def _served(self) -> set[str]:
        names = [name for name in self._supervisor.states() if _revision_of(name) != name]
        return {name.rpartition("--")[0] for name in names}

    def _start(self, endpoint: str, revision: Revision, port: int) -> None:
        scratch = self._scratch(endpoint, revision.name)
        scratch.mkdir(parents=True, exist_ok=True)
        env = {
            **self._env(endpoint, revision),
            "HEADGATE_HOST": HOST,
            "HEADGATE_SCRATCH": str(scratch),
            "PORT": str(port),
            # Whatever is set here: what the first server of an environment compiles, seconds of it, the next need not.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONUNBUFFERED": "1",
        }
        command = [str(revision.image.interpreter), "-m", "serving"]
        name = _program_name(endpoint, revision.name)
        self._supervisor.ensure(Program(name, command, env, folder=revision.image.path, stop_seconds=20))

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
        self._supervisor.remove(_program_name(endpoint, revision))


def _program_name(endpoint: str, revision: str) -> str:
    return f"{endpoint}--{revision}"


def _revision_of(program: str) -> str:
    return program.rpartition("--")[2]
