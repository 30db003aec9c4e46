"""Labels by way of the receiver: into the endpoint's own store, or refused whole."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from headgate.home import Home
from headgate.phases import Phase
from headgate.release_file import parse_release
from monitoring.predictions import PredictionStore
from monitoring.truth import Labels
from registry import Entry, Kind
from registry.journal import open_journal
from tasks.receiver import MAX_BODY, make_app

BEARER = {"authorization": "Bearer token"}


@pytest.fixture
def receiver(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADGATE_JOURNAL_URL", raising=False)
    home = Home(tmp_path / "home").ensure()
    spec = parse_release(
        f"model: wine\nartifact: m\ntarget: {{kind: local}}\ncapture: {{store: {tmp_path / 'store'}}}\n"
    )
    with open_journal(home.journal_url) as journal:
        evidence = {"spec": spec.model_dump(mode="json")}
        journal.append(
            Entry(endpoint="wine", release_id="r", kind=Kind.PHASE, what=Phase.STARTED, actor="ann", evidence=evidence)
        )
    app = make_app(home, secret="s", token="token", prefect_api="http://127.0.0.1:9")  # noqa: S106

    def post(body: object, headers: dict[str, str] = BEARER) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
            ):
                return await client.post("/labels", json=body, headers=headers)

        return asyncio.run(send())

    return post


def kept(tmp_path) -> list[list]:
    return Labels(PredictionStore(str(tmp_path / "store"), "wine")).read().to_numpy().tolist()


def test_labels_are_kept_once(receiver, tmp_path):
    body = {
        "endpoint": "wine",
        "labels": [{"request_id": "a", "label": 1.0}, {"request_id": "a", "row": 1, "label": "x"}],
    }
    for new in (2, 0):
        taken = receiver(body)
        assert (taken.status_code, taken.json()) == (202, {"new": new})
    assert kept(tmp_path) == [["a", 0, "1"], ["a", 1, "x"]]


@pytest.mark.parametrize(("body", "status", "says"), [
    ({"endpoint": "beer", "labels": [{"request_id": "a", "label": 1}]}, 400, "there is no endpoint beer"),
    ({"endpoint": "wine", "labels": [{"request_id": "a"}]}, 400, "no column label"),
    ({"endpoint": "wine", "labels": []}, 400, "list of objects"),
    ({"endpoint": "wine", "labels": 5}, 400, "the body is"),
    ({"labels": []}, 400, "the body is"),
    ([], 400, "the body is"),
    ({"endpoint": "wine", "labels": [{"request_id": "a", "label": "x" * MAX_BODY}]}, 413, "in parts"),
])  # fmt: skip
def test_what_are_no_labels_is_refused_whole(receiver, tmp_path, body, status, says):
    refused = receiver(body)
    assert (refused.status_code, says in refused.json()["error"]) == (status, True)
    assert kept(tmp_path) == []


def test_only_who_shows_the_token_may_tell(receiver, tmp_path):
    body = {"endpoint": "wine", "labels": [{"request_id": "a", "label": 1}]}
    for headers in ({}, {"authorization": "Bearer tokem"}):
        assert receiver(body, headers).status_code == 401
    assert kept(tmp_path) == []


def test_a_store_that_cannot_be_written_to_may_be_told_again(receiver, tmp_path):
    (tmp_path / "store").write_text("a file where a folder should be")
    body = {"endpoint": "wine", "labels": [{"request_id": "a", "label": 1}]}
    assert receiver(body).status_code == 503
    (tmp_path / "store").unlink()
    assert receiver(body).json() == {"new": 1}
