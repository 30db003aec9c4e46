"""MLflow's own scoring server in this process, and how the answers of ours are held against its."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Self

import httpx
from hypothesis import HealthCheck, given, settings
from mlflow import pyfunc
from mlflow.pyfunc import scoring_server

from headgate_server.model import MOST_MESSAGE, ModelRaisedError, ServedModel
from support.models import ASKED, Models
from support.request_bodies import bodies

_RAISED = "Encountered an unexpected error while evaluating the model."


class MlflowServer:
    """MLflow's own ASGI app, asked in this process; use it as a context manager."""

    def __init__(self, loaded: Any) -> None:
        self._loop = asyncio.new_event_loop()
        transport = httpx.ASGITransport(scoring_server.init(loaded), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://mlflow")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def ask(self, body: bytes, content_type: str) -> httpx.Response:
        """Post a body."""
        headers = {"content-type": content_type}
        return self._loop.run_until_complete(self._client.post("/invocations", content=body, headers=headers))


def compare(ours: ServedModel, theirs: MlflowServer, body: bytes, content_type: str) -> int:
    """Ask both the same; the answers differ only where docs/design.md says so.

    Returns:
        The status that both have, or ours where they differ on purpose.

    Raises:
        AssertionError: they do not say the same.
    """
    reference = theirs.ask(body, content_type)
    shown = (body, content_type, reference.status_code, reference.text)
    try:
        answer = ours.answer(body, content_type)
    except ModelRaisedError:
        # MLflow blames the input for everything that a model raises; we say 500 where nothing is missing.
        assert reference.status_code == 400, shown
        assert _RAISED in reference.json()["message"], shown
        return 500
    if reference.status_code >= 500:
        # Its server fell over the body, or calls it an internal error; it is the client's all the same.
        assert answer.status == 400, (*shown, answer)
        return 400
    assert answer.status == reference.status_code, (*shown, answer)
    said = json.loads(answer.body)
    if answer.status == 200:
        # As bytes: NaN is itself then, and 1 is not 1.0.
        assert json.dumps(said).encode() == json.dumps(reference.json()).encode(), (*shown, answer)
    elif answer.status == 415:
        assert said["message"] == reference.text[:MOST_MESSAGE], (*shown, answer)
    else:
        told = reference.json()
        assert (said["error_code"], said["message"]) == (told["error_code"], told["message"][:MOST_MESSAGE]), (
            *shown,
            answer,
        )
    return answer.status


def check(models: Models, kind: str, number: int) -> None:
    """Ask a model and MLflow's server of it so many bodies."""
    name, options, way = ASKED[kind]
    folder = models(name, **options)
    ours, loaded = ServedModel(folder), pyfunc.load_model(str(folder))
    assert ours.way == way
    seen: Counter[int] = Counter()
    with MlflowServer(loaded) as theirs:

        @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(bodies(loaded.metadata.get_input_schema()))
        def ask(body: Any) -> None:
            seen[compare(ours, theirs, *body)] += 1

        ask()
    assert seen[200] > number / 20, seen
    assert seen[400] > number / 20, seen
