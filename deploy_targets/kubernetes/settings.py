"""What release.yaml says of Kubernetes beside `kind`. Loads no SDK."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from headgate.operating import Strict
from headgate.target_settings import Target
from headgate.units import Duration

_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


class Toleration(Strict):
    """A taint of nodes that pods may be put on all the same."""

    key: str = Field("", description="The taint's; default: all taints.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="Whether `value` has to be the taint's.")
    value: str = Field("", description="The taint's.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("", description="Default: all of them.")


class Trigger(Strict):
    """What KEDA looks at."""

    type: str = Field(pattern=r"^[a-z][a-z0-9-]*$", description="Of KEDA's scalers, such as prometheus.")
    metadata: dict[str, str] = Field(
        description="What that scaler takes; $ENDPOINT, $REVISION and $DEPLOYMENT are the names of what is scaled."
    )
    authentication: str = Field("", pattern=rf"^({_NAME})?$", description="A TriggerAuthentication of the namespace.")


class Keda(Strict):
    """KEDA scales, instead of Kubernetes' own autoscaler: down to no pod where replicas.min is 0."""

    triggers: tuple[Trigger, ...] = Field(min_length=1, description="The one that asks for most pods is followed.")
    polling: Duration = Field(15.0, ge=1, description="How often KEDA looks while there is no pod.")
    cooldown: Duration = Field(300.0, description="How long nobody has asked before the last pod goes.")


class KServe(Strict):
    """KServe makes the servers: a revision is an InferenceService, and no Deployment of Headgate's."""

    mode: Literal["Standard", "RawDeployment"] = Field(
        "Standard", description="What the cluster's KServe calls plain Deployments: Standard since 0.16, before that "
        "RawDeployment.",
    )  # fmt: skip


class Gateway(Strict):
    """A Gateway of the cluster, by Gateway API."""

    name: str = Field(pattern=rf"^{_NAME}$", description="Its own.")
    namespace: str = Field("", pattern=rf"^({_NAME})?$", description="Where it is; default: that of the target.")
    section: str = Field("", description="One of its listeners; default: all that allow routes of the namespace.")
    hostname: str = Field("", description="Of requests that come here; default: all of the listener's.")


class KubernetesSettings(Target):
    """A namespace of a cluster, and how pods are made there."""

    kind: Literal["kubernetes"]
    captures: str = Field(
        pattern=r"^(s3|gs|abfs|file)://\S+$",
        description="Where servers put requests and answers, such as s3://bucket/captures; or file://.",
    )
    captures_claim: str = Field(
        "", pattern=rf"^({_NAME})?$",
        description="A PersistentVolumeClaim that pods mount at the folder of a file:// captures; whoever releases has "
        "the same files at the same path.",
    )  # fmt: skip
    namespace: str = Field("default", pattern=rf"^{_NAME}$", description="Where everything is made.")
    context: str = Field("", description="Of the kubeconfig; default: its current one, or the cluster around this pod.")
    url: str = Field(
        "", pattern=r"^(https?://\S+)?$",
        description="Where clients reach the gateway; default: the name of its Service in the cluster.",
    )  # fmt: skip
    gateway: Gateway | None = Field(
        default=None, description="Whose HTTPRoute an endpoint is; default: Headgate's own gateway in the namespace."
    )
    service_account: str = Field("", description="Of the servers, such as one that may write to `captures`.")
    secret: str = Field("", description="A Secret whose entries are in the servers' environment.")
    pull_secrets: tuple[str, ...] = Field((), description="Secrets by which nodes pull images.")
    pull: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When nodes pull images; they are named by what they hold, so once is enough."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes that pods are put on.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of nodes that pods may be put on.")
    priority_class: str = Field("", description="Which pods give way where there is no room for all.")
    gpu_resource: str = Field("nvidia.com/gpu", description="What nodes call a GPU.")
    cpu_target: int = Field(
        70, ge=1, le=100, description="Percent that the number of pods follows, where replicas.max is above min."
    )
    memory_target: int | None = Field(default=None, ge=1, le=100, description="The same, of memory; default: none.")
    metrics: tuple[dict[str, Any], ...] = Field(
        (), description="More metrics of an autoscaling/v2 HorizontalPodAutoscaler; $ENDPOINT, $REVISION and "
        "$DEPLOYMENT in them are the names of what is scaled.",
    )  # fmt: skip
    keda: Keda | None = Field(default=None, description="Have KEDA scale, also to zero; cpu_target is not looked at.")
    kserve: KServe | None = Field(
        default=None, description="Have KServe make the servers, as InferenceServices; default: Deployments of our own."
    )
    surge: int | None = Field(
        default=None, ge=1,
        description="How many pods there may be beside the live version's, where GPUs are scarce; default: any number.",
    )  # fmt: skip
    network_policy: bool = Field(default=True, description="Servers take requests from Headgate's own gateway only.")
    labels: dict[str, str] = Field(default_factory=dict, description="On everything that is made, for bills.")

    @model_validator(mode="after")
    def _whole_captures(self) -> KubernetesSettings:
        if self.captures.startswith("file://") != bool(self.captures_claim):
            raise ValueError("captures_claim goes with a captures that begins with file://, and with no other")
        return self

    @model_validator(mode="after")
    def _reached(self) -> KubernetesSettings:
        if self.gateway is not None and not (self.url or self.gateway.hostname):
            raise ValueError("gateway has no hostname, so url has to say where clients reach it")
        return self

    @model_validator(mode="after")
    def _one_scaler(self) -> KubernetesSettings:
        if self.keda is not None and (self.metrics or self.memory_target):
            raise ValueError("keda scales by its triggers; put what memory_target and metrics say there")
        return self

    @model_validator(mode="after")
    def _what_kserve_can_do(self) -> KubernetesSettings:
        wrong = " and ".join(name for name in ("keda", "metrics", "memory_target") if getattr(self, name))
        if self.kserve is not None and wrong:
            raise ValueError(
                f"with kserve pods follow cpu_target and nothing else, so {wrong} cannot be had: "
                f"take {wrong} out, or take kserve out"
            )
        return self

    @property
    def scheduling(self) -> dict[str, Any]:
        """What a pod's spec says of where it runs."""
        told = [one.model_dump(exclude_defaults=True) for one in self.tolerations]
        found = {
            "nodeSelector": self.node_selector, "tolerations": told, "priorityClassName": self.priority_class,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value}
