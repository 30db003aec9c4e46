"""A name to which nothing was ever released."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from headgate.errors import BadInputError
from registry import Entry, Journal, Kind
from registry.endpoints import require_endpoint, require_release_file


@pytest.mark.parametrize(("known", "asked", "fix"), [
    ([], "wine", "nothing was released here yet: headgate release release.yaml"),
    (["wine", "beer"], "wien", "did you mean wine?"),
    (["wine", "beer"], "loans", "the endpoints are: wine, beer"),
    ([f"e{number}" for number in range(30)], "loans",
     "the endpoints are: e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, and 20 more"),
])  # fmt: skip
def test_what_was_probably_meant_or_what_there_is(known, asked, fix):
    journal = SimpleNamespace(endpoints=lambda: known)
    with pytest.raises(BadInputError, match=f"there is no endpoint {asked}") as raised:
        require_endpoint(journal, asked)
    assert raised.value.fix == fix
    for name in known:
        require_endpoint(journal, name)


def test_an_endpoint_that_only_has_notes_has_no_release_file(tmp_path):
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    journal.append(Entry(endpoint="wine", release_id="r", kind=Kind.NOTE, what="seen", actor="dana"))
    with pytest.raises(BadInputError, match="no release of wine has begun"):
        require_release_file(journal, "wine")
    spec = {"model": "wine"}
    journal.append(
        Entry(endpoint="wine", release_id="r", kind=Kind.PHASE, what="started", actor="dana", evidence={"spec": spec})
    )
    assert require_release_file(journal, "wine") == spec
    journal.close()
