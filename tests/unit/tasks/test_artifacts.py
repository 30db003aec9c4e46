from __future__ import annotations

import httpx
import pytest

from tasks import artifacts


def test_a_server_that_is_away_ends_no_step(monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    said: list[str] = []
    monkeypatch.setattr(artifacts, "in_flow_run", lambda: True)
    monkeypatch.setattr(artifacts, "log", said.append)
    monkeypatch.setattr(artifacts, "create_link_artifact", away)
    artifacts.show_report("wine", "http://127.0.0.1:9")
    assert said == ["Prefect's server did not take an artifact: ConnectError"]


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        raise ValueError("no such key")

    monkeypatch.setattr(artifacts, "in_flow_run", lambda: True)
    monkeypatch.setattr(artifacts, "create_link_artifact", wrong)
    with pytest.raises(ValueError, match="no such key"):
        artifacts.show_report("wine", "http://127.0.0.1:9")
