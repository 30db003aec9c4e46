"""What SageMaker's double keeps of invocations: metrics, and captures in S3."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.machines import Answer

BUCKET = "captures"


class Evidence:
    """Of all endpoints."""

    def __init__(self) -> None:
        self._metrics: list[tuple[float, tuple[str, str], int, float]] = []
        self._captured: list[tuple[float, str, dict[str, Any]]] = []
        self.used: defaultdict[tuple[str, str, frozenset[tuple[str, str]]], list[tuple[datetime, float]]]
        self.used = defaultdict(list)
        """Percents of what machines and copies have, by the metric's namespace, name and dimensions."""
        self.in_part = ""
        """What GetMetricData says of a query instead of Complete."""
        self.page = 0
        """So many values of a query are on a page; all of them where 0."""
        self.where: dict[str, str] = {}
        """Each endpoint's, as its configuration says."""
        self._lock = threading.Lock()

    def add(
        self, endpoint: str, variant: str, answer: Answer, began: datetime, body: bytes, kind: str,
        inference: str | None, late: float,
    ) -> None:  # fmt: skip
        """One answer, whose capture is written `late` seconds from now."""
        line = {
            "captureData": {
                "endpointInput": _captured(body, kind, "INPUT"),
                **({"endpointOutput": _captured(answer.body, answer.content_type, "OUTPUT")}
                   if answer.status < 400 else {}),
            },
            "eventMetadata": {
                "eventId": str(uuid.uuid4()), "inferenceTime": f"{began:%Y-%m-%dT%H:%M:%S.%f}Z",
                **({"inferenceId": inference} if inference else {}),
            },
            "eventVersion": "0",
        }  # fmt: skip
        self.count((endpoint, variant), answer)
        with self._lock:
            folder = f"{self.where[endpoint].removeprefix('s3://').partition('/')[2]}/{endpoint}/{variant}"
            self._captured.append((time.time() + late, folder, line))

    def count(self, of: tuple[str, str], answer: Answer) -> None:
        """One answer of an endpoint's variant, or of an inference component, whose endpoint is no dimension."""
        with self._lock:
            self._metrics.append((time.time(), of, answer.status, answer.seconds * 1e6))

    def get_metric_data(self, asked: dict[str, Any]) -> dict[str, Any]:
        start, end = asked["StartTime"].timestamp(), asked["EndTime"].timestamp()
        with self._lock:
            known = [one for one in self._metrics if start <= one[0] < end]
        results = []
        for query in asked["MetricDataQueries"]:
            stat, period = query["MetricStat"], query["MetricStat"]["Period"]
            named = {one["Name"]: one["Value"] for one in stat["Metric"]["Dimensions"]}
            if stat["Metric"]["Namespace"] != "AWS/SageMaker":
                results.append(self._measured(query, named, asked))
                continue
            sums: dict[float, float] = defaultdict(float)
            wanted = (named.get("EndpointName", ""), named.get("VariantName") or named["InferenceComponentName"])
            for at, of, status, micros in known:
                if of == wanted:
                    sums[at // period * period] += _counted(stat["Metric"]["MetricName"], stat["Stat"], status, micros)
            moments = sorted(sums)
            results.append({
                "Id": query["Id"], "Label": stat["Metric"]["MetricName"], "StatusCode": "Complete",
                "Timestamps": [datetime.fromtimestamp(one, UTC) for one in moments],
                "Values": [sums[one] for one in moments],
            })  # fmt: skip
        return self._page(results, int(asked.get("NextToken", 0)))

    def _measured(self, query: dict[str, Any], named: dict[str, str], asked: dict[str, Any]) -> dict[str, Any]:
        """Of what does not exist nothing is said, and no error; the newest minute is the first."""
        metric, stat = query["MetricStat"]["Metric"], query["MetricStat"]["Stat"]
        assert (query["MetricStat"]["Period"], stat) == (60, "Maximum"), query
        known = self.used.get((metric["Namespace"], metric["MetricName"], frozenset(named.items())), [])
        # Moto leaves the zone out.
        start, end = (asked[key].replace(tzinfo=UTC) for key in ("StartTime", "EndTime"))
        there = sorted((one for one in known if start <= one[0] < end), reverse=True)
        return {
            "Id": query["Id"], "Label": metric["MetricName"], "StatusCode": self.in_part or "Complete",
            "Timestamps": [at for at, _ in there], "Values": [number for _, number in there],
        }  # fmt: skip

    def _page(self, results: list[dict[str, Any]], first: int) -> dict[str, Any]:
        last = first + self.page if self.page else None
        shown = [{**one, **{key: one[key][first:last] for key in ("Timestamps", "Values")}} for one in results]
        more = last is not None and any(len(one["Values"]) > last for one in results)
        return {"MetricDataResults": shown, **({"NextToken": str(last)} if more else {})}

    def write_captures(self, s3: Any) -> None:
        now = time.time()
        with self._lock:
            due = [one for one in self._captured if one[0] <= now]
            self._captured = [one for one in self._captured if one[0] > now]
        files = defaultdict(list)
        for _, folder, line in due:
            hour = datetime.fromisoformat(line["eventMetadata"]["inferenceTime"])
            files[f"{folder}/{hour:%Y/%m/%d/%H}"].append(line)
        for folder, lines in files.items():
            content = "\n".join(json.dumps(line) for line in lines)
            s3.put_object(
                Bucket=BUCKET, Key=f"{folder}/{datetime.now(UTC):%M-%S-%f}-{uuid.uuid4()}.jsonl", Body=content
            )


def _captured(body: bytes, kind: str, mode: str) -> dict[str, Any]:
    is_json = "json" in kind
    return {
        "observedContentType": kind, "mode": mode, "encoding": "JSON" if is_json else "BASE64",
        "data": body.decode() if is_json else base64.b64encode(body).decode(),
    }  # fmt: skip


def _counted(metric: str, stat: str, status: int, micros: float) -> float:
    if metric == "Invocations":
        return 1
    if metric in {"Invocation4XXErrors", "Invocation5XXErrors"}:
        return float(str(status)[0] == metric[len("Invocation")])
    assert metric == "ModelLatency", metric
    low, high = re.fullmatch(r"TC\((\d*):(\d*)\)", stat).groups()
    return float(float(low or -1) < micros <= float(high or "inf"))
