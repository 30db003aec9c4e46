"""The prediction log from Vertex AI's request-response logging: rows of a BigQuery table.

Source: https://cloud.google.com/vertex-ai/docs/predictions/online-prediction-logging. A row has the bodies and an id of
Vertex's own, which no client is told, and neither a status, a latency nor a content type: an answer that is there was
a 200, and a request that is no JSON and was answered is a CSV.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from deploy_targets.answers import reading
from deploy_targets.logged import JSON, content_type_of, parsed, written
from deploy_targets.prediction_log import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploy_targets.vertex.google import Google
    from headgate.records import Window

_QUERY = """
SELECT deployed_model_id, UNIX_MICROS(logging_time), CAST(request_id AS STRING), request_payload, response_payload
FROM `{table}`
WHERE ENDS_WITH(CONCAT('/', endpoint), @endpoint) AND logging_time >= @start AND logging_time < @until
ORDER BY logging_time
"""
_ROWS = 2000
_OK, _FAILED = 200, 500


class Captures:
    """What Vertex wrote of one endpoint.

    Args:
        google: the project.
        where: bq://project.dataset.table.
        endpoint: whose.
    """

    def __init__(self, google: Google, where: str, endpoint: str) -> None:
        self._google, self._endpoint = google, endpoint
        self._table = where.removeprefix("bq://")

    def read(self, window: Window, revisions: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Rows within a window, in batches of `SCHEMA`; `seconds` is not known.

        Args:
            window: of times.
            revisions: by the number under which they are deployed; rows of others are passed over.
        """
        for page in self._pages(window):
            with reading(f"BigQuery's table {self._table}", page):
                known = [row for row in page if row[0] in revisions]
                batch = self._batch(known, revisions)
            if known:
                yield batch

    def _pages(self, window: Window) -> Iterator[Sequence[Sequence[Any]]]:
        body = {
            "query": _QUERY.format(table=self._table), "useLegacySql": False, "parameterMode": "NAMED",
            "maxResults": _ROWS, "timeoutMs": 60_000,
            "queryParameters": [
                _parameter("endpoint", "STRING", f"/{self._endpoint}"),
                _parameter("start", "TIMESTAMP", window.start.isoformat()),
                _parameter("until", "TIMESTAMP", window.end.isoformat()),
            ],
        }  # fmt: skip
        # Vertex makes the table with the first request.
        page = self._google.find("bigquery", "jobs.query", projectId=self._google.project, body=body)
        while page is not None:
            with reading(f"BigQuery's table {self._table}", page.get("rows")):
                rows = [[field["v"] for field in row["f"]] for row in page.get("rows", [])]
            yield rows
            if page.get("jobComplete", True) and not page.get("pageToken"):
                return
            job = page["jobReference"]
            page = self._google.call(
                "bigquery", "jobs.getQueryResults", projectId=job["projectId"], jobId=job["jobId"], maxResults=_ROWS,
                **({"location": job["location"]} if job.get("location") else {}),
                **({"pageToken": page["pageToken"]} if page.get("pageToken") else {}),
            )  # fmt: skip

    def _batch(self, rows: Sequence[Sequence[Any]], revisions: Mapping[str, str]) -> pa.RecordBatch:
        number = len(rows)
        requests = [body_of(row[3], "instances") for row in rows]
        kinds = [content_type_of(body) if row[4] else JSON for row, body in zip(rows, requests, strict=True)]
        columns = {
            "request_id": [row[2] for row in rows],
            "time": [datetime.fromtimestamp(int(row[1]) / 1e6, UTC) for row in rows],
            "status": [_OK if row[4] else _FAILED for row in rows],
            "seconds": [None] * number, "mirrored": [False] * number, "content_type": kinds,
            "request": requests,
            "response": [body_of(row[4], "predictions") for row in rows],
            "endpoint": [self._endpoint] * number, "revision": [revisions[row[0]] for row in rows],
        }  # fmt: skip
        return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def body_of(payload: Sequence[Mapping[str, Any]], key: str) -> bytes:
    """A body from a repeated field: the whole of it in one element, or one element a record.

    Args:
        payload: the elements, as BigQuery's REST API has them.
        key: where a body has its records, if there is an element for each.
    """
    texts = [str(element["v"]) for element in payload]
    try:
        read = [parsed(text) for text in texts]
    except ValueError:
        # As it is: what reads the log counts it as unreadable where it is no CSV either.
        return "\n".join(texts).encode()
    if len(read) == 1 and isinstance(read[0], dict):
        return texts[0].encode()
    return written({key: read}) if read else b""


def _parameter(name: str, kind: str, value: str) -> dict[str, Any]:
    return {"name": name, "parameterType": {"type": kind}, "parameterValue": {"value": value}}
