"""The Prefect server that commands speak to."""

from __future__ import annotations

import pytest

from headgate.errors import TargetUnavailableError
from tasks.deployments import open_client


def test_where_no_server_is_known_none_is_started():
    with pytest.raises(TargetUnavailableError, match="no Prefect server is known") as refused, open_client():
        pass
    assert "headgate up" in refused.value.fix
