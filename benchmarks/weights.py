"""Releasing 2 GB of weights again: to a registry and to this machine's Docker, beside `docker build` and MLflow's.

All parts are on this machine and on loopback. Needs Docker, docker-registry and a base image; MLflow's base gets its
requirements beforehand, so that nothing is downloaded while the clock runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import uv
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.base_image import find_base
from support.models import Models
from support.oci_registry import registry

from headgate.home import Home
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = int(os.environ.get("HEADGATE_BENCH_BYTES", "2000000000"))
MIB = 2**20
DOCKERFILE = "FROM {runtime}\nCOPY --chown=65532:65532 model /opt/headgate/model\n"
MLFLOW_BASE = """FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip python-is-python3 nginx
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY site /usr/local/lib/python3.11/dist-packages
"""


def main() -> None:
    """Print every table."""
    base, why_not = find_base()
    if base is None:
        print(why_not)
        return
    with tempfile.TemporaryDirectory() as folder, registry(Path(folder) / "registry") as host:
        measure(Path(folder), base, host)


def measure(folder: Path, base: str, host: str) -> None:
    """All of it, in one run."""
    home = Home(folder / "home").ensure()
    model = Models(folder / "models")("pyfunc", does="double")
    first = build(home, model, ImageSettings(base=base))
    runtime = runtime_image(folder, first.reference)
    mlflow_image(folder, home, base, model)
    weights_only(folder, home, model, base, host, runtime)
    for name in (first.reference, runtime, "bench-mlflow", "bench-mlflow-base"):
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)


def weights_only(folder: Path, home: Home, model: Path, base: str, host: str, runtime: str) -> None:
    """The second table."""
    # Everything but the weights is everywhere by now.
    build(home, model, ImageSettings(base=base, repository=f"{host}/ours"))
    docker("tag", runtime, f"{host}/docker:runtime")
    docker("push", "-q", f"{host}/docker:runtime")
    docker("tag", "bench-mlflow", f"{host}/mlflow:v0")
    docker("push", "-q", f"{host}/mlflow:v0")
    weights = model / "artifacts" / "weights.bin"
    weights.parent.mkdir(exist_ok=True)

    print(f"\n{SIZE / 1e9:g} GB of new weights, everything else unchanged")
    new_weights(weights)
    hashing = clock(lambda: sha256(weights))
    uploading = clock(lambda: plain_upload(host, weights))
    floor = hashing + uploading
    row("one sha256 pass", hashing, floor)
    row("one upload over loopback", uploading, floor)
    new_weights(weights)
    ours, memory = measured_push(folder, model, base, f"{host}/ours")
    row(f"headgate, to the registry ({memory / 1e6:.0f} MB of memory)", ours, floor)
    again, _ = measured_push(folder, model, base, f"{host}/ours")
    row("headgate, the same once more", again, floor)
    loaded: list[str] = []
    local = clock(lambda: loaded.append(build(home, model, ImageSettings(base=base)).reference))
    row("headgate, to Docker", local, floor)
    new_weights(weights)
    building = clock(lambda: docker_build(folder, runtime, model, f"{host}/docker:v1"))
    pushing = clock(lambda: docker("push", "-q", f"{host}/docker:v1"))
    row("docker build", building, floor)
    row("docker build + docker push", building + pushing, floor)
    new_weights(weights)
    theirs = clock(lambda: (mlflow_build(model), docker("tag", "bench-mlflow", f"{host}/mlflow:v1"),
                            docker("push", "-q", f"{host}/mlflow:v1")))  # fmt: skip
    row("mlflow models build-docker + docker push", theirs, floor)
    print(
        f"\nto a registry: {(building + pushing) / ours:.1f} x as fast as docker build + push, "
        f"{theirs / ours:.1f} x as fast as MLflow + push; {ours / floor:.2f} x one sha256 pass and one upload\n"
        f"to Docker: {building / local:.2f} x as fast as docker build"
    )
    names = ("docker:v1", "docker:runtime", "mlflow:v0", "mlflow:v1")
    for name in (*loaded, *(f"{host}/{name}" for name in names)):
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)


def row(name: str, seconds: float, floor: float) -> None:
    """One line."""
    print(f"  {name:52}{seconds:8.2f} s{seconds / floor:8.2f} x", flush=True)


def clock(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def build(home: Home, model: Path, settings: ImageSettings):  # noqa: ANN201
    """Our image."""
    return build_container(home, fetch_artifact(str(model), home.root), "bench", settings)


PUSH = """
import json, sys, time
from pathlib import Path
from headgate.home import Home
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact

root, model, base, repository = sys.argv[1:]
began = time.perf_counter()
settings = ImageSettings(base=base, repository=repository)
build_container(Home(Path(root)), fetch_artifact(model, Path(root)), "bench", settings)
seconds = time.perf_counter() - began
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([seconds, int(peak.split()[1]) * 1024]))
"""
"""Our push in a process of its own: seconds without Python's start, and the most memory that it had."""


def measured_push(folder: Path, model: Path, base: str, repository: str) -> tuple[float, int]:
    """Seconds and bytes."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PUSH, str(folder / "home"), str(model), base, repository],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def new_weights(path: Path) -> None:
    """Random bytes, in the page cache as they are after training."""
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))
    os.sync()
    sha256(path)


def sha256(path: Path) -> str:
    """One pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_upload(host: str, path: Path) -> None:
    """The same bytes in one request, with a digest that is known."""
    with httpx.Client(base_url=f"http://{host}/v2/plain/", timeout=600) as client, path.open("rb") as file:
        location = client.post("blobs/uploads/").headers["location"]
        sent = client.patch(location, content=iter(lambda: file.read(MIB), b""), headers={
            "content-type": "application/octet-stream", "content-length": str(path.stat().st_size),
        })  # fmt: skip
        assert sent.status_code == 202, sent.text


def docker(*arguments: str) -> str:
    """The command line of Docker."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def runtime_image(folder: Path, reference: str) -> str:
    """An image with everything but a model, as a team would keep one."""
    context = folder / "runtime"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {reference}\n")
    docker("build", "-q", "-t", "bench-runtime", str(context))
    return "bench-runtime"


def docker_build(folder: Path, runtime: str, model: Path, tag: str) -> None:
    """What a careful person would write by hand."""
    context = folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE.format(runtime=runtime))
    # Links cost nothing; the context is still sent.
    shutil.copytree(model, context / "model", copy_function=os.link)
    docker("build", "-q", "-t", tag, str(context))


def mlflow_image(folder: Path, home: Home, base: str, model: Path) -> None:
    """MLflow's image of the same model, and its base with every package that it installs."""
    context = folder / "mlflow"
    context.mkdir()
    (context / "Dockerfile").write_text(MLFLOW_BASE.format(base=base))
    layer = next(home.layers.glob("runtime-*/layer.tar.gz"))
    with tarfile.open(layer) as archive:
        archive.extractall(context / "unpacked", filter="tar")
    (context / "unpacked/opt/headgate/lib/python3.11/site-packages").rename(context / "site")
    # What its build would download.
    tools = yaml.safe_load((model / "python_env.yaml").read_text())["build_dependencies"]
    subprocess.run(
        [uv.find_uv_bin(), "pip", "install", "-q", "--target", str(context / "site"), "--python-version", "3.11",
         "gunicorn[gevent]", *tools], check=True,
    )  # fmt: skip
    docker("build", "-q", "-t", "bench-mlflow-base", str(context))
    mlflow_build(model)


def mlflow_build(model: Path, base: str = "bench-mlflow-base") -> None:
    """MLflow's own way, in a process of its own as it prints a lot."""
    code = (
        "import mlflow.models, sys; mlflow.models.build_docker(sys.argv[1], 'bench-mlflow', env_manager='local', "
        "base_image=sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(model), base], capture_output=True, text=True, check=False,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    main()
