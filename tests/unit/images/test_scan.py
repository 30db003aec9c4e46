from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import zipfile
import zlib

import cloudpickle
import joblib
import numpy as np
import pytest

from headgate.errors import ArtifactError, UnsafeArtifactError
from headgate.records import Image
from images import bill_of_materials, scan_artifact


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


HARMFUL = pickle.dumps(Harmful())


def zipped(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


@pytest.mark.parametrize("write", [
    lambda folder: (folder / "model.pkl").write_bytes(HARMFUL),
    lambda folder: (folder / "model.joblib").write_bytes(zlib.compress(HARMFUL)),
    lambda folder: (folder / "model.joblib").write_bytes(gzip.compress(HARMFUL)),
    lambda folder: zipped(folder / "model.pt", HARMFUL),
    lambda folder: ((folder / "deep").mkdir(), (folder / "deep" / "x.PICKLE").write_bytes(HARMFUL)),
])  # fmt: skip
def test_a_file_that_runs_a_command_when_it_is_loaded_is_refused_and_named(tmp_path, write):
    write(tmp_path)
    with pytest.raises(UnsafeArtifactError, match=r"runs (posix|nt|os)\.system when it is loaded"):
        scan_artifact(tmp_path, "block")
    assert "system" in scan_artifact(tmp_path, "warn")[0]
    assert scan_artifact(tmp_path, "off") == []


@pytest.mark.parametrize("flavour", ["wine", "proba"])
def test_ordinary_models_pass(models, flavour):
    assert scan_artifact(models(flavour), "block") == []


def test_a_custom_model_passes_with_a_note_of_its_code(models):
    program, modules = scan_artifact(models("pyfunc", does="double"), "block")
    assert program.startswith("python_model.pkl carries code of its own")
    assert modules.startswith("code/ has modules of the model's own")


def test_code_is_let_through_only_where_mlflow_puts_it(tmp_path):
    by_value = cloudpickle.dumps(lambda x: x)
    (tmp_path / "python_model.pkl").write_bytes(by_value)
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {python_model: python_model.pkl}}")
    (note,) = scan_artifact(tmp_path, "block")
    assert "carries code of its own" in note
    (tmp_path / "model.pkl").write_bytes(by_value)
    with pytest.raises(UnsafeArtifactError, match=r"artifact: model\.pkl runs cloudpickle"):
        scan_artifact(tmp_path, "block")
    (tmp_path / "MLmodel").write_text(
        "flavors: {sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}}"
    )
    (tmp_path / "python_model.pkl").write_bytes(HARMFUL)
    with pytest.raises(UnsafeArtifactError, match=r"artifact: python_model\.pkl runs \w+\.system"):
        scan_artifact(tmp_path, "block")


def test_code_in_another_file_than_the_declared_one_is_refused(tmp_path):
    (tmp_path / "MLmodel").write_text(
        "flavors: {sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}}"
    )
    (tmp_path / "model.pkl").write_bytes(cloudpickle.dumps(lambda x: x))
    assert len(scan_artifact(tmp_path, "block")) == 1
    (tmp_path / "other.pkl").write_bytes(cloudpickle.dumps(lambda x: x))
    with pytest.raises(UnsafeArtifactError, match=r"artifact: other\.pkl runs cloudpickle"):
        scan_artifact(tmp_path, "block")


@pytest.mark.parametrize("text", ["", "- a", "flavors: 3", "flavors: {a: b}", "{", "flavors: {sklearn: }"])
def test_an_mlmodel_that_cannot_be_read_lets_nothing_through(tmp_path, text):
    (tmp_path / "MLmodel").write_text(text)
    (tmp_path / "model.pkl").write_bytes(cloudpickle.dumps(lambda x: x))
    with pytest.raises(UnsafeArtifactError):
        scan_artifact(tmp_path, "block")


def test_what_cannot_be_read_to_its_end_is_refused(tmp_path):
    joblib.dump({"weights": np.zeros(1000)}, tmp_path / "model.joblib")
    assert scan_artifact(tmp_path, "block") == []
    (tmp_path / "model.joblib").write_bytes((tmp_path / "model.joblib").read_bytes()[:-1])
    with pytest.raises(UnsafeArtifactError, match="not known what it runs"):
        scan_artifact(tmp_path, "block")
    assert "not known what it runs" in scan_artifact(tmp_path, "warn")[0]


@pytest.mark.parametrize("policy", ["block", "off"])
def test_an_empty_file_is_refused(tmp_path, policy):
    (tmp_path / "model.pkl").touch()
    with pytest.raises(ArtifactError, match=r"model\.pkl is empty \(0 bytes\)"):
        scan_artifact(tmp_path, policy)


def test_the_bill_of_materials_has_every_package_of_the_lock(tmp_path):
    hashes = "a" * 64, "b" * 64
    (tmp_path / "requirements.lock").write_text(
        f"numpy==2.4.0 ; python_version >= '3.11' \\\n    --hash=sha256:{hashes[0]} \\\n    --hash=sha256:{hashes[1]}\n"
        f"scikit_learn==1.8.0 \\\n    --hash=sha256:{hashes[0]}\n"
    )
    image = Image(digest=f"sha256:{'c' * 64}", lock_digest="", path=tmp_path, interpreter=None, size=1)
    bom = json.loads(bill_of_materials(image, "wine", 3))
    assert bom["specVersion"] == "1.6"
    assert bom["metadata"]["component"]["hashes"][0]["content"] == "c" * 64
    found = {part["purl"]: [entry["content"] for entry in part["hashes"]] for part in bom["components"]}
    assert found == {"pkg:pypi/numpy@2.4.0": list(hashes), "pkg:pypi/scikit-learn@1.8.0": [hashes[0]]}


def named(module: str, name: str) -> bytes:
    """A pickle that calls a name."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(tR."


@pytest.fixture
def own(tmp_path):
    """A model with modules of its own in code/."""
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {code: code}, sklearn: {pickled_model: model.pkl}}")
    (tmp_path / "code" / "lib").mkdir(parents=True)
    (tmp_path / "code" / "train.py").write_text("import os\nclass Scaler: pass\ndef made(): pass\n")
    (tmp_path / "code" / "lib" / "__init__.py").write_text("def plain(): pass\n")
    (tmp_path / "code" / "lib" / "steps.py").write_text("class Step: pass\n")
    (tmp_path / "code" / "os.py").write_text("def system(): pass\n")
    (tmp_path / "code" / "sklearn.py").write_text("class Strange: pass\n")
    (tmp_path / "code" / "broken.py").write_text("class Scaler(:\n")
    return tmp_path


@pytest.mark.parametrize("name", ["train.Scaler", "train.made", "lib.plain", "lib.steps.Step"])
def test_what_the_models_own_modules_define_is_its_authors_program(own, name):
    module, _, last = name.rpartition(".")
    (own / "model.pkl").write_bytes(named(module, last))
    (note,) = scan_artifact(own, "block")
    assert note == "code/ has modules of the model's own, which its code loads, as MLmodel says"
    with pytest.raises(UnsafeArtifactError, match=r"image\.code is refused"):
        scan_artifact(own, "block", code="refused")


@pytest.mark.parametrize(("module", "name"), [
    ("train", "os"), ("train", "os.system"), ("train", "Scaler.__init__"), ("train", "Other"), ("os", "system"),
    ("sklearn", "Strange"), ("broken", "Scaler"), ("lib.steps", "plain"), ("elsewhere", "Scaler"),
])  # fmt: skip
def test_what_they_do_not_define_is_refused(own, module, name):
    (own / "model.pkl").write_bytes(named(module, name))
    with pytest.raises(UnsafeArtifactError, match=re.escape(f"runs {module}.{name}")):
        scan_artifact(own, "block")


def test_skops_may_trust_a_class_of_the_models_own(own):
    text = "flavors: {{python_function: {{code: code}}, sklearn: {{skops_trusted_types: [{name}]}}}}"
    (own / "MLmodel").write_text(text.format(name="train.Scaler"))
    assert len(scan_artifact(own, "block")) == 1
    (own / "MLmodel").write_text(text.format(name="elsewhere.Scaler"))
    with pytest.raises(UnsafeArtifactError, match=r"skops trust elsewhere\.Scaler"):
        scan_artifact(own, "block")


def test_code_outside_the_model_defines_nothing(own):
    (own / "inside").mkdir()
    (own / "inside" / "MLmodel").write_text("flavors: {python_function: {code: ../code}}")
    (own / "inside" / "model.pkl").write_bytes(named("train", "Scaler"))
    with pytest.raises(UnsafeArtifactError, match=r"runs train\.Scaler"):
        scan_artifact(own / "inside", "block")
