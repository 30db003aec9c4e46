"""A harmless marker, in every wrapping that a loader opens: none runs under `block`, and each would where it may."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest

from headgate.errors import UnsafeArtifactError
from images import scan_artifact
from images.pickles import read_pickle


class Calls:
    """Pickled as a call."""

    def __init__(self, what, *arguments) -> None:
        self.call = what, arguments

    def __reduce__(self):
        return self.call


def text(content: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(content.encode())) + content.encode()


def call(module: str, name: str, *arguments: str | bytes, protocol: bytes = b"\x80\x04") -> bytes:
    """A pickle that calls a name with texts and bytes."""
    given = b"".join(
        text(one) if isinstance(one, str) else b"B" + struct.pack("<I", len(one)) + one for one in arguments
    )
    return protocol + text(module) + text(name) + b"\x93(" + given + b"tR."


@pytest.fixture(scope="module")
def marker(tmp_path_factory):
    return tmp_path_factory.mktemp("marks") / "ran"


def touch(marker) -> str:
    return f"touch {marker}"


def raw(marker, protocol: int = 2) -> bytes:
    """A file that makes the marker when it is loaded."""
    return pickle.dumps(Calls(os.system, touch(marker)), protocol)


def zipped(content: bytes, name: str = "archive/data.pkl", how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tarred(content: bytes, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:
        entry = tarfile.TarInfo("pickle")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def dumped(value, **options) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


def array(marker, archive: bool = False) -> bytes:
    file = io.BytesIO()
    content = np.array([Calls(os.system, touch(marker))], object)
    np.savez(file, x=content) if archive else np.save(file, content)
    return file.getvalue()


def framed_twice(marker) -> bytes:
    """A frame that goes on behind an array, as only the pure Python unpickler of joblib takes it."""
    whole = dumped({"x": np.arange(4000.0)})
    at = whole.index(b"\x95") + 1
    (length,) = struct.unpack_from("<Q", whole, at)
    return whole[:at] + struct.pack("<Q", length + 40) + whole[at + 8 :] + raw(marker)


def in_an_array(marker) -> bytes:
    """Opcodes as an array's data: joblib reads an array, and pickle.load the opcodes."""

    inner = b"cposix\nsystem\n(V" + touch(marker).encode() + b"\ntR."
    whole = dumped(np.frombuffer(inner.ljust(512, b" "), "u1"), protocol=2)
    at = whole.index(inner)
    begins = whole.rindex(b"b", 0, at)
    return whole[: begins + 1] + inner + whole[at:]


WRAPPED = {
    **{f"raw{ending}": raw for ending in (
        ".pkl", ".sav", ".model", ".p", ".pk", ".dat", "", ".bin", ".txt", ".json", ".yaml", ".csv", ".safetensors",
        ".onnx", ".gguf", ".h5", ".PKL", ".joblib", ".pt", ".pth", ".ckpt", ".dill", ".weights", ".npy", ".npz",
    )},
    **{f"protocol {number}.p": (lambda marker, number=number: raw(marker, number)) for number in range(6)},
    "gzip.gz": lambda marker: gzip.compress(raw(marker)), "gzip.sav": lambda marker: gzip.compress(raw(marker)),
    "bzip2.bz2": lambda marker: bz2.compress(raw(marker)), "bzip2": lambda marker: bz2.compress(raw(marker)),
    "xz.xz": lambda marker: lzma.compress(raw(marker)), "xz.dat": lambda marker: lzma.compress(raw(marker)),
    "lzma.lzma": lambda marker: lzma.compress(raw(marker), lzma.FORMAT_ALONE),
    "lzma.model": lambda marker: lzma.compress(raw(marker), lzma.FORMAT_ALONE),
    **{f"zlib {level}.z": (lambda marker, level=level: zlib.compress(raw(marker), level)) for level in (1, 5, 6, 9)},
    "two zlib streams.joblib": lambda marker: zlib.compress(b"\x80\x04") + zlib.compress(raw(marker, 4)[2:]),
    "two gzip members.gz": lambda marker: gzip.compress(b"\x80\x04") + gzip.compress(raw(marker, 4)[2:]),
    "cut off.gz": lambda marker: gzip.compress(raw(marker))[:-4],
    "gzip in gzip.gz": lambda marker: gzip.compress(gzip.compress(raw(marker))),
    "LZ4.joblib": lambda marker: b"\x04\x22\x4d\x18" + raw(marker), "Zstandard": lambda m: b"\x28\xb5\x2f\xfd" + raw(m),
    **{f"joblib {kind}.dat": (lambda marker, kind=kind: dumped(Calls(os.system, touch(marker)), compress=(kind, 3)))
       for kind in ("zlib", "gzip", "bz2", "lzma", "xz")},
    "joblib.p": lambda marker: dumped(Calls(os.system, touch(marker))),
    "joblib behind an array.p": lambda marker: dumped([np.arange(9.0), Calls(os.system, touch(marker))]),
    "joblib in an array.p": lambda marker: dumped(np.array([Calls(os.system, touch(marker))], object)),
    "joblib, a frame too long.p": framed_twice, "opcodes as an array.p": in_an_array,
    "zip.zip": lambda marker: zipped(raw(marker)), "zip": lambda marker: zipped(raw(marker)),
    "torch.pt": lambda marker: zipped(raw(marker)), "torch.bin": lambda marker: zipped(raw(marker), "a/data.pkl"),
    "zip, deflated": lambda marker: zipped(raw(marker), "x", zipfile.ZIP_DEFLATED),
    "zip, bzip2": lambda marker: zipped(raw(marker), "x", zipfile.ZIP_BZIP2),
    "zip, lzma": lambda marker: zipped(raw(marker), "x", zipfile.ZIP_LZMA),
    "zip in zip": lambda marker: zipped(zipped(raw(marker)), "x.zip", zipfile.ZIP_DEFLATED),
    "zip in a stored zip": lambda marker: zipped(zipped(raw(marker))),
    "zip behind text": lambda marker: b"text " * 9 + zipped(raw(marker)),
    "zip, flagged as encrypted": lambda marker: zipped(raw(marker)).replace(
        b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1"),
    "zip, wrong checksum": lambda marker: zipped(raw(marker)).replace(
        zlib.crc32(raw(marker)).to_bytes(4, "little"), b"\0\0\0\0"),
    "tar.tar": lambda marker: tarred(raw(marker)), "tar": lambda marker: tarred(raw(marker)),
    "tar of old": lambda marker: tarred(raw(marker), form=tarfile.USTAR_FORMAT),
    "tar of GNU": lambda marker: tarred(raw(marker), form=tarfile.GNU_FORMAT),
    "tar.tar.gz": lambda marker: tarred(raw(marker), "w:gz"), "tar.tgz": lambda marker: tarred(raw(marker), "w:gz"),
    "tar.tar.xz": lambda marker: tarred(raw(marker), "w:xz"), "tar in zip": lambda marker: zipped(tarred(raw(marker))),
    "objects.npy": array, "objects.dat": array, "objects.npz": lambda marker: array(marker, archive=True),
    "objects, packed.npz": lambda marker: gzip.compress(array(marker)),
    "behind another pickle.p": lambda marker: pickle.dumps(1) + raw(marker),
    "behind four pickles": lambda marker: pickle.dumps(1) * 4 + raw(marker),
    "then garbage": lambda marker: raw(marker)[:-1] + b"\xff\xff", "then nothing.p": lambda marker: raw(marker)[:-1],
    "protocol 0, then garbage.txt": lambda marker: raw(marker, 0)[:-1] + b"\xff",
}  # fmt: skip
"""File names, and what they hold."""


def python(marker) -> str:
    return f"open({str(marker)!r}, 'w')"


def memo(marker) -> bytes:
    """Names by way of the memo, put there in another order, and one put over another."""
    return (
        b"\x80\x02" + text("harmless") + b"q\x05" + text("system") + b"q\x07" + text("posix") + b"q\x05"
        b"00h\x05h\x07\x93" + text(touch(marker)) + b"\x85R."
    )


def computed(marker) -> bytes:
    """A name that only running the pickle gives: str(b'posix', 'ascii')."""
    return (
        b"\x80\x04"
        + text("builtins")
        + text("str")
        + b"\x93(C\x05posix"
        + text("ascii")
        + b"tR"
        + text("system")
        + b"\x93"
        + text(touch(marker))
        + b"\x85R."
    )


TRICKS = {
    "INST": lambda m: b"(V" + touch(m).encode() + b"\niposix\nsystem\n.",
    "OBJ": lambda m: b"(cposix\nsystem\n" + text(touch(m)) + b"o.",
    "NEWOBJ of a class": lambda m: b"\x80\x02csubprocess\nPopen\n" + text(f"touch {m}") + b"\x85\x81.",
    "GLOBAL": lambda m: b"cposix\nsystem\n(V" + touch(m).encode() + b"\ntR.",
    "Python 2's name": lambda m: b"\x80\x02c__builtin__\neval\n(" + text(python(m)) + b"tR.",
    "STACK_GLOBAL": lambda m: call("posix", "system", touch(m)),
    "STACK_GLOBAL without a protocol": lambda m: call("posix", "system", touch(m), protocol=b""),
    "a hexadecimal number before": lambda m: b"I0x10\n0" + call("posix", "system", touch(m), protocol=b""),
    "bytes of no ASCII before": lambda m: b"U\x01\xff0" + call("posix", "system", touch(m), protocol=b""),
    "a long text before": lambda m: b"\x80\x04" + text("x" * 9000) + b"0" + call("posix", "system", touch(m)),
    "memo": memo, "computed": computed,
    "a function of a function": lambda m: b"\x80\x04" + text("builtins") + text("getattr") + b"\x93" + text("builtins")
    + text("len") + b"\x93" + text("__self__") + b"\x86R" + b"q\0" + text("builtins") + text("getattr") + b"\x93h\0"
    + text("eval") + b"\x86R" + text(python(m)) + b"\x85R.",
    "dotted": lambda m: call("builtins", "len.__self__.exec", python(m)),
    "dotted, eval": lambda m: call("builtins", "len.__self__.eval", python(m)),
    "exec": lambda m: call("builtins", "exec", python(m)), "eval": lambda m: call("builtins", "eval", python(m)),
    "os.popen": lambda m: call("os", "popen", touch(m)), "runpy": lambda m: call("runpy", "_run_code", python(m)),
    "getoutput": lambda m: call("subprocess", "getoutput", touch(m)),
    "check_output of bash": lambda m: call("subprocess", "check_output", touch(m)),
    "timeit": lambda m: call("timeit", "timeit", python(m)), "cProfile": lambda m: call("cProfile", "run", python(m)),
    "distutils.spawn": lambda m: pickle.dumps(Calls(__import__("distutils.spawn").spawn.spawn, ["touch", str(m)])),
    "multiprocessing.util.spawnv_passfds": lambda m: b"\x80\x04" + text("multiprocessing.util")
    + text("spawnv_passfds") + b"\x93C\x0a/bin/touch]" .replace(b"]", b"") + b"](C\x05touchC" + bytes([len(str(m))])
    + str(m).encode() + b"e)\x87R.",
    "setuptools._distutils.spawn": lambda m: call("setuptools._distutils.spawn", "spawn", touch(m)),
    "numpy.distutils": lambda m: call("numpy.distutils.exec_command", "exec_command", touch(m)),
    "numpy.testing": lambda m: call("numpy.testing._private.utils", "runstring", python(m)),
    "mlflow.utils": lambda m: call("mlflow.utils.process", "_exec_cmd", touch(m)),
    "cloudpickle.loads": lambda m: call("cloudpickle", "loads", raw(m)),
    "pickle.loads": lambda m: call("_pickle", "loads", raw(m)),
    "joblib.load": lambda m: call("joblib", "load", str(m.with_name("second"))),
    "pandas.read_pickle": lambda m: call("pandas", "read_pickle", str(m.with_name("second"))),
    "numpy.load": lambda m: call("numpy", "load", str(m.with_name("second"))),
    "yaml.unsafe_load": lambda m: call("yaml", "unsafe_load", f"!!python/object/apply:os.system ['{touch(m)}']"),
    "torch.storage": lambda m: call("torch.storage", "_load_from_bytes", raw(m)),
    "pip": lambda _: call("pip", "main", "--version"), "ctypes": lambda m: call("ctypes", "CDLL", str(m)),
    "importlib": lambda _: call("importlib", "import_module", "antigravity"),
    "a function by value": lambda m: cloudpickle.dumps(lambda: m.write_text("")),
    "a numpy function by its names": lambda _: call("numpy._core", "_ufunc_reconstruct", "os", "system"),
    "a text that scipy runs": lambda m: b"\x80\x02cscipy.stats._continuous_distns\nnorm_gen\n)\x81}"
    + text("_parse_arg_template") + text(python(m)) + b"sb.",
    "a formula": lambda m: b"\x80\x02cstatsmodels.base.data\nPandasData\n)\x81}(" + text("restore_model_spec") + b"\x88"
    + text("formula") + text(f"y ~ {python(m)}") + text("frame") + b"}ub.",
    "a formula, by a computed key": lambda _: b"\x80\x04cstatsmodels.base.data\nPandasData\n)\x81}(cbuiltins\nstr\n("
    b"C\x12restore_model_spec" + text("ascii") + b"tR\x88ub.",
    "a class that is changed": lambda _: b"\x80\x02ccollections\nOrderedDict\n}" + text("x") + b"K\x01sb.",
    "an extension": lambda _: b"\x80\x02\x82\x01.",
    "a type of Python's own": lambda _: call("cloudpickle.cloudpickle", "_builtin_type", "CodeType"),
}  # fmt: skip
"""What a pickle does, and the pickle."""


def refused(folder) -> str:
    with pytest.raises(UnsafeArtifactError) as caught:
        scan_artifact(folder, "block")
    return str(caught.value)


def test_there_are_more_than_a_hundred():
    assert len(WRAPPED) + len(TRICKS) > 100


@pytest.mark.parametrize("name", WRAPPED)
def test_a_marker_in_any_wrapping_is_refused(tmp_path, marker, name):
    (tmp_path / name).write_bytes(WRAPPED[name](marker))
    said = refused(tmp_path)
    assert name in said
    assert "posix.system" in said or "not known what it runs" in said or "frame" in said
    assert not marker.exists(), "the scan itself ran it"


@pytest.mark.filterwarnings("ignore:The distutils package is deprecated")
@pytest.mark.parametrize("trick", TRICKS)
def test_a_marker_by_any_name_is_refused(tmp_path, marker, trick):
    (tmp_path / "x.sav").write_bytes(TRICKS[trick](marker))
    refused(tmp_path)
    assert not marker.exists(), "the scan itself ran it"


RUNS = (
    "INST", "OBJ", "GLOBAL", "Python 2's name", "STACK_GLOBAL", "STACK_GLOBAL without a protocol", "memo", "computed",
    "a hexadecimal number before", "a long text before", "dotted", "eval", "getoutput", "cProfile",
    "distutils.spawn", "a function of a function", "cloudpickle.loads", "yaml.unsafe_load",
    "multiprocessing.util.spawnv_passfds", "a text that scipy runs",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:The distutils package is deprecated")
@pytest.mark.parametrize("trick", RUNS)
def test_what_is_refused_does_run_where_it_is_loaded(tmp_path, trick):
    """So the markers are no straw men."""
    mark, file = tmp_path / "ran", tmp_path / "x.sav"
    file.write_bytes(TRICKS[trick](mark))
    load = f"import pickle, time; pickle.load(open({str(file)!r}, 'rb'))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", load], capture_output=True, check=False)
    assert mark.exists()


@pytest.mark.parametrize("name", ["two zlib streams.joblib", "two gzip members.gz"])
def test_streams_one_after_another_are_one(tmp_path, marker, name):
    (tmp_path / "x").write_bytes(WRAPPED[name](marker))
    assert "posix.system" in refused(tmp_path)


def test_an_array_within_a_frame_cannot_be_followed(marker):
    content = framed_twice(marker)
    assert "has an array within a frame" in read_pickle(io.BytesIO(content), len(content), joblib=True).odd


def test_a_part_of_a_name_that_is_allowed_is_not(tmp_path):
    (tmp_path / "x.p").write_bytes(call("collections", "OrderedDict.fromkeys", "a"))
    assert "runs collections.OrderedDict.fromkeys" in refused(tmp_path)


def test_what_is_no_pickle_passes(tmp_path):
    for name, content in {
        "conda.yaml": "channels:\n- conda-forge\n", "labels.txt": "cat\ndog\nbird\n", "ids.csv": "Id,price\n1,2\n",
        "notes.txt": "good\nplain\n", "x.json": json.dumps([1, {"a": "b"}]), "empty.txt": "", "x.md": "(x)\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 1000)
    np.save(tmp_path / "floats.npy", np.arange(1000.0))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert scan_artifact(tmp_path, "block") == []


def bytes_read() -> int:
    """What this process has read until now, of files and pipes."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_a_large_file_is_read_until_its_bytes_can_be_no_pickle(tmp_path):
    for name, head in {
        "x.safetensors": b"\x40" + b"\0" * 7 + b'{"a":',
        "x.gguf": b"GGUF\3\0\0\0",
        "x.bin": b"",
    }.items():
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.truncate(5 * 2**30)
    before = bytes_read()
    assert scan_artifact(tmp_path, "block") == []
    assert bytes_read() - before < 2**26


def test_what_unpacks_to_too_much_is_refused_without_unpacking_it(tmp_path, monkeypatch):
    monkeypatch.setattr("images.wrappings.FREELY", 2**20)
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(2**26)))
    assert "unpacks to more than" in refused(tmp_path)


def test_wrappings_in_wrappings_end(tmp_path):
    content = b"text"
    for _ in range(9):
        content = gzip.compress(content)
    (tmp_path / "x").write_bytes(content)
    assert "packed more than 6 times" in refused(tmp_path)


def test_the_refusal_says_what_would_allow_it(tmp_path):
    (tmp_path / "x.p").write_bytes(call("my_package", "Class"))
    (tmp_path / "y.p").write_bytes(b"\x80\x04N")
    said = refused(tmp_path)
    assert "x.p runs my_package.Class" in said
    assert "image.allow: [file:y.p, my_package.Class]" in said
    assert scan_artifact(tmp_path, "block", allow=("my_package.Class", "file:y.p")) == []
    with pytest.raises(UnsafeArtifactError, match=r"x\.p"):
        scan_artifact(tmp_path, "block", allow=("my_package.Other", "file:y.p"))


def test_skops_trusts_only_what_is_allowed(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {skops_trusted_types: [os.system, numpy.dtype]}}")
    assert "skops trust os.system" in refused(tmp_path)
    assert scan_artifact(tmp_path, "block", allow=("os.system",)) == []


def test_the_authors_program_can_be_refused(tmp_path):
    (tmp_path / "python_model.pkl").write_bytes(cloudpickle.dumps(lambda: 1))
    (tmp_path / "code").mkdir()
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {python_model: python_model.pkl, code: code}}")
    assert len(scan_artifact(tmp_path, "block")) == 2
    with pytest.raises(UnsafeArtifactError, match=r"image\.code is refused"):
        scan_artifact(tmp_path, "block", code="refused")
    assert all("refused" in one for one in scan_artifact(tmp_path, "warn", code="refused"))
