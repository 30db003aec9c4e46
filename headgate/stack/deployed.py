"""The flows of prefect.yaml on the Prefect server: deployed by Prefect itself, once for each state of the code."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from typing import TYPE_CHECKING

import yaml

from headgate.errors import HeadgateError
from headgate.home import write_atomically
from headgate.safe_path import ROOT, clean, python

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.home import Home


def prefect_file() -> Path:
    """prefect.yaml: in a checkout beside the packages, in an installation among the flows."""
    beside = ROOT / "prefect.yaml"
    return beside if beside.exists() else ROOT / "flows" / "prefect.yaml"


def is_deployed(home: Home, server: str) -> bool:
    """Whether this server has the flows as they are now, as far as this machine remembers."""
    remembered = _remembered(home)
    return remembered.exists() and remembered.read_text(encoding="utf-8") == _fingerprint(server)


def deploy_all(server: str, pool: str | None = None) -> None:
    """Deploy what prefect.yaml describes.

    Args:
        server: the server's address; whatever this process's environment says.
        pool: the work pool, with nothing else of prefect.yaml's; default: prefect.yaml's own.

    Raises:
        HeadgateError: Prefect refuses.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as elsewhere:
        file = str(prefect_file())
        if pool is not None:
            described = yaml.safe_load(prefect_file().read_text(encoding="utf-8"))
            for deployment in described["deployments"]:
                deployment["work_pool"] = {"name": pool}
            yaml.safe_dump(described, elsewhere)
            elsewhere.flush()
            file = elsewhere.name
        _prefect("the flows cannot be deployed", server, "deploy", "--all", "--prefect-file", file)


def make_pool(server: str, name: str, kind: str, template: Path | None) -> None:
    """Make a work pool.

    Args:
        server: the server's address.
        name: the pool's; there is none of that name.
        kind: what its workers start, such as process or kubernetes.
        template: its base job template, as JSON; default: Prefect's own.

    Raises:
        HeadgateError: Prefect refuses.
    """
    told = ["--base-job-template", str(template)] if template else []
    _prefect("the work pool cannot be made", server, "work-pool", "create", name, "--type", kind, *told)


def _prefect(otherwise: str, server: str, *arguments: str) -> None:
    """Run Prefect's own command line, where it looks for the flows."""
    command = python("prefect", "--no-prompt", *arguments)
    environment = {**clean(), "PREFECT_API_URL": f"{server}/api"}
    folder = prefect_file().parent
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if ran.returncode != 0:
        raise HeadgateError(f"{otherwise}: {(ran.stderr or ran.stdout).strip()[-1000:]}")


def remember(home: Home, server: str) -> None:
    """Write down that this server has the flows as they are now, and all that goes with them."""
    write_atomically(_remembered(home), _fingerprint(server))


def _remembered(home: Home) -> Path:
    return home.prefect / "deployed.sha256"


def _fingerprint(server: str) -> str:
    """Of the server, prefect.yaml, and what the flows' parameters and the automations are made from."""
    file = prefect_file()
    modules = [ROOT / "tasks" / name for name in ("watched.py", "automations.py")]
    sources = [file, *sorted((ROOT / "flows").glob("*.py")), *modules]
    content = [server, *(path.read_text(encoding="utf-8") for path in sources)]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()
