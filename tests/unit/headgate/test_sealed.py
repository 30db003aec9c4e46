from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import sealed
from headgate.errors import BadInputError
from headgate.records import Image, ModelVersion, Revision
from headgate.release_file import parse_release
from headgate.spec import ReleaseSpec
from registry.release_run import _flatten

ENV = {"GREETING": "planted-value", "EMPTY": "", "ODD": "ä\n\ud800"}
FILE = "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\nruntime: {env: {GREETING: planted-value}}\n"
VERSION = ModelVersion(name="wine", version=1, digest="sha256:aa")
IMAGE = Image(digest="sha256:aa", lock_digest="sha256:l", path="/b", interpreter="/e/bin/python", size=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A HEADGATE_HOME with a key of its own."""
    monkeypatch.delenv(sealed.VARIABLE)
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def revision(env: dict[str, str], **more) -> Revision:
    return Revision.of(VERSION, IMAGE, env=env, workers=1, ready_timeout=60.0, **more)


def test_a_value_is_sealed_and_comes_back():
    closed = sealed.seal(ENV)
    assert closed.keys() == ENV.keys()
    assert not any("planted" in text for text in closed.values())
    assert sealed.unseal(closed) == ENV
    assert sealed.seal(closed) == closed, "what is sealed is not sealed again"


@given(st.dictionaries(st.text("ABC", min_size=1), st.text(max_size=100), max_size=3))
def test_any_value_comes_back(env):
    assert sealed.unseal(sealed.seal(env)) == env


def test_the_text_changes_with_the_value_and_the_name_and_with_nothing_else():
    text = sealed.seal({"A": "one"})["A"]
    assert sealed.seal({"A": "one"})["A"] == text
    others = {sealed.seal({"A": "two"})["A"], sealed.seal({"B": "one"})["B"]}
    assert len({text, *others}) == 3
    assert len({sealed.shown(one) for one in (text, *others)}) == 3
    assert len(sealed.seal({"A": "x" * 5})["A"]) == len(sealed.seal({"A": "x" * 25})["A"]), "lengths are not told"


def test_a_value_that_was_moved_to_another_name_stays_sealed():
    assert sealed.is_sealed(sealed.unseal({"B": sealed.seal({"A": "one"})["A"]})["B"])


def test_what_capture_says_is_read_by_targets_and_stays_open():
    assert sealed.seal({"HEADGATE_LOG_KEEP": "1048576"}) == {"HEADGATE_LOG_KEEP": "1048576"}


def test_the_key_is_made_once_for_its_owner_alone(home):
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: sealed.seal({"A": "one"})["A"], range(32)))
    assert len(texts) == 1
    assert [path.name for path in home.iterdir()] == ["sealing.key"]
    assert stat.S_IMODE((home / "sealing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_reading_makes_no_key(home):
    closed = {"A": f"{sealed.PREFIX}abcd"}
    assert sealed.unseal(closed) == closed
    assert not home.exists()


def test_another_key_opens_nothing_and_says_so_where_the_value_is_needed(home, monkeypatch):
    written = parse_release(FILE).model_dump(mode="json")
    monkeypatch.setenv(sealed.VARIABLE, sealed.new_key())
    spec = ReleaseSpec.model_validate(written)
    assert spec.model_dump(mode="json") == written, "what is not opened is kept as it is"
    with pytest.raises(BadInputError, match=r"release x needs the values of runtime\.env GREETING") as raised:
        sealed.require_unsealed(spec.runtime.env, "release x")
    assert "HEADGATE_SEALING_KEY" in raised.value.fix
    sealed.require_unsealed({"A": "open"}, "release x")


@pytest.mark.parametrize("key", ["short", "c2hvcnQ=", "ä"])
def test_what_is_no_key_is_named_and_not_repeated(monkeypatch, key):
    monkeypatch.setenv(sealed.VARIABLE, key)
    with pytest.raises(BadInputError, match="HEADGATE_SEALING_KEY is no sealing key: it takes 64 bytes") as raised:
        sealed.seal({"A": "one"})
    assert key not in str(raised.value)


def test_a_release_file_is_written_down_without_values_and_read_with_them():
    spec = parse_release(FILE)
    for written in (spec.model_dump(mode="json"), spec.model_dump(), json.loads(spec.model_dump_json())):
        assert "planted-value" not in str(written)
        assert ReleaseSpec.model_validate(written) == spec
    # As an earlier version wrote it.
    plain = {**spec.model_dump(mode="json"), "runtime": {"env": {"GREETING": "planted-value"}}}
    assert ReleaseSpec.model_validate(plain) == spec


def test_a_revision_is_written_down_without_values_and_read_with_them():
    made = revision({"GREETING": "planted-value"}, secrets={"TOKEN": "env:TOKEN"})
    written = made.model_dump(mode="json")
    assert "planted-value" not in json.dumps(written)
    assert Revision.model_validate(written) == made
    assert Revision.model_validate(written).env == {"GREETING": "planted-value"}


def test_a_revisions_name_tells_nothing_of_its_values(monkeypatch):
    one, other = revision({"PIN": "1234"}), revision({"PIN": "1235"})
    assert one.name != other.name
    assert revision({"PIN": "1234"}).name == one.name
    monkeypatch.setenv(sealed.VARIABLE, sealed.new_key())
    assert revision({"PIN": "1234"}).name != one.name, "who has no key cannot try a value"


def test_revisions_without_values_keep_the_names_that_they_had():
    assert revision({}).name == "v1-17b04c3b"
    assert revision({"HEADGATE_LOG_SAMPLE": "0.5"}).name == "v1-af5a554e"
    assert revision({}, secrets={"A": "env:A"}).name not in {
        revision({}).name,
        revision({}, secrets={"A": "env:B"}).name,
    }


def test_mlflow_is_told_that_a_value_changed_and_not_the_value():
    def told(value: str) -> str:
        return _flatten(parse_release(FILE.replace("planted-value", value)).model_dump(mode="json"))[
            "runtime.env.GREETING"
        ]

    assert told("one") == told("one") != told("two")
    assert told("one").startswith("hash:")
    assert len(told("one")) == len("hash:") + 12
