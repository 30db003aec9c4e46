"""`runtime` of release.yaml: how many servers answer, with what resources, variables and secrets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_serializer, field_validator, model_validator

from headgate import references, sealed
from headgate.operating import Strict
from headgate.records import Resources
from headgate.units import Duration, bytes_of

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_LOADS_CODE = frozenset({
    "LD_PRELOAD", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "PYTHONPLATLIBDIR",
    "PYTHONEXECUTABLE", "PYTHONBREAKPOINT", "PYTHONINSPECT", "BASH_ENV",
})  # fmt: skip
"""Variables by which a process runs what was not scanned."""
_SERVER_SETTINGS = {
    "HEADGATE_SERVER_WORKERS": ("auto|1|2", "auto, 1 or 2"),
    "HEADGATE_SERVER_MEMORY": (r"[1-9]\d{0,8}(Mi|Gi)", "a size such as 512Mi or 2Gi"),
}
"""The server's own settings that `env` may have: the pattern of a value, and what that is."""

SecretReference = Annotated[str, StringConstraints(pattern=references.PATTERN)]


class Replicas(Strict):
    """How many server processes or machines answer."""

    min: int = Field(1, ge=0, le=64, description="0: none runs while there are no requests.")
    max: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is at least min ({self.min})")
        return self


class Runtime(Strict):
    """What the model's server gets."""

    kind: Literal["mlflow"] = Field("mlflow", description="Any MLflow model flavour.")
    cpu: float | None = Field(None, gt=0, description="CPU cores; targets that limit CPU only.")
    memory: str | None = Field(
        None, pattern=r"^[0-9]{1,9}(Mi|Gi)$", description="Such as 512Mi; targets that limit memory only."
    )
    gpu: int = Field(0, ge=0, le=64, description="Whole GPUs of each replica; container targets only.")
    replicas: Replicas = Replicas()
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of the server; no secrets: these are `secrets`."
    )
    secrets: dict[str, SecretReference] = Field(
        default_factory=dict,
        description="Environment variables of the server whose values are secret, by reference: env:NAME, file:/path, "
        "block:secret/NAME of Prefect, or secret:NAME/KEY of Kubernetes; read when the server starts.",
    )
    price_per_hour: float = Field(0.0, ge=0, description="Of one replica, in any currency, for the cost of requests.")
    ready_timeout: Duration = Field(300.0, description="How long loading may take.")

    @field_validator("env", "secrets")
    @classmethod
    def _names_fit(cls, given: dict[str, str]) -> dict[str, str]:
        for name in given:
            if not re.fullmatch(_VARIABLE, name):
                raise ValueError(f"{name!r} is no name of a variable: letters, digits and '_', and no digit first")
            if name in _LOADS_CODE:
                raise ValueError(
                    f"the variable {name} makes the server load other code than the image's; "
                    "log that code with the model (code_paths)"
                )
            if name == "PYTHONSAFEPATH":
                raise ValueError(f"with {name} the server does not find its own package, which is in its folder")
        return given

    @field_validator("env")
    @classmethod
    def _values_fit(cls, env: dict[str, str]) -> dict[str, str]:
        opened = sealed.unseal(env)
        for name, value in opened.items():
            if "\0" in value:
                raise ValueError(f"the value of {name} has a NUL in it, which no variable can hold")
            pattern, says = _SERVER_SETTINGS.get(name, ("", ""))
            if pattern and not sealed.is_sealed(value) and not re.fullmatch(pattern, value):
                raise ValueError(f"{name} is {value!r}, and not {says}")
        return opened

    @field_validator("secrets")
    @classmethod
    def _not_our_own(cls, secrets: dict[str, str]) -> dict[str, str]:
        for name in secrets:
            if name.startswith("HEADGATE_") or name == "PORT":
                raise ValueError(f"the variable {name} is the server's own; give the secret another name")
        return secrets

    @model_validator(mode="after")
    def _each_once(self) -> Runtime:
        if both := sorted(self.env.keys() & self.secrets.keys()):
            raise ValueError(f"a variable has one value: {', '.join(both)} is in env and in secrets")
        return self

    @field_serializer("env")
    def _without_values(self, env: dict[str, str]) -> dict[str, str]:
        """Whatever is written down of a release file has no values of its variables."""
        return sealed.seal(env)

    @property
    def resources(self) -> Resources:
        """The limits of one replica."""
        memory = bytes_of(self.memory) if self.memory else None
        return Resources(cpu=self.cpu, memory=memory, gpu=self.gpu)
