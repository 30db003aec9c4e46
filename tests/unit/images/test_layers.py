from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import ArtifactError
from images import layers
from images.bundle import model_files
from images.layers import Content, Layer, split_large


def archive(layer: Layer) -> bytes:
    return b"".join(layer.read())


def test_an_archive_is_what_tar_reads():
    layer = Layer({"opt/headgate/model/a.bin": Content(b"x" * 1000), f"opt/{'long/' * 60}b": Content(b"", 0o755)})
    with tarfile.open(fileobj=io.BytesIO(archive(layer))) as opened:
        members = {member.name: member for member in opened}
    assert members["opt/headgate/model/a.bin"].size == 1000
    assert members["opt/headgate/model"].isdir()
    assert members[f"opt/{'long/' * 60}b"].mode == 0o755
    assert {(member.mtime, member.uid, member.gid) for member in members.values()} == {(0, 0, 0)}


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5), st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_it_is_read_from_any_offset_and_knows_its_length(contents, start):
    layer = Layer({f"f{number}": Content(content) for number, content in enumerate(contents)})
    whole = archive(layer)
    assert len(whole) == layer.size
    assert b"".join(layer.read(start)) == whole[start:]


def test_times_owners_and_order_make_no_difference(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("a", "b") if name == "one" else ("b", "a"):
            (folder / file).write_text(file)
        os.utime(folder / "a", (1, len(name) * 1000))
    first, second = (split_large(model_files(tmp_path / name), "opt/model") for name in ("one", "two"))
    assert [layer.digest for layer in first] == [layer.digest for layer in second]


def test_the_same_files_are_the_same_bytes_in_every_version_of_this_code():
    layer = Layer({"opt/b": Content(b"two", 0o755), "opt/a": Content(b"one")})
    assert layer.digest == "sha256:6393d745518a4c87eb78aa728b6cf59acb1a28b949fe6a165557fd054d8da171"


def test_large_files_are_layers_of_their_own_so_that_a_changed_tokenizer_leaves_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "LARGE_BYTES", 1000)
    (tmp_path / "small.bin").write_bytes(b"s" * 1500)
    (tmp_path / "weights.bin").write_bytes(b"w" * 9000)
    (tmp_path / "tokenizer.json").write_text("old")
    before = split_large(model_files(tmp_path), "m")
    assert [sorted(layer.files) for layer in before] == [["m/weights.bin"], ["m/small.bin"], ["m/tokenizer.json"]]
    digests = [layer.digest for layer in before]
    (tmp_path / "tokenizer.json").write_text("new")
    after = split_large(model_files(tmp_path), "m")
    assert [layer.digest in digests for layer in after] == [True, True, False]


def test_there_are_never_more_layers_than_a_file_system_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "LARGE_BYTES", 1)
    for number in range(200):
        (tmp_path / f"shard-{number}").write_bytes(b"x" * (number + 1))
    made = split_large(model_files(tmp_path), "m")
    assert len(made) == layers.MOST_LARGE + 1
    assert sum(len(layer.files) for layer in made) == 200


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 5000)
    layer = Layer({"weights": Content(file)})
    assert layer.size > 5000
    file.write_bytes(b"x")
    with pytest.raises(ArtifactError, match="became shorter"):
        archive(layer)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "nowhere", "folder"])
def test_a_link_that_is_no_file_of_the_model_is_refused(tmp_path, target):
    (tmp_path / "outside").write_text("secret")
    model = tmp_path / "model"
    (model / "folder").mkdir(parents=True)
    (model / "link").symlink_to(target)
    with pytest.raises(ArtifactError, match=f"link is a link to {target}"):
        model_files(model)


def test_a_link_within_the_model_is_followed(tmp_path):
    (tmp_path / "real").write_text("content")
    (tmp_path / "link").symlink_to("real")
    (layer,) = split_large(model_files(tmp_path), "m")
    with tarfile.open(fileobj=io.BytesIO(archive(layer))) as opened:
        assert opened.extractfile("m/link").read() == b"content"
