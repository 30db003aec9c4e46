"""An API server that the kubeconfig names."""

from __future__ import annotations

import pytest
from support.api_server import api_server, kubeconfig


@pytest.fixture
def server(tmp_path, monkeypatch):
    with api_server() as running:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, running.port)))
        yield running
