"""Calls to an API server, and what its errors mean here.

The official client finds the cluster and signs in, also by the commands of EKS, GKE and AKS; calls are plain JSON, as
its models refuse answers of servers that are older or newer than they are.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import weakref
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from deploy_targets.kubernetes.kubeconfig import BadKubeconfigError, require_sane
from deploy_targets.kubernetes.names import MANAGER, selector
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from contextlib import AbstractContextManager

_SECONDS = 30.0
_ASK_SECONDS = 5.0
"""For a pod to say something of itself."""
_CONNECT_TRIES = 2
_SHOWN = 500
"""Letters of a mistake in a kubeconfig; the client quotes whole entries."""
_MISTAKEN = (
    OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError, httpx.InvalidURL,
    yaml.YAMLError, subprocess.SubprocessError,
)  # fmt: skip
_RETRIED = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT}

GROUPS = {
    "deployments": "/apis/apps/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "roles": "/apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
    **dict.fromkeys(
        ("configmaps", "persistentvolumeclaims", "pods", "secrets", "services", "serviceaccounts"), "/api/v1"
    ),
}
"""Where kinds are whose version is the same in every cluster since 1.19."""
NEWEST = {
    "poddisruptionbudgets": ("policy", ("v1", "v1beta1")),
    "horizontalpodautoscalers": ("autoscaling", ("v2", "v2beta2")),
    "endpointslices": ("discovery.k8s.io", ("v1", "v1beta1")),
    "httproutes": ("gateway.networking.k8s.io", ("v1", "v1beta1")),
    "scaledobjects": ("keda.sh", ("v1alpha1",)),
    "inferenceservices": ("serving.kserve.io", ("v1beta1",)),
}
"""Kinds whose version has to be asked for: the group, and its versions that we know, the newest first."""


class ChangedError(TargetError):
    """Somebody else changed it first, or it is there already."""


class NotAllowedError(TargetError):
    """Whoever asks has no right to."""


class Api:
    """The objects of one namespace, with our errors for the API server's.

    Args:
        context: of the kubeconfig; empty for its current one, or for the cluster around this pod.
        namespace: which.
    """

    def __init__(self, context: str, namespace: str) -> None:
        self._context, self.namespace = context, namespace
        self.around: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()
        """What each call is made in, by its name; the benchmark counts and times with it."""

    @cached_property
    def _client(self) -> httpx.Client:
        found = _configuration(self._context)
        with _of_kubeconfig(self._context):
            trusted = ssl.create_default_context(cafile=found.ssl_ca_cert)
            if not found.verify_ssl:
                trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE
            if found.cert_file:
                trusted.load_cert_chain(found.cert_file, found.key_file)
            _require_address(found.host)
            client = httpx.Client(
                base_url=found.host, timeout=_SECONDS, auth=_Signed(found),
                transport=httpx.HTTPTransport(verify=trusted, retries=_CONNECT_TRIES, proxy=found.proxy or None),
            )  # fmt: skip
        # Targets are made and dropped freely; their connections go with them.
        self._closing = weakref.finalize(self, client.close)
        return client

    def path(self, kind: str, name: str = "") -> str:
        """Where objects of a kind are, or one of them."""
        return f"{self.version_of(kind)}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def version_of(self, kind: str) -> str:
        """Where this cluster has a kind."""
        return GROUPS.get(kind) or self._newest(*NEWEST[kind])

    def serves(self, kind: str) -> bool:
        """Whether the cluster has a kind whose version has to be asked for."""
        if NEWEST[kind][0] in self._versions:
            return True
        path = f"/apis/{NEWEST[kind][0]}"
        return self._send("GET", path, excused=(httpx.codes.NOT_FOUND,)).status_code != httpx.codes.NOT_FOUND

    def _newest(self, group: str, known: tuple[str, ...]) -> str:
        if group not in self._versions:
            served = {one["version"] for one in self.call("GET", f"/apis/{group}")["versions"]}
            if not (usable := [one for one in known if one in served]):
                raise TargetError(
                    f"the cluster serves {group} as {', '.join(sorted(served))}, and not as {' or '.join(known)}",
                    fix="use a cluster of Kubernetes 1.19 or later",
                )
            self._versions[group] = f"/apis/{group}/{usable[0]}"
        return self._versions[group]

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {}

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object; None where there is none. Raises as `call` does."""
        reply = self._send("GET", self.path(kind, name), excused=(httpx.codes.NOT_FOUND,))
        return None if reply.status_code == httpx.codes.NOT_FOUND else _json(reply)

    def list(self, kind: str, chosen: Mapping[str, str] | str) -> list[dict[str, Any]]:
        """The objects with some labels, or, by a text, with a label of any value. Raises as `call` does."""
        wanted = chosen if isinstance(chosen, str) else selector(chosen)
        reply = self._send("GET", self.path(kind), params={"labelSelector": wanted}, excused=(httpx.codes.NOT_FOUND,))
        found: list[dict[str, Any]] = [] if reply.status_code == httpx.codes.NOT_FOUND else _json(reply)["items"]
        return found

    def pod_metrics(self, chosen: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield what pods with some labels use; none where no metrics server answers, or the caller may not ask it."""
        none = (httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN, httpx.codes.SERVICE_UNAVAILABLE)
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{self.namespace}/pods"
        reply = self._send("GET", path, params={"labelSelector": selector(chosen)}, excused=none, seconds=_ASK_SECONDS)
        yield from [] if reply.status_code in none else _json(reply)["items"]

    def create(self, kind: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object. Raises as `call` does, and ChangedError where it is there."""
        return self.call("POST", self.path(kind), manifest)

    def replace(self, kind: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object as a whole. Raises as `call` does, and ChangedError where its resourceVersion is old."""
        return self.call("PUT", self.path(kind, manifest["metadata"]["name"]), manifest)

    def apply(self, kind: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object as it is to be, by server-side apply; what others have set of it stays."""
        reply = self._send(
            "PATCH", self.path(kind, manifest["metadata"]["name"]), body=manifest,
            params={"fieldManager": MANAGER, "force": "true"}, content_type="application/apply-patch+yaml",
        )  # fmt: skip
        return _json(reply)

    def merge(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """Change some fields of an object, where it is there."""
        self._send(
            "PATCH", self.path(kind, name), body=change, content_type="application/merge-patch+json",
            excused=(httpx.codes.NOT_FOUND,),
        )  # fmt: skip

    def delete(self, kind: str, name: str, version: str = "") -> None:
        """Remove an object and what it owns; nothing happens where it is gone.

        Args:
            kind: its.
            name: its.
            version: that it is to have still; ChangedError otherwise.
        """
        body = {
            "propagationPolicy": "Background",
            **({"preconditions": {"resourceVersion": version}} if version else {}),
        }
        self._send("DELETE", self.path(kind, name), body=body, excused=(httpx.codes.NOT_FOUND,))

    def log(self, pod: str, container: str, lines: int, *, before: bool = False) -> str:
        """The end of the log of a pod's container, or of the one before it; empty where there is none."""
        params = {"container": container, "tailLines": str(lines), **({"previous": "true"} if before else {})}
        none = (httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST)
        reply = self._send("GET", f"{self.path('pods', pod)}/log", params=params, excused=none)
        return "" if reply.status_code in none else reply.text.rstrip()

    def ask(self, pod: str, port: int, path: str, **params: str) -> httpx.Response:
        """A GET to a port of a pod, through the API server. Raises as `call` does."""
        url = f"{self.path('pods', f'{pod}:{port}')}/proxy{path}"
        return self._send("GET", url, params=params, seconds=_ASK_SECONDS)

    def post(self, pod: str, port: int, path: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """A POST to a port of a pod, through the API server; also where the pod answers that it failed."""
        url = f"{self.path('pods', f'{pod}:{port}')}/proxy{path}"
        reply = self._signed_in("POST proxy", lambda client: client.build_request(
            "POST", url, content=body, headers=dict(headers), timeout=_SECONDS * 3,
        ))  # fmt: skip
        if reply.status_code >= httpx.codes.BAD_REQUEST and not _is_a_pods(reply):
            raise _meaning(reply, "POST proxy")
        return reply

    def call(self, verb: str, path: str, body: object = None) -> dict[str, Any]:
        """One call.

        Raises:
            TargetUnavailableError: nobody answers, or not now.
            ChangedError: somebody else was first.
            TargetError: it is refused.
        """
        return _json(self._send(verb, path, body=body))

    def _send(
        self, verb: str, path: str, *, body: object = None, params: Mapping[str, str] | None = None,
        content_type: str = "application/json", excused: tuple[int, ...] = (), seconds: float = _SECONDS,
    ) -> httpx.Response:  # fmt: skip
        name, headers = operation(verb, path), {"content-type": content_type} if body is not None else None
        reply = self._signed_in(name, lambda client: client.build_request(
            verb, path, params=params, json=body, timeout=seconds, headers=headers,
        ))  # fmt: skip
        if reply.status_code >= httpx.codes.BAD_REQUEST and reply.status_code not in excused:
            raise _meaning(reply, name)
        return reply

    def _signed_in(self, name: str, request: Callable[[httpx.Client], httpx.Request]) -> httpx.Response:
        """The answer to a request, which is made once more by who is not known any more and signs in again."""
        for is_last in (False, True):
            client = self._client
            try:
                with self.around(name):
                    reply = client.send(request(client))
            except (httpx.HTTPError, ConfigException) as error:
                raise _away(name, error) from error
            except _MISTAKEN as error:
                # A token, or what a command that signs in gave, is no text that a request can carry.
                raise _unusable(self._context, error) from error
            # A pod may know nobody either, and signing in to the cluster does not change that.
            if is_last or reply.status_code != httpx.codes.UNAUTHORIZED or _is_a_pods(reply):
                break
            # A certificate of a command's, or what a file has, is read once; it may have run out since.
            # Another thread may be using it; its connections go with the last one who does.
            self._closing.detach()
            self.__dict__.pop("_client", None)
        return reply


class _Signed(httpx.Auth):
    """What the kubeconfig signs in with, renewed where it runs out, and the name that it has of the cluster."""

    def __init__(self, known: Configuration) -> None:
        self._known = known

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # Asking for it renews it.
        if token := self._known.get_api_key_with_prefix("BearerToken", alias="authorization"):
            request.headers["authorization"] = token
        if self._known.tls_server_name:
            request.extensions["sni_hostname"] = self._known.tls_server_name
        yield request


def _configuration(context: str) -> Configuration:
    found = Configuration()
    with _of_kubeconfig(context):
        if not context and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        else:
            require_sane(os.environ.get("KUBECONFIG") or config.KUBE_CONFIG_DEFAULT_LOCATION, context)
            config.load_kube_config(  # type: ignore[no-untyped-call]
                # The client reads the variable once, when it is imported.
                os.environ.get("KUBECONFIG") or None,
                context=context or None,
                client_configuration=found,
                persist_config=False,
            )
    if found.proxy and found.tls_server_name:
        raise TargetError(
            f"context {context or 'of the kubeconfig'} has proxy-url and tls-server-name, and only one of them can be "
            "followed: through a proxy a cluster's certificate is held against the host in `server`",
            fix="put the name of its certificate into `server`, and leave tls-server-name out",
        )
    return found


@contextmanager
def _of_kubeconfig(context: str) -> Iterator[None]:
    """Make one error of whatever a kubeconfig with mistakes leads to; the client looks at no types."""
    try:
        yield
    except (ConfigException, *_MISTAKEN) as error:
        raise _unusable(context, error) from error


def _unusable(context: str, error: Exception) -> TargetUnavailableError:
    said = (str(error) or type(error).__name__)[:_SHOWN]
    if not isinstance(error, (ConfigException, OSError, BadKubeconfigError, yaml.YAMLError)):
        said = f"{type(error).__name__}: {said}"
    return TargetUnavailableError(
        f"no cluster is known by {f'context {context}' if context else 'the kubeconfig'}: {said}",
        fix="name a kubeconfig in KUBECONFIG, and one of its contexts in target.context; kubectl config view shows it",
    )


def _require_address(host: object) -> None:
    """Refuse a server that no request can be sent to."""
    address = httpx.URL(host) if isinstance(host, str) else None
    if address is None or address.scheme not in {"http", "https"} or not address.host:
        shown = repr(host if address is None else str(address))[:_SHOWN]
        raise BadKubeconfigError(f"its server is {shown}, and no address that begins with https:// and has a host")
    if address.userinfo:
        raise BadKubeconfigError("its server has a user or a password in its address; users are entries of their own")


def operation(verb: str, path: str) -> str:
    """What a call is named here, such as `PUT configmaps`."""
    parts = path.split("/")
    after = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts[:-2] else parts[-1:]
    kind, part = after[0], after[2:3]
    return f"{verb} {part[0] if part else kind}"


def _meaning(reply: httpx.Response, name: str) -> TargetError:
    status, said = reply.status_code, _said(reply)
    if status == httpx.codes.UNAUTHORIZED:
        return TargetUnavailableError(f"the cluster does not know us any more: {said}", fix="sign in again, then go on")
    if status == httpx.codes.FORBIDDEN and "admission webhook" in said:
        fix = "see what the webhook wants; if it is KServe's, whether target.kserve.mode is its own name for the mode"
        return TargetError(f"the cluster refuses {name}: {said}", fix=fix)
    if status == httpx.codes.FORBIDDEN:
        fix = "headgate doctor --policy release.yaml | kubectl apply -f -, then bind the role to the caller"
        return NotAllowedError(f"the cluster does not allow {name}: {said}", fix=fix)
    if status == httpx.codes.CONFLICT:
        return ChangedError(f"{name} came too late: {said}", fix="try again")
    if status in _RETRIED or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return TargetUnavailableError(f"the cluster does not answer {name} ({status}): {said}", fix="try again")
    return TargetError(f"the cluster refuses {name} ({status}): {said}")


def _is_a_pods(reply: httpx.Response) -> bool:
    """Whether a pod has answered, and not the API server before it."""
    if "/proxy/" not in reply.request.url.path:
        return False
    try:
        told = reply.json()
    except ValueError:
        return True
    return not (isinstance(told, dict) and told.get("kind") == "Status" and told.get("apiVersion") == "v1")


def _json(reply: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = reply.json()
    return found


def _said(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("message") or reply.reason_phrase)
    except (ValueError, AttributeError):
        return reply.text.strip() or reply.reason_phrase


def _away(name: str, error: Exception) -> TargetUnavailableError:
    return TargetUnavailableError(f"the cluster does not answer {name}: {error}", fix="see the network, then go on")
