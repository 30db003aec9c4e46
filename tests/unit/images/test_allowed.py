from __future__ import annotations

import warnings
from importlib.util import find_spec

import joblib
import pytest
from support.flavours import ESTIMATORS, FLAVOURS, KINDS, WINE

from images import scan_artifact
from images.allowed import Allowed

HERE = [name for name, (package, _) in FLAVOURS.items() if find_spec(package) is not None]
"""The others are tried where their packages are installed too."""


@pytest.mark.parametrize("name", HERE)
def test_what_mlflow_writes_needs_no_entry(tmp_path, name):
    _, save = FLAVOURS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(tmp_path / "model")
    assert scan_artifact(tmp_path / "model", "block") == []


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("lzma", 3)])
@pytest.mark.parametrize("name", ["forest", "neighbours", "pipeline"])
def test_what_joblib_writes_is_read_to_its_end(tmp_path, name, compress):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joblib.dump(ESTIMATORS[name].fit(WINE, KINDS), tmp_path / "model.joblib", compress=compress)
    assert scan_artifact(tmp_path, "block") == []


@pytest.mark.parametrize("name", [
    "os.system", "builtins.exec", "builtins.eval", "builtins.open", "subprocess.Popen", "numpy.load", "numpy.memmap",
    "joblib.numpy_pickle.load", "functools.partial", "operator.methodcaller", "torch.storage._load_from_bytes",
    "numpy._core._ufunc_reconstruct", "pandas.read_pickle", "types.FunctionType", "types.CodeType", "torch.load",
    "scipy.stats._continuous_distns.norm_gen", "cloudpickle.cloudpickle._make_function",
])  # fmt: skip
def test_what_runs_code_is_not_on_the_list(name):
    assert not Allowed.with_entries(()).has_joined(name)


def test_the_list_has_only_names_that_are_there():
    """So that nobody publishes a package under a name that is allowed, as far as it is installed here."""
    import importlib

    allowed = Allowed.with_entries(())
    roots = {module.partition(".")[0] for module, _ in allowed.names}
    assert {"sklearn", "numpy", "pandas", "scipy", "builtins", "lightgbm"} <= roots
    for module, name in sorted(allowed.names):
        if module.startswith(("sklearn.linear_model._r", "sklearn.tree", "builtins", "collections")):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_a_formula_is_code_unless_it_is_plain():
    import re

    harmless = Allowed.with_entries(()).guarded["statsmodels.base.data"]["harmless"]
    for plain in ("y ~ x", "y ~ C(kind) + np.log(size):age - 1", "y ~ a*b", 'y ~ Q("total sales")'):
        assert re.fullmatch(harmless, plain), plain
    for code in ("y ~ __import__('os').system('x')", "y ~ open(x)", "y ~ x.tofile('y')", "y ~ {x}", "y ~ eval(Q('x'))"):
        assert not re.fullmatch(harmless, code), code
