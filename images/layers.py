"""Image layers as uncompressed tar archives that are never written down: the same files are always the same bytes.

A layer knows its length before it is read, and can be read from any offset, so that it is hashed and uploaded in one
pass, in little memory, and an upload that broke goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from headgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = "opt/headgate"
"""Where everything of ours is, in an image; without the leading slash, as archives have it."""

LARGE_BYTES = 32 * 2**20
"""Files from here on have a layer of their own."""

MOST_LARGE = 64
"""Layers of large files at most; overlay file systems take 127 in all."""

_CHUNK = 2**20
_BLOCK = tarfile.BLOCKSIZE
_ARCHIVE_END = 2 * _BLOCK


@dataclass(frozen=True)
class Content:
    """What an image layer holds of one file: a file of this machine, or bytes."""

    source: Path | bytes
    mode: int = 0o644

    @cached_property
    def size(self) -> int:
        """Bytes, when the layer was planned."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Layer:
    """One layer: files by their path in the image, without a leading slash, in a stable order.

    Times are zero and the owner is root, whatever the files say, so that only names, contents and the bit that says
    whether a file may be executed make a difference. Source: POSIX.1-2001 (pax), and the OCI image specification,
    layer.md.
    """

    files: Mapping[str, Content] = field(hash=False)

    @cached_property
    def size(self) -> int:
        """Bytes of the archive."""
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self._parts) + _ARCHIVE_END

    @cached_property
    def digest(self) -> str:
        """sha256 of the archive; reads every file."""
        whole = hashlib.sha256()
        for chunk in self.read():
            whole.update(chunk)
        return f"sha256:{whole.hexdigest()}"

    def read(self, start: int = 0) -> Iterator[bytes]:
        """The archive from an offset on, a mebibyte at a time.

        Raises:
            ArtifactError: a file cannot be read, or is being changed.
        """
        offset = 0
        for part in (*self._parts, bytes(_ARCHIVE_END)):
            size = len(part) if isinstance(part, bytes) else part.size
            if offset + size > start:
                skip = max(start - offset, 0)
                if isinstance(part, bytes):
                    yield part[skip:]
                else:
                    yield from _read_file(part, skip)
            offset += size

    @cached_property
    def _parts(self) -> list[bytes | Content]:
        """Headers, contents and padding, in order."""
        parts: list[bytes | Content] = []
        known: set[str] = set()
        for name, content in sorted(self.files.items()):
            folders = [str(folder) for folder in reversed(PurePosixPath(name).parents)][1:]
            parts += [_header(folder, 0, 0o755, tarfile.DIRTYPE) for folder in folders if folder not in known]
            known.update(folders)
            body = content.source if isinstance(content.source, bytes) else content
            header = _header(name, content.size, content.mode, tarfile.REGTYPE)
            parts += [header, body, bytes(-content.size % _BLOCK)]
        return parts


def split_large(files: Mapping[str, Path], prefix: str) -> list[Layer]:
    """The layers of a folder: each large file its own, the largest first, and one for all the others.

    A changed tokenizer or adapter then leaves the layer of the weights as it is.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    large = sorted((name for name, size in sizes.items() if size >= LARGE_BYTES), key=lambda name: (-sizes[name], name))
    alone = large[:MOST_LARGE]
    groups = [[name] for name in alone] + [[name for name in files if name not in set(alone)]]
    return [Layer({f"{prefix}/{name}": Content(files[name]) for name in group}) for group in groups if group]


def _header(name: str, size: int, mode: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, kind
    return info.tobuf(tarfile.PAX_FORMAT)


def _read_file(content: Content, skip: int) -> Iterator[bytes]:
    path, left = content.source, content.size - skip
    assert isinstance(path, Path)  # noqa: S101 - bytes are parts of their own
    try:
        with path.open("rb") as file:
            file.seek(skip)
            while left > 0:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise ArtifactError(f"artifact: {path} became shorter while it was read")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise ArtifactError(f"artifact: {path} cannot be read: {error.strerror}") from error
