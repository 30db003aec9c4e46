"""Versions as Headgate made them before the server's package was `headgate_server`: their files and their records.

A bundle or an image that is made within `packaging` has the package as `serving`, and `rewrite` has an endpoint's
history be as that Headgate wrote it: rows of schema 2, in which no image names its server.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from headgate.records import Image
from images.bundle import SERVER, SERVER_CODE, code_of
from registry.journal import GENESIS, _hash, entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry import Journal

NAME = "serving"


@contextmanager
def packaging(folder: Path) -> Iterator[None]:
    """Have this process package models with the server under its old name, of code that is put into a folder."""
    package = folder / NAME
    if not package.exists():
        package.mkdir(parents=True)
        for name, path in code_of(SERVER).items():
            (package / name).write_text(path.read_text(encoding="utf-8").replace(SERVER, NAME), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SERVER_CODE, str(folder))
        patch.setattr("images.bundle.SERVER", NAME)
        patch.setattr("images.container.SERVER", NAME)
        yield


def recorded(image: Image) -> Image:
    """Return an image as it is read from a record of then."""
    return Image.model_validate(_without_server(image.model_dump(mode="json")))


def rewrite(journal: Journal, endpoint: str) -> None:
    """Write an endpoint's rows, and their chain, as they were written then."""
    with journal.writing() as connection:
        query = sa.select(entries).where(entries.c.endpoint == endpoint).order_by(entries.c.seq)
        previous = GENESIS
        for found in connection.execute(query).mappings().all():
            evidence = json.dumps(_without_server(json.loads(found["evidence"])), sort_keys=True)
            row = {**found, "evidence": evidence, "schema": 2, "previous": previous}
            row["hash"] = previous = _hash(row)
            is_it = (entries.c.endpoint == endpoint) & (entries.c.seq == found["seq"])
            connection.execute(entries.update().where(is_it).values(row))


def _without_server(value: Any) -> Any:
    """Return JSON in which no image names its server."""
    if isinstance(value, list):
        return [_without_server(one) for one in value]
    if not isinstance(value, dict):
        return value
    is_image = "lock_digest" in value
    return {name: _without_server(one) for name, one in value.items() if not (is_image and name == "server")}
