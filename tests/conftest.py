"""What all tests share: a clean environment, models logged with plain MLflow, and real servers."""

from __future__ import annotations

import base64
import os
import random
import secrets
import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import websockets.asyncio.connection as websockets_connection
import websockets.client as websockets_client
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "support"))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from support import clocks, light, rings, shared, watched_logs
from support import models as model_makers
from support.base_image import find_base
from support.journals import journal, postgres, url  # noqa: F401 - fixtures
from support.stack import Stack, start_gateway, start_stack
from support.suite import scope_of, shuffle

from headgate import sealed
from headgate.limits import SETTLE
from images.bundle import SERVER_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.home import Home

# Prefect's client pings its server from a thread of this process. Hypothesis takes each use of the global generator of
# random numbers for one by its example.
for websockets in (websockets_client, websockets_connection):
    websockets.random = random.Random()
# A busy machine is no fault of the example.
hypothesis.settings.register_profile("headgate", deadline=None)
hypothesis.settings.load_profile("headgate")

OURS = ("HEADGATE_", "MLFLOW_", "OTEL_", "PREFECT_")
KEPT = {"MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED", sealed.VARIABLE, SERVER_CODE}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which tests run; see tests/support/rings.py."""
    parser.addoption("--ring", action="store_true", help="the tests of the ring, which make test runs")
    parser.addoption("--share", metavar="K/N", help="of the tests outside the ring, the K-th of N parts")
    parser.addoption("--changed", metavar="REV", help="the unit tests that what changed since REV may concern")
    parser.addoption("--seed", help="the seed of the tests' order; a new one each time by default")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name what the machine lacks, and the seed of the order, before the first test runs."""
    lacks = [f"not installed, and tests of it are skipped: {part}" for part in rings.missing_parts()]
    return [*lacks, f"order of the tests: --seed {config.getoption('seed')}"]


class Order:
    """Shuffles before pytest brings together the tests that use the same value of a dear fixture."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        shuffle(items, config.getoption("seed"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the command does not run, once folders have left out what they never run."""
    rings.choose(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how long each group took, and what was not run."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[rings.group_of(report.nodeid)] += report.duration
    worked = ", ".join(f"{group} {taken:.0f} s" for group, taken in sorted(seconds.items()))
    terminalreporter.write_line(f"work by group, over all processes: {worked}")
    if config.getoption("ring"):
        for line in rings.over_budget(seconds):
            terminalreporter.write_line(f"over budget: {line}", yellow=True)
        terminalreporter.write_line("not run: the tests outside the ring; make test-all runs them")


def pytest_configure(config: pytest.Config) -> None:
    """Temporary folders have short names: a Unix socket's path has at most 107 bytes, and stacks have one each."""
    config.addinivalue_line("markers", f"{rings.MARK}: of the ring, which make test runs")
    config.addinivalue_line(
        "markers", f"{watched_logs.MARKER}(*patterns): what the test makes its servers log as an error"
    )
    config.addinivalue_line("markers", f"{light.MARKER}: models are served by the server itself; see support/light.py")
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = Path(tempfile.mkdtemp(prefix="hg-"))
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
    # Without it a test that writes a release file down would make a key in the developer's own HEADGATE_HOME.
    os.environ[sealed.VARIABLE] = base64.urlsafe_b64encode(bytes(range(64))).decode()
    # A process of pytest-xdist has the seed of the one that started it.
    given = getattr(config, "workerinput", {}).get("seed")
    config.option.seed = config.option.seed or given or secrets.token_hex(4)
    config.pluginmanager.register(Order())
    shared.begin(config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Choose the server before any fixture packages a model."""
    is_light = item.nodeid.startswith(light.FOLDERS) and item.get_closest_marker(light.MARKER) is None
    light.use(light.code(shared.folder(item.config, "light")) if is_light else None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Have the processes of pytest-xdist share what is dear, and the order of the tests."""
    node.workerinput["seed"] = node.config.option.seed
    shared.tell(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, some stay in one of them; see support/suite.py.

    pytest-xdist's own groups are without effect from pytest 9.2 on.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid, one_stack=config.getoption("ring"))

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Servers' logs are read once all that a test has set up has ended: this is set up first."""
    markers = request.node.iter_markers(watched_logs.MARKER)
    watched_logs.expect(pattern for marker in markers for pattern in marker.args)
    yield
    watched_logs.check()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the developer has set."""
    for name in list(os.environ):
        if name.startswith(OURS) and name not in KEPT:
            monkeypatch.delenv(name)
    # Doubles of clouds show all series of a minute together, and as soon as there is something in it.
    monkeypatch.setenv(SETTLE, "0")


@pytest.fixture
def waitless() -> Iterator[clocks.Waitless]:
    """A clock on which no wait of this process takes any time."""
    with clocks.using(clocks.Waitless()) as made:
        yield made


@pytest.fixture
def ahead() -> Iterator[clocks.Ahead]:
    """A clock that the test may put forward, with real waits."""
    with clocks.using(clocks.Ahead()) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> model_makers.Models:
    """Folders of small models, each made when it is first asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_makers.Models(shared.folder(pytestconfig, "models"))


@pytest.fixture(scope="session")
def docker_base() -> str:
    """An image with this Python that this machine's Docker has; without a daemon there is nothing to test."""
    base, why_not = find_base()
    if base is None:
        pytest.skip(why_not)
    return base


@pytest.fixture(scope="session")
def layers_cache(pytestconfig: pytest.Config) -> Callable[[Home], Home]:
    """Lets homes share the layers of packages, each of which takes most of a minute."""
    layers = shared.folder(pytestconfig, "layers")

    def share(home: Home) -> Home:
        with FileLock(layers / ".shared.lock"):
            if not home.layers.is_symlink():
                home.layers.rmdir()
                home.layers.symlink_to(layers)
        return home

    return share


@pytest.fixture(scope="session")
def gateway_home(
    tmp_path_factory: pytest.TempPathFactory, layers_cache: Callable[[Home], Home]
) -> Iterator[Path]:  # fmt: skip
    """A HEADGATE_HOME with supervisord and Envoy only: all that the local and the Docker target need."""
    root = tmp_path_factory.mktemp("gateway")
    with start_gateway(root) as home:
        layers_cache(home)
        yield root


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Stack]:
    """The whole local stack, started by `headgate up`; in the ring all processes have the same one."""
    if pytestconfig.getoption("ring"):
        yield shared.stack(pytestconfig)
        return
    with start_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
