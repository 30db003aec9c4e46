"""`headgate scan`, for CI: what a release would refuse, without a release file and without a stack."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from unittest import mock

import pytest
from click.testing import CliRunner
from docker.errors import ImageNotFound

from headgate.cli.scan import scan
from headgate.errors import ArtifactError, BadInputError, UnsafeArtifactError
from headgate.home import Home
from headgate.stack import Ports


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def harmful(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x.sav").write_bytes(pickle.dumps(Harmful()))
    return folder


def asked(*arguments):
    return CliRunner().invoke(scan, [str(one) for one in arguments])


def test_a_good_model_passes(models):
    answer = asked(models("wine"))
    assert answer.exit_code == 0
    assert "nothing runs when it is loaded that is not known" in answer.stdout


def test_a_bad_one_does_not(harmful):
    answer = asked(harmful)
    assert isinstance(answer.exception, UnsafeArtifactError)
    assert asked(harmful, "--allow", "posix.system").exit_code == 0
    told = asked(harmful, "--json")
    assert told.exit_code == UnsafeArtifactError.exit_code != 0
    assert "x.sav runs posix.system" in json.loads(told.stdout)["problem"]


def test_the_authors_code_is_told_or_refused(models):
    folder = models("pyfunc", does="double")
    told = json.loads(asked(folder, "--json").stdout)
    assert told["passes"]
    assert "carries code of its own" in told["notes"][0]
    assert isinstance(asked(folder, "--refuse-code").exception, UnsafeArtifactError)


class Docker:
    """A daemon with one image."""

    def __init__(self, model) -> None:
        self.model, self.removed = model, False
        self.client = self.containers = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def create(self, name, **options):
        if name != "ours:1":
            raise ImageNotFound(name)
        return self

    def get_archive(self, path):
        assert path == "/opt/headgate/model"
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(self.model, "model")
        return iter([file.getvalue()]), {}

    def remove(self):
        self.removed = True


def test_an_image_is_looked_into_and_never_run(harmful, monkeypatch):
    daemon = Docker(harmful)
    monkeypatch.setattr("images.unpack.Daemon", lambda: daemon)
    answer = asked("ours:1")
    assert isinstance(answer.exception, UnsafeArtifactError)
    assert "x.sav" in str(answer.exception)
    assert daemon.removed
    assert isinstance(asked("other:1").exception, ArtifactError)


def test_a_model_in_mlflow_is_not_looked_for_where_no_server_is_known(tmp_path, monkeypatch):
    with mock.patch.dict(os.environ, {"HEADGATE_HOME": str(tmp_path / "home")}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        monkeypatch.chdir(tmp_path)
        answer = asked("runs:/1/model")
        assert isinstance(answer.exception, BadInputError)
        assert answer.exception.fix == "headgate up, or set MLFLOW_TRACKING_URI"
        assert list(tmp_path.iterdir()) == []


def test_a_model_in_the_stacks_mlflow_is_looked_for_there(tmp_path):
    with mock.patch.dict(os.environ, {"HEADGATE_HOME": str(tmp_path), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        ports = Ports.choose(Home(tmp_path).ensure())
        answer = asked("runs:/1/model")
        assert isinstance(answer.exception, ArtifactError)
        assert f"cannot be fetched from {ports.mlflow_url}" in answer.exception.message
