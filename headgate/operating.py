"""The entries of release.yaml that say who may release when: approvals, queue, freeze windows, triggers, notices."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from headgate.units import Duration

REFERENCE = r"^(env:[A-Za-z_][A-Za-z0-9_]*|block:[a-z0-9-]+/[a-zA-Z0-9_.-]+)$"
"""A secret by reference: an environment variable of the worker, or a Prefect block."""


class Strict(BaseModel):
    """An entry of release.yaml: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_cron(expression: str) -> str:
    """A cron expression of five fields.

    Raises:
        ValueError: it is none.
    """
    if len(expression.split()) != 5 or not croniter.is_valid(expression):  # noqa: PLR2004 - the message says it
        raise ValueError("a cron expression of five fields, such as `*/15 * * * *` or `0 18 * * FRI`")
    return expression


def check_timezone(name: str) -> str:
    """A time zone of the IANA database.

    Raises:
        ValueError: it is none.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("a time zone's name, such as Europe/Berlin or UTC") from error
    return name


class Approval(Strict):
    """Somebody has to agree before the release goes on."""

    before: Literal["deploy", "shift", "promote"] = Field(
        description="deploy: before anything is started; shift: before clients see it; promote: before all of them do."
    )
    expires: Duration = Field(3 * 86400.0, description="Without an answer by then, everything is put back.")

    @field_validator("expires")
    @classmethod
    def _long_enough(cls, seconds: float) -> float:
        if seconds < 1:
            raise ValueError("at least 1s")
        return seconds


class Freeze(Strict):
    """A time in which nothing is released: from each `start` to the `end` that follows it."""

    start: str = Field(description="A cron expression, such as `0 18 * * FRI`.")
    end: str = Field(description="A cron expression, such as `0 8 * * MON`.")
    timezone: str = Field("UTC", description="Of both, such as Europe/Berlin.")
    reason: str = Field("", max_length=200, description="Why; it is told to who is refused.")

    _cron = field_validator("start", "end")(check_cron)
    _zone = field_validator("timezone")(check_timezone)

    def until(self, now: datetime) -> datetime | None:
        """When the window that `now` is in ends; None outside of it.

        Args:
            now: a moment with a time zone.
        """
        local = now.astimezone(ZoneInfo(self.timezone))
        # A moment later, so that the window begins with its first second.
        start: datetime = croniter(self.start, local + timedelta(seconds=1)).get_prev(datetime)
        end: datetime = croniter(self.end, start).get_next(datetime)
        return end if local < end else None


def frozen_until(windows: tuple[Freeze, ...], now: datetime) -> tuple[Freeze, datetime] | None:
    """The window that keeps a release from starting for longest, and when it ends; None where there is none."""
    found = [(window, end) for window in windows if (end := window.until(now)) is not None]
    return max(found, key=lambda pair: pair[1]) if found else None


class ReleaseWhen(Strict):
    """What MLflow's registry has to say for a version to be released by itself; `headgate watch` arms it."""

    alias: str = Field("", max_length=200, description="A version got this alias.")
    tag: str = Field("", max_length=200, description="A version got this tag, whatever its value.")

    @field_validator("alias")
    @classmethod
    def _not_ours(cls, alias: str) -> str:
        if alias.partition("-")[0] in {"champion", "challenger"}:
            raise ValueError("champion and challenger are set by releases; choose another alias, such as release-me")
        return alias

    @model_validator(mode="after")
    def _one(self) -> ReleaseWhen:
        if bool(self.alias) == bool(self.tag):
            raise ValueError("either alias or tag")
        return self


Reference = Annotated[str, StringConstraints(pattern=REFERENCE)]
