"""The Docker target: a revision is one container of this machine, behind the gateway of the local stack.

What `observe` needs is in the containers' labels, so that it is known after our own folder was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig

from deploy_targets.behind_envoy import NOBODY_STARTS_IT, PROMETHEUS_RINGS, BehindEnvoy
from deploy_targets.docker import mounted_secrets
from deploy_targets.docker.stack import ENDPOINT, HOME_LABEL, REVISION, container_user, home_id
from deploy_targets.processes import usage_of
from deploy_targets.protocol import Feature
from deploy_targets.server_address import ServerAddress
from headgate.errors import RevisionFailedError, TargetError, TargetUnavailableError
from headgate.findings import Finding
from headgate.records import ModelVersion, Revision, RevisionState
from headgate.stack.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import DockerClient
    from docker.models.containers import Container

    from headgate.records import Usage

PORT = 8080
"""The port of the container contract (images/container.py)."""

SCRATCH = "/var/lib/headgate"
"""The one folder that a container may write to and that outlives it."""

_VERSION, _PORT, _REMOVE = (f"io.headgate.{name}" for name in ("version", "port", "remove-image"))
_PIDS = 1024
_LOG_LINES = 15
_API_SECONDS = 120
_STOP_SECONDS = 20


class DockerTarget(BehindEnvoy):
    """Containers without rights, each with a read-only root and limits, with weights in Envoy."""

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.AUTOSCALING: "a fixed number of worker processes runs; set replicas.min and replicas.max alike",
        Feature.SCALE_TO_ZERO: NOBODY_STARTS_IT,
        Feature.ALARMS: PROMETHEUS_RINGS,
    }
    RUNS_CONTAINERS: ClassVar[bool] = True

    def preflight(self) -> list[Finding]:
        """Whether the gateway and a daemon of this machine run."""
        findings = super().preflight()
        try:
            self._client.ping()
        except (TargetUnavailableError, DockerException, requests.RequestException) as error:
            fix = "start Docker, and see that this user may use it: docker info"
            findings.append(Finding(severity="error", subject="docker", problem=f"no daemon answers: {error}", fix=fix))
            return findings
        where = self._client.api.base_url
        if not where.startswith("http+docker://"):
            fix = "unset DOCKER_HOST: the gateway and the prediction log are on this machine"
            problem = f"DOCKER_HOST is another machine: {where}"
            findings.append(Finding(severity="error", subject="docker", problem=problem, fix=fix))
        return findings

    @cached_property
    def _client(self) -> DockerClient:
        try:
            return docker.from_env(timeout=_API_SECONDS)
        except DockerException as error:
            raise TargetUnavailableError(f"no Docker daemon answers: {error}", fix="start Docker") from error

    @cached_property
    def _home_id(self) -> str:
        return home_id(self._home)

    def _servers(self, endpoint: str) -> Mapping[str, RevisionState]:
        servers = {}
        for container in self._containers(endpoint):
            labels, why_not = container.labels, _why_not_running(container.attrs["State"])
            servers[labels[REVISION]] = RevisionState(
                name=labels[REVISION], ready=not why_not, detail=why_not,
                version=ModelVersion.model_validate_json(labels[_VERSION]),
                address=str(ServerAddress(port=int(labels[_PORT]))),
            )  # fmt: skip
        return servers

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """What the processes of each revision's container use.

        They are on this machine (see `preflight`). `docker stats` takes a second for a container, which a look has not.
        """
        found = {}
        for container in self._containers(endpoint):
            used = usage_of(container.attrs["State"]["Pid"], container=str(container.id))
            if container.status == "running" and used is not None:
                found[container.labels[REVISION]] = used
        return found

    def _served(self) -> set[str]:
        return {container.labels[ENDPOINT] for container in self._containers()}

    def _choose_address(self, endpoint: str, revision: Revision) -> ServerAddress:  # noqa: ARG002 - any port will do
        return self._free_port(endpoint)

    def _start(self, endpoint: str, revision: Revision, address: ServerAddress) -> None:
        container = self._find(endpoint, revision.name)
        if container is not None and container.status == "running":
            return
        self._pull(revision)
        if revision.secrets:
            folder = mounted_secrets.folder_of(self._home_id, endpoint, revision.name)
            mounted_secrets.write(self._home, folder, revision.secrets, container_user())
        try:
            if container is not None:
                container.remove(force=True)
            self._ensure_network()
            created = self._client.containers.create(**self._options(endpoint, revision, address.port))
            created.start()
        except (DockerException, requests.RequestException) as error:
            self._end(endpoint, revision.name)
            fix = "install the NVIDIA container toolkit" if "device driver" in str(error) else "docker info"
            raise RevisionFailedError(f"{revision.name} cannot start: {_reason(error)}", fix=fix) from error

    def _options(self, endpoint: str, revision: Revision, port: int) -> dict[str, Any]:
        scratch = self._scratch(endpoint, revision.name)
        scratch.mkdir(parents=True, exist_ok=True)
        user, group = container_user()
        if os.getuid() == 0:
            os.chown(scratch, user, group)
        secrets = mounted_secrets.folder_of(self._home_id, endpoint, revision.name)
        given = {mounted_secrets.NAMES: ",".join(sorted(revision.secrets))} if revision.secrets else {}
        mounted = {str(secrets): {"bind": mounted_secrets.FOLDER, "mode": "ro"}} if revision.secrets else {}
        limits, gpus = revision.resources, revision.resources.gpu
        return {
            "image": revision.image.reference,
            "name": f"headgate-{self._home_id}-{endpoint}--{revision.name}",
            "labels": {
                HOME_LABEL: self._home_id, ENDPOINT: endpoint, REVISION: revision.name, _PORT: str(port),
                _VERSION: revision.version.model_dump_json(), _REMOVE: "no" if revision.keep_image else "yes",
                **({mounted_secrets.LABEL: json.dumps(revision.secrets)} if revision.secrets else {}),
            },
            "environment": {**self._env(endpoint, revision), "HEADGATE_SCRATCH": SCRATCH, **given},
            "user": f"{user}:{group}",
            "volumes": {str(scratch): {"bind": SCRATCH, "mode": "rw"}, **mounted},
            "ports": {f"{PORT}/tcp": (HOST, port)},
            "network": self._network,
            "read_only": True,
            "tmpfs": {"/tmp": "size=256m,mode=1777"},  # noqa: S108 - the container's own
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": _PIDS,
            "nano_cpus": int(limits.cpu * 1e9) if limits.cpu else None,
            "mem_limit": limits.memory,
            # Without swap: a model in swap answers nobody.
            "memswap_limit": limits.memory,
            "device_requests": [DeviceRequest(count=gpus, capabilities=[["gpu"]])] if gpus else None,
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        }  # fmt: skip

    def _wait_until_ready(self, endpoint: str, address: ServerAddress, revision: Revision) -> None:
        super()._wait_until_ready(endpoint, address, revision)
        # Only now: one that cannot start shall not be tried for ever.
        container = self._find(endpoint, revision.name)
        if container is not None:
            container.update(restart_policy={"Name": "unless-stopped"})  # type: ignore[arg-type] # a private TypedDict

    def _has_ended(self, endpoint: str, revision: str) -> str:
        container = self._find(endpoint, revision)
        return "no container" if container is None else _why_not_running(container.attrs["State"])

    def _log_tail(self, endpoint: str, revision: str) -> str:
        container = self._find(endpoint, revision)
        return container.logs(tail=_LOG_LINES).decode(errors="replace").rstrip() if container else ""

    def _where_log(self, endpoint: str, revision: str) -> str:  # noqa: ARG002 - the container is gone by then
        return "raise runtime.memory if it ran out of it, or mend the model and log it again"

    def _end(self, endpoint: str, revision: str) -> None:
        container = self._find(endpoint, revision)
        try:
            if container is not None:
                # Somebody may be quicker.
                with contextlib.suppress(NotFound):
                    container.stop(timeout=_STOP_SECONDS)
                    container.remove(force=True, v=True)
            mounted_secrets.remove(mounted_secrets.folder_of(self._home_id, endpoint, revision))
            if container is not None and container.labels.get(_REMOVE) == "yes":
                self._remove_image(container.attrs["Image"])
            self._remove_network()
        except (APIError, requests.RequestException) as error:
            raise TargetError(f"not all of {revision} can be removed: {_reason(error)}", fix="docker info") from error

    def _remove_image(self, image: str) -> None:
        if not self._client.containers.list(all=True, filters={"ancestor": image}):
            self._client.images.remove(image, force=True)

    def _pull(self, revision: Revision) -> None:
        reference = revision.image.reference
        try:
            self._client.images.get(reference)
        except ImageNotFound as missing:
            repository, _, digest = reference.partition("@")
            if not digest:
                raise RevisionFailedError(
                    f"{revision.name} cannot start: this machine's Docker no longer has image {reference[:19]}",
                    fix="release the version again, or set image.repository, which keeps images",
                ) from missing
            try:
                self._client.images.pull(repository, tag=digest)
            except DockerException as error:
                raise RevisionFailedError(
                    f"{revision.name} cannot start: {reference} cannot be pulled: {_reason(error)}",
                    fix=f"docker pull {reference}",
                ) from error

    @property
    def _network(self) -> str:
        return f"headgate-{self._home_id}"

    def _ensure_network(self) -> None:
        """A network of our own, on which containers cannot reach each other."""
        if not self._client.networks.list(names=[f"^{self._network}$"]):
            self._client.networks.create(
                self._network, driver="bridge", check_duplicate=True, labels={HOME_LABEL: self._home_id},
                options={"com.docker.network.bridge.enable_icc": "false"},
            )  # fmt: skip

    def _remove_network(self) -> None:
        if self._client.containers.list(all=True, filters={"label": f"{HOME_LABEL}={self._home_id}"}):
            return
        for network in self._client.networks.list(names=[f"^{self._network}$"]):
            network.remove()

    def _find(self, endpoint: str, revision: str) -> Container | None:
        return next((found for found in self._containers(endpoint) if found.labels[REVISION] == revision), None)

    def _containers(self, endpoint: str = "") -> list[Container]:
        labels = [f"{HOME_LABEL}={self._home_id}", *([f"{ENDPOINT}={endpoint}"] if endpoint else [])]
        try:
            return list(self._client.containers.list(all=True, ignore_removed=True, filters={"label": labels}))
        except (DockerException, requests.RequestException) as error:
            raise TargetUnavailableError(f"Docker does not answer: {_reason(error)}", fix="docker info") from error


def _why_not_running(state: Mapping[str, Any]) -> str:
    """Empty where a container runs."""
    if state["Status"] == "running":
        return ""
    if state["Status"] == "created":
        return "its container was never started"
    why = "it ran out of memory" if state.get("OOMKilled") else f"it ended with exit code {state.get('ExitCode')}"
    return f"its container is {state['Status']}: {state.get('Error') or why}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)
