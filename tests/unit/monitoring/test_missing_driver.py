"""A database whose driver is not installed, or does not load, is named with what to install."""

from __future__ import annotations

import pytest

from headgate.errors import BadInputError
from monitoring.truth import labels_from_query
from registry.database import open_engine

WITHOUT_LIBPQ = ImportError("no pq wrapper available.\nAttempts made:\n- couldn't import psycopg 'c' implementation")
ABSENT = ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
URL = "postgresql+psycopg://ann:planted@127.0.0.1:9/x"


@pytest.mark.parametrize(("error", "says"), [(ABSENT, "psycopg"), (WITHOUT_LIBPQ, "no pq wrapper available")])
@pytest.mark.parametrize("ask", [open_engine, lambda url: labels_from_query(url, "select 1")])
def test_a_driver_that_is_missing_is_named_with_its_extra(monkeypatch, ask, error, says):
    def missing(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("sqlalchemy.create_engine", missing)
    with pytest.raises(BadInputError, match=says) as raised:
        ask(URL)
    assert "None" not in raised.value.message
    assert "pip install" in raised.value.fix
    assert "planted" not in str(raised.value)
