from __future__ import annotations

import os

import pytest

from headgate.credentials import redact, separate_credentials
from headgate.errors import RegistryUnavailableError


@pytest.mark.parametrize(("text", "shown"), [
    ("no answer from http://ann:secret@host:5000/api?x=1", "no answer from http://host:5000/api?x=1"),
    ("'postgresql+psycopg://headgate:p%40ss@db/x'", "'postgresql+psycopg://db/x'"),
    ("http://host/a@b and mail@host", "http://host/a@b and mail@host"),
    ("https://token@host, https://host", "https://host, https://host"),
])  # fmt: skip
def test_addresses_lose_who_asks(text, shown):
    assert redact(text) == shown
    assert RegistryUnavailableError(text).message == shown


def test_mlflows_client_gets_them_apart(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:p%40ss@mlflow.example:8080/base")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    separate_credentials()
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    assert [os.environ[name] for name in names] == ["https://mlflow.example:8080/base", "ann", "p@ss"]
    separate_credentials()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss"
