"""What is kept of live requests, as release.yaml has it."""

from __future__ import annotations

import json

from pydantic import Field, field_validator

from headgate.credentials import without_userinfo
from headgate.operating import Strict
from headgate.units import Duration, Percent, bytes_of


class Capture(Strict):
    """What is kept of requests and answers: the shadow comparison and the monitor read it."""

    sample: Percent = Field(
        1.0, gt=0, description="Share of requests; the same ones of every revision, so that answers can be compared."
    )
    redact: tuple[str, ...] = Field((), description="Fields of JSON bodies whose values the log does not keep.")
    keep: str = Field("1Gi", pattern=r"^[0-9]{1,9}(Mi|Gi)$", description="Of each revision's log; the oldest rows go.")
    store: str = Field(
        "",
        description="Where the monitor keeps them as Parquet: a folder, or an object store as fsspec names it, such as "
        "s3://bucket/predictions; default: `predictions` in HEADGATE_HOME.",
    )
    retention: Duration = Field(30 * 86400.0, ge=3600, description="How long they are kept there.")

    @field_validator("store")
    @classmethod
    def _store_holds_no_password(cls, store: str) -> str:
        return without_userinfo(store)

    @property
    def env(self) -> dict[str, str]:
        """What the server is told; nothing where the file says nothing, so that revisions keep their names."""
        given = {
            "HEADGATE_LOG_SAMPLE": repr(self.sample), "HEADGATE_LOG_HIDDEN": json.dumps(self.redact),
            "HEADGATE_LOG_KEEP": str(bytes_of(self.keep)),
        }  # fmt: skip
        told = zip(given.items(), ("sample", "redact", "keep"), strict=True)
        return {name: value for (name, value), entry in told if entry in self.model_fields_set}
