"""What the monitor checks of live traffic, and when it acts, as release.yaml has it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from headgate.operating import Strict, check_cron, check_timezone
from headgate.units import Duration, Percent


class Drift(Strict):
    """When a window counts as drifted."""

    share: Percent = Field(0.5, description="Share of input columns that must have drifted.")
    threshold: float = Field(
        0.1, gt=0, description="Of a column's distance: Wasserstein over the reference's deviation, or Jensen-Shannon."
    )
    thresholds: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Other thresholds, by column."
    )
    ignore: tuple[str, ...] = Field((), description="Columns that are not compared.")
    false_alarms: Percent = Field(
        0.01, ge=0.001, le=0.1, description="How often chance alone may make a column of a window count as drifted."
    )


class DataQuality(Strict):
    """Shares of a window's rows from which on a column's values are a problem; 100% is never."""

    missing: Percent = Field(0.1, description="Missing, beyond the reference's share.")
    unreadable: Percent = Field(0.05, description="No numbers, or infinite, in a column of numbers.")
    out_of_range: Percent = Field(0.1, description="Numbers below or above all of the reference's.")
    new_categories: Percent = Field(
        0.1, description="Values that the reference lacks, beyond those that its size explains."
    )
    repeated: Percent = Field(0.1, description="Requests whose id had been there before.")


class LabelTable(Strict):
    """A table of a database that labels arrive in; each check asks it."""

    database_env: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The environment variable of the worker that holds the database's URL, as SQLAlchemy has it.",
    )
    query: str = Field(
        min_length=1,
        description="Gives the columns request_id, label and perhaps row; `:since` in it is when `lookback` began.",
    )


class Quality(Strict):
    """What labels that arrive later are held against, and how sure a rollback by them is."""

    labels: LabelTable | None = Field(None, description="Where they are; default: they are told by headgate labels.")
    answer: str = Field("", description="The part of the answer that labels are about; default: the only one it has.")
    tolerance: float = Field(
        0.0, ge=0, description="Numbers are wrong that is further off than this share of the truth."
    )
    margin: Percent = Field(
        0.02,
        gt=0,
        description="Confirmed is a version that is shown to be wrong on at most so many more of its answers.",
    )
    min_labels: int = Field(100, ge=1, description="Labels of its answers that it needs to be confirmed.")
    lookback: Duration = Field(7 * 86400.0, description="How old an answer may be whose label counts.")
    false_alarms: Percent = Field(
        0.01, ge=0.0001, le=0.1, description="The chance, over all checks, of finding a version worse that is not."
    )


class Trigger(Strict):
    """N of the last M windows, and the latest."""

    violations: int = Field(3, ge=1)
    of: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _reachable(self) -> Trigger:
        if self.violations > self.of:
            raise ValueError(f"violations ({self.violations}) is at most of ({self.of})")
        return self


class Monitor(Strict):
    """What `headgate monitor` checks, and `headgate watch` schedules."""

    schedule: str = Field("*/15 * * * *", description="When, as a cron expression; from `headgate watch` on.")
    timezone: str = Field("UTC", description="Of the schedule.")
    window: Duration = Field(3600.0, description="How far back a check looks.")
    reference: str = Field(
        "training",
        description="`training`: reference.parquet, logged in the model's run; or the path of a Parquet file.",
    )
    min_rows: int = Field(100, ge=1, description="Fewer rows than this are too few to check.")
    quiet_checks: int = Field(
        4, ge=1, description="So many checks in a row with too few rows, and people are told; no check of them fails."
    )
    drift: Drift = Drift()
    data_quality: DataQuality = DataQuality()
    quality: Quality = Quality()
    trigger: Trigger = Trigger()

    _cron = field_validator("schedule")(check_cron)
    _zone = field_validator("timezone")(check_timezone)
