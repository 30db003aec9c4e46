from __future__ import annotations

import os

import pytest

from deploy_targets.envoy_tracing import Collector
from headgate.credentials import redact, separate_credentials, with_userinfo
from headgate.errors import BadInputError, RegistryUnavailableError


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


@pytest.mark.parametrize(("address", "has"), [
    ("s3://ann:secret@bucket/x", True), ("https://token@host", True), ("https://ann:@host?x", True),
    ("S3://:p@h", True),
    ("abfss://ann:secret@account/x", True), ("abfss://container@account/x", False), ("s3://bucket/a@b", False),
    ("https://host?mail=ann@host", False), ("https://host#a:b@c", False), ("ann:secret@host", False), ("", False),
])  # fmt: skip
def test_a_user_or_a_password_in_an_address_is_seen(address, has):
    assert with_userinfo(address) is has


def test_a_collector_with_a_password_is_not_written_into_the_gateways_file(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://ann:planted@127.0.0.1:4318")
    with pytest.raises(BadInputError, match="has a user or a password") as raised:
        Collector.from_env()
    assert "planted" not in str(raised.value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert Collector.from_env().host == "127.0.0.1"
