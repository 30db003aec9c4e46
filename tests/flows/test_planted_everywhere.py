"""A secret of each kind, wherever a user can put one: none is in anything that is written, but where it has to be.

A stack of its own is started in an environment full of secrets. Models are released on it from this process, by its
worker, and to Docker, are rolled back and monitored; then every file, database, log, page, image layer, and answer of
Prefect's and MLflow's APIs is searched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import mlflow
import pandas as pd
import pytest
from conftest import WIDE, open_world
from support.stack import HEADGATE, http, start_stack, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import World

# Two versions of one model whose variables differ answer differently, which is no harm here.
SHIFT = "gates: {shadow: off}\nstrategy: {steps: [50%], min_requests: 40, min_duration: 1s, max_duration: 3m}\n" + WIDE
SERVER = "what the target starts the server with"


def marker(name: str) -> str:
    """What is searched for: no part of any other, and nothing that would be escaped in JSON, YAML, HTML or SQL."""
    return f"planted{hashlib.sha256(name.encode()).hexdigest()[:20]}"


class Place(NamedTuple):
    """Where a secret is planted, and why it may be found in the files of `allowed` (patterns, below HEADGATE_HOME)."""

    name: str
    variable: str = ""
    value: str = "{}"
    allowed: tuple[str, ...] = ()
    why: str = ""

    @property
    def text(self) -> str:
        return self.value.format(marker(self.name))


ENVIRONMENT = (
    Place("AWS secret key", "AWS_SECRET_ACCESS_KEY"),
    Place("AWS session token", "AWS_SESSION_TOKEN"),
    Place("Azure client secret", "AZURE_CLIENT_SECRET"),
    Place("Azure storage key", "AZURE_STORAGE_KEY"),
    Place("Google credentials", "GOOGLE_APPLICATION_CREDENTIALS_JSON"),
    Place("kubeconfig", "KUBECONFIG_TOKEN"),
    Place("registry login", "DOCKER_AUTH_CONFIG", '{{"auths": {{"registry.example": {{"auth": "{}"}}}}}}'),
    Place("proxy", "HTTPS_PROXY", "http://ann:{}@127.0.0.1:9"),
    Place("proxy in small letters", "https_proxy", "http://ann:{}@127.0.0.1:9"),
    Place("index password", "UV_INDEX_PRIVATE_PASSWORD"),
    Place("TLS key's password", "SSL_KEY_PASSWORD"),
    Place("git token", "GITHUB_TOKEN"),
    Place("Hugging Face token", "HF_TOKEN"),
    Place("OpenAI key", "OPENAI_API_KEY"),
    Place("chat address", "OPS_CHAT", "json://bot:{}@127.0.0.1:9/room"),
    Place("label database", "LABELS_DB", "postgresql+psycopg://reader:{}@127.0.0.1:9/labels"),
    Place("trace collector's header", "OTEL_EXPORTER_OTLP_HEADERS", "authorization={}"),
    Place("MLflow user", "MLFLOW_TRACKING_USERNAME"),
    Place("MLflow password", "MLFLOW_TRACKING_PASSWORD"),
    Place("Prefect password", "PREFECT_API_AUTH_STRING", "admin:{}"),
    Place("secret of a variable", "TOKEN_SOURCE"),
)
FILES = (
    Place("secret of a file"),
    Place("secret of a block"),
    Place("netrc password"),
    Place("TLS key"),
)
RELEASE_FILE = (
    Place("runtime.env, first version", allowed=("supervisor/programs/{endpoint}--*.json",), why=SERVER),
    Place("runtime.env, second version", allowed=("supervisor/programs/{endpoint}--*.json",), why=SERVER),
    Place("runtime.env by the worker", allowed=("supervisor/programs/{endpoint}--*.json",), why=SERVER),
)
REFUSED = {
    "artifact": "artifact: s3://ann:{}@bucket/model",
    "capture.store": "capture: {{store: 's3://ann:{}@bucket/x'}}",
    "target.captures": "target: {{kind: kubernetes, captures: 's3://ann:{}@bucket/x'}}",
    "target.metrics": "target: {{kind: kubernetes, captures: 's3://b/x', metrics: [{{url: 'http://ann:{}@h'}}]}}",
    "notify": "notify: ['slack://{}@channel']",
    "a token in runtime.env": "runtime: {{env: {{A: 'ghp_{}aaaaaaaaaaaaaaaaaaaa'}}}}",
    "a password in runtime.env": "runtime: {{env: {{A: 'postgresql://ann:{}@db'}}}}",
    "a value in runtime.secrets": "runtime: {{secrets: {{A: '{}'}}}}",
    "image.repository": "image: {{repository: 'ann:{}@registry.example/wine'}}",
    "rollback.on": "rollback: {{on: ['https://ann:{}@h']}}",
}
"""What a release file is refused for; neither is it written, nor repeated in the message."""
IN_MODELS = {
    "requirements.txt": "--extra-index-url https://ann:{}@index.example/simple\n",
    "MLmodel": "\nmetadata: {{store: 's3://ann:{}@bucket/x'}}\n",
}
"""What a model is refused for, with what is added to its file."""
PLACES = (*ENVIRONMENT, *FILES, *RELEASE_FILE, *(Place(name) for name in (*REFUSED, *IN_MODELS)))


def tells() -> mlflow.pyfunc.PythonModel:
    """A model that answers with hashes of its variables: the values would be in the prediction log."""

    class Tells(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            import hashlib
            import json
            import os

            names = ("FROM_ENV", "FROM_FILE", "FROM_BLOCK", "GREETING", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY")
            told = {name: hashlib.sha256(os.environ.get(name, "").encode()).hexdigest() for name in names}
            return [json.dumps(told)] * len(model_input)

    return Tells()


def told_by(world: World) -> dict[str, str]:
    """What the live server has, as hashes."""
    answer = http.post(world.state.url, json={"dataframe_records": [{"x": 1.0}]})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["predictions"][0])


@contextmanager
def clients(world: World) -> Iterator[None]:
    """Some requests at a time, for as long as a release shifts."""
    url, is_over = world.state.url, threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not is_over.wait(0.02):
                client.post(url, json={"dataframe_records": [{"x": 1.0}]})

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def planted_home(tmp_path_factory) -> Path:
    """A user's own folder, with files that hold secrets."""
    home = tmp_path_factory.mktemp("user")
    (home / "token").write_text(marker("secret of a file") + "\n")
    (home / ".netrc").write_text(f"machine index.example login ann password {marker('netrc password')}\n")
    (home / "key.pem").write_text(f"{marker('TLS key')}\n")
    for path in home.iterdir():
        path.chmod(0o600)
    return home


@pytest.fixture(scope="module")
def planted_env(planted_home) -> dict[str, str]:
    found = {place.variable: place.text for place in ENVIRONMENT}
    # Nothing here is asked by a proxy.
    return {**found, "NO_PROXY": "*", "no_proxy": "*", "NETRC": str(planted_home / ".netrc")}


@pytest.fixture(scope="module")
def planted_stack(tmp_path_factory, planted_env, layers_cache):
    """A stack that was started by a shell full of secrets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in planted_env.items():
            patch.setenv(name, value)
        with start_stack(tmp_path_factory.mktemp("planted")) as running:
            layers_cache(running.home)
            yield running


@pytest.fixture
def world(planted_stack, planted_env, monkeypatch):
    for name, value in planted_env.items():
        monkeypatch.setenv(name, value)
    with open_world(planted_stack, monkeypatch) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    example = pd.DataFrame({"x": [1.0]})
    signature = mlflow.models.infer_signature(example, ["text"])
    mlflow.pyfunc.save_model(folder, python_model=tells(), signature=signature, input_example=example)
    return folder


def runtime(greeting: str) -> str:
    """The entry of a release file with secrets of all forms that this machine takes."""
    where = {"ENV": "env:TOKEN_SOURCE", "FILE": "file:FOLDER/token", "BLOCK": "block:secret/planted"}
    references = {f"FROM_{name}": reference for name, reference in where.items()}
    return f"runtime: {json.dumps({'env': {'GREETING': greeting}, 'secrets': references})}\n"


def everything(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder with its path from there, and every cell of its SQLite databases and layer."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(root))
        yield name, path.read_bytes()
        if path.suffix == ".db":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                    rows = database.execute(f'select * from "{table}"').fetchall()  # noqa: S608 - its own tables
                    yield f"{name}/{table}", repr(rows).encode()


def api_answers(world: World) -> Iterator[tuple[str, bytes]]:
    """What Prefect and MLflow tell of everything."""
    prefect, tracking = world.stack.env["PREFECT_API_URL"], world.stack.ports.mlflow_url
    for kind in ("flow_runs", "task_runs", "flows", "deployments", "artifacts", "automations", "logs", "variables",
                 "block_documents", "work_pools", "events", "concurrency_limits"):  # fmt: skip
        method = "post"
        answer = getattr(http, method)(f"{prefect}/{kind}/filter", json={})
        assert answer.status_code == 200, (kind, answer.text)
        yield f"prefect/{kind}", answer.content
    experiments = http.post(f"{tracking}/api/2.0/mlflow/experiments/search", json={"max_results": 100})
    yield "mlflow/experiments", experiments.content
    ids = [one["experiment_id"] for one in experiments.json()["experiments"]]
    runs = http.post(f"{tracking}/api/2.0/mlflow/runs/search", json={"experiment_ids": ids, "max_results": 500})
    assert runs.json()["runs"]
    yield "mlflow/runs", runs.content
    for what in ("registered-models", "model-versions"):
        yield f"mlflow/{what}", http.get(f"{tracking}/api/2.0/mlflow/{what}/search").content


def command(world: World, *arguments: str, code: int | None = 0) -> str:
    """Run the command line in the environment full of secrets; gives all that it printed."""
    environment = {**os.environ, "HEADGATE_HOME": str(world.stack.root)}
    done = subprocess.run([HEADGATE, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert code in {done.returncode, None}, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def block(world: World) -> None:
    from prefect.blocks.system import Secret

    Secret(value=marker("secret of a block")).save("planted", overwrite=True)


def found_in(places: tuple[Place, ...], texts: Iterator[tuple[str, bytes]], endpoint: str) -> list[tuple[str, str]]:
    """Which secrets were found where they may not be; neither base64 nor UTF-16 hides one."""
    found = set()
    wanted = [(place, form) for place in places for form in _forms(marker(place.name))]
    # All begin alike, and most files have nothing of the kind.
    begin = _forms("planted")
    for name, content in texts:
        if any(form in content for form in begin):
            found |= {(place, name) for place, form in wanted if form in content}
    return sorted(
        (place.name, name) for place, name in found
        if not any(Path(name).match(one.format(endpoint=endpoint)) for one in place.allowed)
    )  # fmt: skip


def _forms(text: str) -> list[bytes]:
    """The text as it is, and within something that is base64, where it begins at any of three places of a group."""
    encoded = [base64.b64encode(b"x" * shift + text.encode())[4 : len(text) // 3 * 4] for shift in range(3)]
    return [text.encode(), text.encode("utf-16-le"), *encoded]


@pytest.fixture
def lived(world, model, planted_home, tmp_path):
    """An endpoint that all was done to; gives the world and all that was printed."""
    block(world)
    printed = ""
    file = tmp_path / "release.yaml"

    def write(greeting: str) -> None:
        text = world.text(model, SHIFT + runtime(marker(greeting)) + 'notify: ["env:OPS_CHAT"]\n')
        file.write_text(text.replace("FOLDER", str(planted_home)))

    write("runtime.env, first version")
    for arguments in (["validate"], ["validate", "--json"], ["plan"], ["plan", "--json"], ["release", "--json"]):
        printed += command(world, arguments[0], str(file), *arguments[1:])
    first = told_by(world)
    write("runtime.env, second version")
    with clients(world):
        printed += command(world, "release", str(file), "--json")
    second = told_by(world)
    # The one before is gone, so going back makes it anew, from what was written down of it.
    (name,) = [name for name in world.state.revisions if name != world.state.traffic.holder]
    world.target.retire(world.endpoint, name)
    printed += command(world, "rollback", world.endpoint, "--reason", "to see what it has", "--json")
    again = told_by(world)
    # By the worker, which reads the parameters of a flow run.
    write("runtime.env by the worker")
    with clients(world):
        printed += command(world, "release", str(file), "--watch", "--json")
    by_worker = told_by(world)
    printed += refused(world, model, tmp_path)
    of_it = (
        ["history", world.endpoint],
        ["history", world.endpoint, "--json"],
        ["export", world.endpoint, "-o", str(tmp_path / "history.jsonl")],
    )
    for arguments in of_it:
        printed += command(world, *arguments)
    # They find releases that failed, and what this machine lacks.
    for arguments in (["status"], ["status", "--json"], ["doctor"]):
        printed += command(world, *arguments, code=None)
    return world, {"first": first, "second": second, "again": again, "by_worker": by_worker}, printed


def refused(world: World, model: Path, tmp_path: Path) -> str:
    """Try to release what has a secret where none may be; gives all that was printed."""
    printed, file = "", tmp_path / "refused.yaml"
    for name, entry in REFUSED.items():
        added = entry.format(marker(name))
        replaced = added.partition(":")[0]
        kept = [line for line in world.text(model, "").splitlines() if line.partition(":")[0] != replaced]
        file.write_text("\n".join([*kept, added, ""]))
        printed += command(world, "release", str(file), code=2)
    for name, added in IN_MODELS.items():
        copy = shutil.copytree(model, tmp_path / f"with-{name}")
        with (copy / name).open("a") as opened:
            opened.write(added.format(marker(name)))
        file.write_text(world.text(copy, SHIFT))
        said = command(world, "release", str(file), "--json", code=1) + command(world, "plan", str(file), code=2)
        assert said.count(f"the model's {name} has an address with a password") >= 2
        printed += said
    return printed


@pytest.mark.expects_errors("OPS_CHAT")
def test_no_secret_is_in_anything_that_is_written(lived):
    world, told, printed = lived
    values = {place.name: place.text for place in PLACES}
    for answers in told.values():
        assert answers["FROM_ENV"] == hashed(values["secret of a variable"])
        assert answers["FROM_FILE"] == hashed(values["secret of a file"])
        assert answers["FROM_BLOCK"] == hashed(values["secret of a block"])
        assert answers["HTTPS_PROXY"] == answers["AWS_SECRET_ACCESS_KEY"] == hashed(""), "the stack's own stay with it"
    greetings = [answers["GREETING"] for answers in told.values()]
    assert greetings == [
        hashed(marker(f"runtime.env{which}"))
        for which in (", first version", ", second version", ", first version", " by the worker")
    ]
    assert len({marker(place.name) for place in PLACES}) >= 30

    # What Prefect is told of, it has a moment later.
    rows = world.journal.read(world.endpoint)
    last = rows[-1].release_id.encode()
    wait_for(lambda: last in b"".join(content for _, content in everything(world.stack.home.prefect)))
    found = found_in(PLACES, everything(world.stack.root), world.endpoint)
    found += found_in(PLACES, api_answers(world), world.endpoint)
    found += found_in(PLACES, iter([("what was printed", printed.encode())]), world.endpoint)
    assert found == []

    # A search that finds nothing proves nothing until it has found something.
    strict = tuple(place._replace(allowed=()) for place in RELEASE_FILE)
    assert found_in(strict, everything(world.stack.home.supervisor), world.endpoint)


@pytest.fixture
def docker_world(planted_stack, planted_env, docker_base, layers_cache, monkeypatch):
    for name, value in {**planted_env, "HEADGATE_BASE_IMAGE": docker_base}.items():
        monkeypatch.setenv(name, value)
    # The client of Docker takes a login of the environment for a file's.
    monkeypatch.delenv("DOCKER_AUTH_CONFIG")
    with open_world(planted_stack, monkeypatch, "docker") as opened:
        yield opened


def image_of(world: World) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer of the image that is live, and its configuration."""
    container = world.target._find(world.endpoint, world.state.traffic.holder)
    folder = world.stack.root / "image.tar"
    with folder.open("wb") as file:
        file.writelines(container.image.save())
    with tarfile.open(folder) as saved:
        for member in saved.getmembers():
            if (part := saved.extractfile(member)) is None:
                continue
            content = part.read()
            content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            yield f"image/{member.name}", content
    folder.unlink()
    yield "image/configuration", json.dumps(container.image.attrs).encode()
    yield "container/logs", container.logs()


def test_no_secret_is_in_an_image_or_in_what_docker_shows(docker_world, model, planted_home):
    world = docker_world
    block(world)
    text = runtime(marker("runtime.env, first version")).replace("FOLDER", str(planted_home))
    assert world.release(model, SHIFT + text).outcome == "promoted"
    told, values = told_by(world), {place.name: place.text for place in PLACES}
    assert told["FROM_ENV"] == hashed(values["secret of a variable"])
    assert told["FROM_FILE"] == hashed(values["secret of a file"])
    assert told["FROM_BLOCK"] == hashed(values["secret of a block"])
    assert told["GREETING"] == hashed(values["runtime.env, first version"])
    assert found_in(PLACES, image_of(world), world.endpoint) == []
    assert found_in(PLACES, everything(world.stack.root), world.endpoint) == []
    container = world.target._find(world.endpoint, world.state.traffic.holder)
    shown = iter([("inspect", json.dumps(container.attrs).encode())])
    # A container's own environment is shown by Docker; that is why secrets are not in it.
    assert found_in(PLACES, shown, world.endpoint) == [("runtime.env, first version", "inspect")]


def test_the_search_finds_what_is_in_a_database_and_what_is_encoded(tmp_path):
    secret = marker("secret of a file")
    with sqlite3.connect(tmp_path / "one.db") as database:
        database.execute("create table t (a, b)")
        database.execute("insert into t values (1, ?)", (secret,))
    (tmp_path / "two").write_bytes(base64.b64encode(b"y" + secret.encode() + b"z"))
    names = {name for _, name in found_in(FILES, everything(tmp_path), "x")}
    assert {"one.db/t", "two"} <= names
