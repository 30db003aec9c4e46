"""The ways to say which release file a run means."""

from __future__ import annotations

import pytest

from headgate.errors import BadInputError, SpecError
from headgate.release_file import load_release, parse_release
from registry.journal import open_journal
from registry.watches import watch
from tasks.watched import endpoint_of, resolve

TEXT = "model: Red Wine\nartifact: /srv/model\ntarget: {kind: local}\n"
ONE_LINE = "{model: Red Wine, artifact: /srv/model, target: {kind: local}}"


@pytest.fixture
def file(tmp_path):
    written = tmp_path / "release.yaml"
    written.write_text(TEXT.replace("/srv/", ""))
    return written


def test_a_path_is_read_with_what_is_beside_it(file):
    assert resolve(str(file)) == resolve(f" {file}\n") == load_release(file)
    assert resolve(str(file)).artifact == str(file.parent / "model")
    assert resolve(str(file), "models:/wine/3").artifact == "models:/wine/3"


def test_a_file_whose_name_reads_as_a_mapping_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model: wine").write_text(TEXT)
    assert resolve("model: wine") == parse_release(TEXT)


@pytest.mark.parametrize("text", [TEXT, f"\n# pasted\n{TEXT}", TEXT.replace("\n", "\r\n"), ONE_LINE])
def test_the_text_of_a_release_file_is_one(text):
    assert resolve(text) == parse_release(TEXT)
    assert resolve(text, "models:/wine/3").artifact == "models:/wine/3"


def test_a_watched_endpoints_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    journal = f"sqlite:///{tmp_path}/journal.db"
    monkeypatch.setenv("HEADGATE_JOURNAL_URL", journal)
    spec = parse_release(TEXT)
    with open_journal(journal) as opened:
        watch(opened, spec, "ann")
    assert resolve("watched:red-wine") == resolve("watched: red-wine \n") == spec
    with pytest.raises(BadInputError, match="white-wine is not watched"):
        resolve("watched:white-wine")


def test_a_mistake_in_a_text_is_told_with_its_line():
    with pytest.raises(SpecError, match="the text of the release file has 1 problem") as told:
        resolve(f"\n{TEXT}stratgy: 1\n")
    assert [(one.line, one.field) for one in told.value.problems] == [(5, "stratgy")]
    with pytest.raises(SpecError, match="the text of the release file holds no entries"):
        resolve("two lines\nof nothing")
    with pytest.raises(SpecError, match="the text of the release file is not YAML"):
        resolve("model: [\nartifact: x")


def test_a_text_has_no_folder_for_relative_paths():
    more = "gates: {smoke: {examples: examples.json}}\nmonitor: {reference: reference.parquet}\n"
    with pytest.raises(BadInputError) as told:
        resolve(TEXT.replace("/srv/", "") + more)
    expected = "artifact: model, gates.smoke.examples: examples.json, monitor.reference: reference.parquet"
    assert told.value.message.endswith(expected)
    assert "full paths" in told.value.fix
    # What is not used need not be complete.
    assert resolve(TEXT.replace("/srv/", ""), "models:/wine/3").artifact == "models:/wine/3"


@pytest.mark.parametrize("named", ["/srv/nothing.yaml", "nothing", "", " ", "- a", "@x", "7", "x" * 5000])
def test_what_is_none_of_these_is_refused_with_what_there_is(named):
    with pytest.raises(BadInputError) as told:
        resolve(named)
    said = told.value.message
    assert "is not a file on this worker, not watched:NAME, and not a release file's text" in said
    assert repr(named.strip()[:100])[1:-1] in said
    assert len(said) < 250
    assert "full path" in told.value.fix


def test_a_run_says_which_endpoint_it_is_about(file):
    spec = parse_release(TEXT)
    for given in (spec, spec.model_dump(mode="json"), TEXT, ONE_LINE, "watched:red-wine"):
        assert endpoint_of(given) == "red-wine"
    assert endpoint_of(str(file)) == str(file)
    assert endpoint_of("model: wine\nstratgy: 1\n") == ""


@pytest.mark.parametrize("artifact", ["s3://ann:planted@bucket/x", "ftp://host/model"])
def test_another_artifact_is_held_to_what_the_files_own_is(artifact):
    with pytest.raises(BadInputError, match="artifact: ") as raised:
        resolve(TEXT, artifact)
    assert "planted" not in str(raised.value)
