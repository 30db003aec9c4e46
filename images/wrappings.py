"""What a file holds, whatever it is called: archives and compressed streams, each opened in bounded memory and time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

UNPACKED = 4 * 2**30
"""The most that one file of a model may unpack to, in bytes."""

RATIO = 1000
"""The most that a compressed stream may grow by, once it has given `FREELY` bytes."""

FREELY = 64 * 2**20
DEEPEST = 6
"""Wrappings in wrappings."""

_IN_MEMORY = 16 * 2**20
_CHUNK = 2**20
_TAR_MAGIC = slice(257, 262)
_TAR_CHECKSUM = slice(148, 156)
_LOCAL_HEADER = 30


class Unreadable(Exception):  # noqa: N818 - a finding, which the scan words
    """A file that some loader may read and this cannot."""


class Stream(Protocol):
    """A compressed stream."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102


@dataclass(frozen=True)
class Part:
    """A file, or what is in it.

    Attributes:
        name: with the names of what it is in.
        file: to be read from any offset.
        size: in bytes.
    """

    name: str
    file: IO[bytes]
    size: int


@dataclass
class Budget:
    """What may still be unpacked of a file of a model, in bytes."""

    left: int = UNPACKED


def head_of(part: Part, count: int = 512) -> bytes:
    """A part's first bytes."""
    part.file.seek(0)
    return part.file.read(count)


def parts_of(part: Part, budget: Budget) -> Iterator[Part]:
    """What is packed into a part; nothing where it is no archive and not compressed.

    Raises:
        Unreadable: it is one and cannot be read to its end, or is too large.
    """
    head = head_of(part)
    if head.startswith(b"PK\x03\x04") or zipfile.is_zipfile(part.file):
        yield from _zipped(part, budget)
    if _is_tar(head):
        yield from _tarred(part)
    for magic, kind, opened in _COMPRESSED:
        if head.startswith(magic):
            yield from _unpacked(part, kind, opened, budget)
    for magic, kind in _UNKNOWN.items():
        if head.startswith(magic):
            raise Unreadable(f"{part.name} is compressed with {kind}, which cannot be looked into")


class _Window(io.RawIOBase):
    """A range of bytes of another file, without a copy."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset within the range."""
        self._at = max(0, offset + {0: 0, 1: self._at, 2: self._size}[whence])
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        content = self._file.read(count)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)


def _window(part: Part, name: str, start: int, size: int) -> Part:
    if start + size > part.size:
        raise Unreadable(f"{part.name} ends before {name} does")
    return Part(f"{part.name}/{name}", io.BufferedReader(_Window(part.file, start, size)), size)


def _zipped(part: Part, budget: Budget) -> Iterator[Part]:
    """The files of a zip archive; those that are only stored are read where they are."""
    try:
        with zipfile.ZipFile(part.file) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                if entry.compress_type == zipfile.ZIP_STORED:
                    # Loaders differ in whether they heed checksums and flags: the bytes count.
                    yield _stored(part, entry)
                    continue
                with archive.open(entry) as stream, _spooled(stream, entry.compress_size, budget, part.name) as file:
                    yield Part(f"{part.name}/{entry.filename}", file, _size_of(file))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise Unreadable(f"{part.name} is a zip archive that cannot be read: {error}") from error


def _stored(part: Part, entry: zipfile.ZipInfo) -> Part:
    part.file.seek(entry.header_offset)
    header = part.file.read(_LOCAL_HEADER)
    if not header.startswith(b"PK\x03\x04") or len(header) != _LOCAL_HEADER:
        raise Unreadable(f"{part.name} has no {entry.filename} where its directory says")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return _window(part, entry.filename, entry.header_offset + _LOCAL_HEADER + name + extra, entry.file_size)


def _is_tar(head: bytes) -> bool:
    """Whether a header is a tar archive's: by its magic, or by its checksum as the oldest have none."""
    if len(head) < tarfile.BLOCKSIZE:
        return False
    if head[_TAR_MAGIC] == b"ustar":
        return True
    try:
        said = int(head[_TAR_CHECKSUM].strip(b" \0") or b"-", 8)
    except ValueError:
        return False
    return said == sum(head) - sum(head[_TAR_CHECKSUM]) + 8 * ord(" ") and said > 8 * ord(" ")


def _tarred(part: Part) -> Iterator[Part]:
    part.file.seek(0)
    try:
        with tarfile.open(fileobj=part.file, mode="r:") as archive:
            for entry in archive:
                if entry.issparse():
                    raise Unreadable(f"{part.name} has {entry.name} as a sparse file, which cannot be looked into")
                if entry.isfile():
                    yield _window(part, entry.name, entry.offset_data, entry.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise Unreadable(f"{part.name} is a tar archive that cannot be read: {error}") from error


class _Zlib:
    """zlib streams one after another, as joblib reads them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._stream = file, zlib.decompressobj()

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        while packed := self._stream.unconsumed_tail or self._stream.unused_data or self._file.read(_CHUNK):
            if self._stream.eof:
                self._stream = zlib.decompressobj()
            if content := self._stream.decompress(packed, size):
                return content
        if not self._stream.eof:
            raise EOFError("it ends too early")
        return b""


def _unpacked(part: Part, kind: str, opened: Callable[[Any], Stream], budget: Budget) -> Iterator[Part]:
    """What a compressed stream holds; nothing where it only begins as one.

    Raises:
        Unreadable: it breaks off, or grows beyond its limit.
    """
    part.file.seek(0)
    gave = io.BytesIO()
    try:
        with _spooled(opened(part.file), part.size, budget, part.name, gave) as file:
            yield Part(f"{part.name}/{kind}", file, _size_of(file))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        if kind in _WEAK and not gave.getbuffer().nbytes:
            return
        raise Unreadable(f"{part.name} is compressed with {kind} and cannot be read to its end: {error}") from error


@contextmanager
def _spooled(stream: Stream | IO[bytes], packed: int, budget: Budget, name: str,
             gave: IO[bytes] | None = None) -> Iterator[IO[bytes]]:  # fmt: skip
    """A stream's content, in memory or in a file that has no name.

    Args:
        stream: the content.
        packed: its size before, in bytes.
        budget: what may be unpacked.
        name: of what it is in.
        gave: gets its first byte.
    """
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        count = 0
        while chunk := stream.read(_CHUNK):
            if gave is not None and not count:
                gave.write(chunk[:1])
            count += len(chunk)
            budget.left -= len(chunk)
            if budget.left < 0 or (count > FREELY and count > RATIO * packed):
                raise Unreadable(f"{name} unpacks to more than {UNPACKED >> 30} GiB or {RATIO} times its size")
            file.write(chunk)
        file.seek(0)
        yield file


def _size_of(file: IO[bytes]) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


_COMPRESSED: tuple[tuple[bytes, str, Callable[[Any], Stream]], ...] = (
    (b"\x1f\x8b", "gzip", lambda file: gzip.GzipFile(fileobj=file, mode="rb")), (b"BZh", "bzip2", bz2.BZ2File),
    (b"\xfd7zXZ\0", "xz", lzma.LZMAFile), (b"\x5d\x00\x00", "lzma", lzma.LZMAFile),
    *((bytes([0x78, level]), "zlib", _Zlib) for level in (0x01, 0x5E, 0x9C, 0xDA)),
)  # fmt: skip
_WEAK = {"zlib", "lzma", "bzip2"}
"""Kinds whose first bytes are those of other files too."""

_UNKNOWN = {b"\x04\x22\x4d\x18": "LZ4", b"\x28\xb5\x2f\xfd": "Zstandard"}
