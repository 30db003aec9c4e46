"""Each release as a run in MLflow, where people look: the spec, the phases, the canary as a plot, the report.

It is written from the journal, from where it stopped the last time; so it is whole again after MLflow was away.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headgate import clock, sealed
from headgate.phases import Phase
from headgate.verdicts import Look
from registry.journal import Entry, Journal, Kind
from registry.versions import connect, mapped

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Run

RELEASE_TAG = "headgate.release"
SYNCED_TAG = "headgate.synced"
PHASE_TAG = "headgate.phase"
_BATCH = 900


class ReleaseRun:
    """The MLflow run of one release.

    Args:
        tracking_uri: the MLflow server.
        journal: what it is written from.
        endpoint: whose release it is.
        release_id: which one.
    """

    def __init__(self, tracking_uri: str, journal: Journal, endpoint: str, release_id: str) -> None:
        self._uri = tracking_uri
        self._journal = journal
        self._endpoint = endpoint
        self._release_id = release_id

    @mapped
    def sync(self) -> str:
        """Write what the journal has and the run has not.

        Returns:
            The run's id.
        """
        client = connect(self._uri)
        run = self._ensure(client)
        after = int(run.data.tags.get(SYNCED_TAG, "0"))
        fresh = self._journal.read(self._endpoint, release_id=self._release_id, after=after)
        if not fresh:
            return str(run.info.run_id)
        self._write(client, run, fresh)
        return str(run.info.run_id)

    @mapped
    def has_ended(self) -> bool:
        """Whether MLflow has the release's end."""
        tags = self._ensure(connect(self._uri)).data.tags
        return tags.get(PHASE_TAG) in {Phase.PROMOTED, Phase.UNDONE}

    @mapped
    def attach(self, file: Path, folder: str = "") -> str:
        """Store a file with the run.

        Returns:
            Where it can be read in MLflow's pages.
        """
        run_id = self.sync()
        client = connect(self._uri)
        client.log_artifact(run_id, str(file), folder or None)
        experiment = client.get_run(run_id).info.experiment_id
        return f"{self._uri}/#/experiments/{experiment}/runs/{run_id}/artifacts"

    def _ensure(self, client: MlflowClient) -> Run:
        name = f"releases/{self._endpoint}"
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        found = client.search_runs([experiment_id], f"tags.`{RELEASE_TAG}` = '{self._release_id}'", max_results=1)
        if found:
            return found[0]
        return client.create_run(experiment_id, run_name=self._release_id, tags={RELEASE_TAG: self._release_id})

    def _write(self, client: MlflowClient, run: Run, fresh: list[Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 - seconds to import

        metrics, params, tags = [], [], {SYNCED_TAG: str(fresh[-1].seq)}
        for entry in fresh:
            at = int(entry.at.timestamp() * 1000)
            if entry.kind is Kind.LOOK:
                look = Look.model_validate(entry.evidence)
                metrics += [
                    Metric(name, value, at, int(look.seconds))
                    for name, value in (
                        ("canary share", look.share / 10_000),
                        ("e-value", min(look.e_value, 1e300)),
                        ("canary requests", look.canary.requests),
                        ("canary failures", look.canary.failures),
                        ("stable requests", look.stable.requests),
                        ("stable failures", look.stable.failures),
                        *((f"e-value {name}", value) for name, value in look.metrics.items()),
                        *((f"no harm {name}", value) for name, value in look.harmless.items()),
                    )
                ]
            elif entry.kind is Kind.PHASE:
                tags[PHASE_TAG] = entry.what
                if entry.what == Phase.STARTED and "spec" in entry.evidence:
                    flat = _flatten(entry.evidence["spec"])
                    params += [Param(key, value) for key, value in flat.items()]
            elif entry.kind is Kind.DECISION:
                tags[f"headgate.decision.{entry.what}"] = entry.reason[:500]
        for start in range(0, max(len(metrics), 1), _BATCH):
            client.log_batch(run.info.run_id, metrics=metrics[start : start + _BATCH])
        client.log_batch(run.info.run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        if tags.get(PHASE_TAG) in {Phase.PROMOTED, Phase.UNDONE}:
            status = "FINISHED" if tags[PHASE_TAG] == Phase.PROMOTED else "FAILED"
            client.set_terminated(run.info.run_id, status, int(clock.now() * 1000))


def _flatten(spec: dict[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            # A run's parameter is the same for ever, and whoever may see the run sees it: the hash is enough.
            flat[f"{prefix}{key}"] = sealed.shown(text) if sealed.is_sealed(text) else text
    return flat
