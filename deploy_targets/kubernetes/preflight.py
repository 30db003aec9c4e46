"""What is missing in a cluster before a release can start, each with the command that mends it; and the role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.clouds import look_for_problems, problem
from deploy_targets.kubernetes import kserve
from deploy_targets.kubernetes.kserve import INFERENCE_SERVICES
from deploy_targets.kubernetes.pods import needed
from deploy_targets.kubernetes.scaling import KEDA
from headgate.errors import HeadgateError, TargetError
from headgate.references import CLUSTER, kind_of
from headgate.units import basis_points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.capture import Captures
    from deploy_targets.kubernetes.routing import Routing
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.findings import Finding
    from headgate.spec import ReleaseSpec

_MADE = ("create", "delete", "get", "list", "patch")
RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("configmaps",), ("create", "delete", "get", "list", "update")),
    ("", ("services",), _MADE),
    ("apps", ("deployments",), _MADE),
    ("autoscaling", ("horizontalpodautoscalers",), _MADE),
    ("networking.k8s.io", ("networkpolicies",), _MADE),
    ("policy", ("poddisruptionbudgets",), _MADE),
    ("", ("persistentvolumeclaims",), ("get",)),
    ("", ("pods",), ("list",)),
    ("", ("pods/log",), ("get",)),
    # By the API server's proxy the gateway is asked what is in effect, and for predictions.
    ("", ("pods/proxy",), ("create", "get")),
)
"""API group, resources and verbs of everything that a release asks of a namespace."""
OF_METRICS = (("metrics.k8s.io", ("pods",), ("list",)),)
"""What a release does without where it may not: the memory of pods."""
OF_GATEWAY_API = (
    ("gateway.networking.k8s.io", ("httproutes",), ("create", "delete", "get", "list", "update")),
    ("discovery.k8s.io", ("endpointslices",), ("list",)),
)
"""And with a gateway of the cluster's."""
OF_KEDA = (("keda.sh", ("scaledobjects",), ("create", "delete", "get", "patch")),)
"""And where KEDA scales."""
OF_KSERVE = (("serving.kserve.io", (INFERENCE_SERVICES,), _MADE),)
"""And where KServe makes the servers, or has made some that are there still."""


def findings(api: Api, routing: Routing, captures: Captures, settings: KubernetesSettings) -> list[Finding]:
    """Every problem; nothing where a release can start."""
    try:
        api.call("GET", "/version")
    except HeadgateError as error:
        return [problem("cluster", error.message, error.fix)]
    looks = (
        _permissions(api, settings), routing.problems(), _captures(captures, settings), _claim(api, settings),
        _scaler(api, settings), _kserve(api, settings),
    )  # fmt: skip
    return look_for_problems("cluster", looks)


def misfits(settings: KubernetesSettings, spec: ReleaseSpec) -> Iterator[Finding]:
    """What pods cannot be, of what a release file asks."""
    if settings.surge is not None:
        copied = spec.gates.shadow.percent if spec.gates.shadow is not None else 0.0
        asks = {"gates.shadow.percent": copied, "strategy.kind": float(spec.strategy.kind == "blue-green")}
        for subject, share in asks.items():
            pods = needed(basis_points(share), spec.runtime.replicas.min) if share else 0
            if pods > settings.surge:
                told = f"this needs {pods} pods beside the live version's, and target.surge allows {settings.surge}"
                yield problem(subject, told, "lower it, or raise target.surge")
    if settings.memory_target is not None and spec.runtime.memory is None:
        told = "target.memory_target is percent of what a server asks for, and runtime.memory says nothing"
        yield problem("target.memory_target", told, "set both, or none")
    for name, reference in spec.runtime.secrets.items():
        if kind_of(reference) != CLUSTER:
            told = f"{reference} is a secret of another machine, and pods read those of {settings.namespace}"
            fix = f"kubectl create secret generic NAME -n {settings.namespace} --from-file=KEY=…, then: secret:NAME/KEY"
            yield problem(f"runtime.secrets.{name}", told, fix)
    if settings.kserve is not None:
        yield from _misfits_of_kserve(settings, spec)


def _misfits_of_kserve(settings: KubernetesSettings, spec: ReleaseSpec) -> Iterator[Finding]:
    replicas = spec.runtime.replicas
    if settings.surge is not None and replicas.max > replicas.min:
        told = f"KServe's autoscaler, with runtime.replicas up to {replicas.max}, gives up no pods when it is told to"
        yield problem("target.surge", told, "set replicas.max to replicas.min, or take surge or kserve out")
    if taken := sorted(kserve.TAKEN & (spec.runtime.env.keys() | spec.runtime.secrets.keys())):
        told = f"KServe refuses {', '.join(taken)} in a server's environment, or takes it for its own"
        yield problem("runtime.env", told, "give it another name, or take kserve out")


def role(settings: KubernetesSettings) -> str:
    """The least that whoever releases needs, as `kubectl apply -f -` takes it."""
    rules = "".join(
        f'  - apiGroups: ["{group}"]\n    resources: [{", ".join(resources)}]\n    verbs: [{", ".join(verbs)}]\n'
        for group, resources, verbs in (*RULES, *OF_METRICS, *_more_rules(settings))
    )
    return (
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n"
        f"metadata:\n  name: headgate-release\n  namespace: {settings.namespace}\nrules:\n{rules}"
    )


def _more_rules(settings: KubernetesSettings) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    of_gateway = OF_GATEWAY_API if settings.gateway is not None else ()
    of_keda = OF_KEDA if settings.keda is not None else ()
    return (*of_gateway, *of_keda, *(OF_KSERVE if settings.kserve is not None else ()))


def _permissions(api: Api, settings: KubernetesSettings) -> Iterator[Finding]:
    missing = []
    for group, resources, verbs in (*RULES, *_more_rules(settings)):
        for named in resources:
            resource, _, part = named.partition("/")
            for verb in verbs:
                attributes = {
                    "namespace": api.namespace,
                    "group": group,
                    "resource": resource,
                    "subresource": part,
                    "verb": verb,
                }
                asked = {
                    "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                }  # fmt: skip
                told = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asked)
                if not told["status"]["allowed"]:
                    missing.append(f"{verb} {named}")
    if missing:
        fix = "headgate doctor --policy release.yaml | kubectl apply -f -, then bind the role to the caller"
        yield problem("permissions", f"the caller may not {', '.join(missing)} in {api.namespace}", fix)


def _captures(captures: Captures, settings: KubernetesSettings) -> Iterator[Finding]:
    if said := captures.problem():
        fix = "make it, and see that this machine and the pods may read and write it"
        yield problem("target.captures", f"{settings.captures} cannot be read: {said}", fix)


def _scaler(api: Api, settings: KubernetesSettings) -> Iterator[Finding]:
    if settings.keda is not None:
        fix = "install it, https://keda.sh/docs/latest/deploy, or take keda out and set replicas.min to 1"
        yield from _missing(api, KEDA, "target.keda", "KEDA", fix)


def _kserve(api: Api, settings: KubernetesSettings) -> Iterator[Finding]:
    if settings.kserve is not None:
        fix = "install it in its Standard mode, https://kserve.github.io/website, or take kserve out"
        yield from _missing(api, INFERENCE_SERVICES, "target.kserve", "KServe", fix)


def _missing(api: Api, kind: str, subject: str, product: str, fix: str) -> Iterator[Finding]:
    """That the cluster does not have what a kind is of, where that is so."""
    try:
        api.version_of(kind)
    except TargetError as error:
        yield problem(subject, f"the cluster has no {product}: {error.message}", fix)


def _claim(api: Api, settings: KubernetesSettings) -> Iterator[Finding]:
    name = settings.captures_claim
    if name and api.find("persistentvolumeclaims", name) is None:
        fix = f"make it, with access mode ReadWriteMany: kubectl get pvc -n {api.namespace}"
        yield problem("target.captures_claim", f"{api.namespace} has no PersistentVolumeClaim {name}", fix)
