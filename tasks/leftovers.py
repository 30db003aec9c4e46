"""Files under HEADGATE_HOME that nothing refers to: what a killed process had half written, and images of no use."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from headgate import clock
from headgate.phases import Phase
from headgate.records import Image
from registry import Kind, history
from tasks.disorder import Case, Disorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headgate.home import Home
    from registry import Journal

HALF_WRITTEN_SECONDS = 24 * 3600.0
_BUILDING = ".building"
UNUSED_SECONDS = 7 * 24 * 3600.0
_HALF_WRITTEN = (
    ".artifact-*", "bundles/.*.building", "envs/.*.building", "layers/.*.building", "references/.downloading-*",
    # What is replaced in one step is written beside it first, under the name of who writes.
    *(
        f"{folder}.*.[0-9]*"
        for folder in ("", "gateway/", "supervisor/", "supervisor/programs/", "locks/", "references/*/")
    ),
)  # fmt: skip


def cases_of_files(home: Home, journal: Journal) -> Iterator[Case]:
    """What has lain there for a day half written, or for a week without being of use.

    A bundle or an environment is of use while a version that was ever live runs from it, as a rollback can go back to
    that, or a release in flight. Any other is made again when it is needed.
    """
    for pattern in _HALF_WRITTEN:
        for path in sorted(home.root.glob(pattern)):
            if _age(path) > HALF_WRITTEN_SECONDS:
                yield _removal(home, path, "was never finished")
    used = _used(journal)
    for folder in (home.bundles, home.envs):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and path not in used and _age(path) > UNUSED_SECONDS:
                yield _removal(home, path, "no version that was live needs it")
    for path in sorted((home.root / "references").glob("[!.]*")):
        # It is fetched, or computed, again where it is needed after all.
        if _age(path) > UNUSED_SECONDS:
            yield _removal(home, path, "no check has read it for a week")


def _removal(home: Home, path: Path, why: str) -> Case:
    found = Disorder(endpoint="", problem=f"{path.relative_to(home.root)}: {why}", remedy="removed")
    return Case(found, lambda: _remove(path))


def _remove(path: Path) -> None:
    with ExitStack() as held:
        if path.name.endswith(_BUILDING):
            try:
                # Who builds it holds this; then it is of use, and looked at again another time.
                held.enter_context(FileLock(path.with_name(f"{path.name.removesuffix(_BUILDING)}.lock"), timeout=0))
            except Timeout:
                return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _used(journal: Journal) -> set[Path]:
    paths: set[Path] = set()
    for endpoint in journal.endpoints():
        images = [reign.revision.image for reign in history.reigns(journal, endpoint)]
        flight = history.in_flight(journal, endpoint)
        if flight is not None:
            rows = journal.read(endpoint, kinds=(Kind.PHASE,), release_id=flight.release_id)
            images += [Image.model_validate(row.evidence["image"]) for row in rows if row.what == Phase.PACKAGED]
        for image in images:
            paths.add(image.path)
            if image.interpreter is not None:
                paths.add(image.interpreter.parent.parent)
    return paths


def _age(path: Path) -> float:
    return clock.now() - path.stat().st_mtime
