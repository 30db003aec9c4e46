"""A first image of a small scikit-learn model: ours, MLflow's and BentoML's; everything is downloaded.

All stand on the same base, which has what the other two need to begin with: pip, and this machine's certificates. Ours
is made with an empty cache of uv. BentoML is installed in an environment of its own; its Dockerfile is built as it
writes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.base_image import find_base
from support.models import Models, pinned
from weights import build, clock, docker, mlflow_build

from headgate.home import Home
from headgate.spec import ImageSettings

if TYPE_CHECKING:
    from collections.abc import Callable

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = """FROM {base}
RUN apt-get update
RUN apt-get install -y --no-install-recommends python3-pip python3-venv python-is-python3 ca-certificates
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""
SERVICE = """
import bentoml
import numpy as np

@bentoml.service
class Wine:
    model = bentoml.models.BentoModel("wine:latest")

    def __init__(self):
        self.loaded = bentoml.sklearn.load_model(self.model)

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.loaded.predict(rows)
"""
SAVE = """
import bentoml, sys
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*load_wine(return_X_y=True))
bentoml.sklearn.save_model("wine", model)
"""


def main() -> None:
    """Print the table."""
    base, why_not = find_base()
    if base is None:
        print(why_not)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = folder / "base"
        context.mkdir()
        (context / "Dockerfile").write_text(BASE.format(base=base))
        shutil.copy(CERTIFICATES, context)
        docker("build", "-q", "-t", "bench-base", str(context))
        model = Models(folder / "models")("wine")
        print(f"{'a first image of a scikit-learn model':40}{'seconds':>10}{'MB in Docker':>14}")
        row("headgate", "bench-ours", lambda: ours(folder, model))
        row("mlflow models build-docker", "bench-mlflow", lambda: mlflow_build(model, "bench-base"))
        bento = bento_of(folder)
        row("BentoML's Dockerfile", "bench-bento", lambda: docker(
            "build", "-q", "-t", "bench-bento", "-f", str(bento / "env/docker/Dockerfile"), str(bento)))  # fmt: skip
        subprocess.run(["docker", "rmi", "-f", "bench-base"], capture_output=True, check=False)


def row(name: str, image: str, work: Callable[[], object]) -> None:
    """One line."""
    seconds = clock(work)
    size = int(docker("image", "inspect", "-f", "{{.Size}}", image))
    print(f"{name:40}{seconds:10.0f}{size / 1e6:14.0f}", flush=True)
    subprocess.run(["docker", "rmi", "-f", image], capture_output=True, check=False)


def ours(folder: Path, model: Path) -> None:
    """With nothing in any cache."""
    os.environ["UV_CACHE_DIR"] = str(folder / "uv")
    image = build(Home(folder / f"home-{time.time_ns()}").ensure(), model, ImageSettings(base="bench-base"))
    docker("tag", image.reference, "bench-ours")


def bento_of(folder: Path) -> Path:
    """A bento of the same kind of model, ready to be built; not timed."""
    work, python = folder / "bento", folder / "bentoml" / "bin" / "python"
    work.mkdir()
    packages = ["bentoml", "uv", *pinned("scikit-learn", "pandas")]
    (work / "service.py").write_text(SERVICE)
    (work / "bentofile.yaml").write_text(
        "service: 'service:Wine'\ninclude: [service.py]\nmodels: ['wine:latest']\n"
        f"python: {{packages: {pinned('scikit-learn', 'pandas')}}}\ndocker: {{base_image: bench-base}}\n"
    )
    env = {
        **os.environ, "BENTOML_HOME": str(work / "home"), "BENTOML_DO_NOT_TRACK": "1",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    for command in (
        [uv.find_uv_bin(), "venv", "-q", str(python.parent.parent)],
        [uv.find_uv_bin(), "pip", "install", "-q", "--python", str(python), *packages],
        [str(python), "-W", "ignore", "-c", SAVE],
        [str(python.parent / "bentoml"), "build"],
    ):
        subprocess.run(command, cwd=work, env=env, check=True, capture_output=True)
    return next((work / "home" / "bentos" / "wine").glob("*/bento.yaml")).parent


if __name__ == "__main__":
    main()
