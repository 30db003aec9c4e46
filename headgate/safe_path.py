"""Have Headgate's processes import Headgate's own modules, and not files of the same names in the caller's folders.

Python searches the script's folder, with `python -m` the current folder, and the folders of PYTHONPATH before all
others. A file `tasks.py` or a folder `registry/` there would be imported in place of Headgate's package, and a file
`json.py` in place of Python's own module. So a process of Headgate is started with `-P` and without PYTHONPATH
(`python`, `clean`), and what users start takes these folders off its search path (`enter`).

What remains is a package of another distribution: `require_own` finds it and names it. Only Python's own modules are
imported here, and few of them: every command waits for it.
"""

from __future__ import annotations

import importlib.util
import os
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headgate.errors import ShadowedError

ROOT = Path(__file__).parents[1]
"""The folder that Headgate's packages lie in."""

PACKAGES = ("headgate", "flows", "tasks", "images", "registry", "deploy_targets", "monitoring", "headgate_server")
"""Headgate's top-level packages, which are those of the wheel."""

PYTHONPATH = "PYTHONPATH"
NOT_INHERITED = frozenset({PYTHONPATH, "PYTHONHOME", "PYTHONSTARTUP"})
"""Variables by which Python searches, or runs, what is the caller's."""

_INSTALL_AGAIN = "install Headgate again, in an environment of its own: docs/install.md"


def python(module: str, *arguments: str) -> list[str]:
    """Return the command by which this Python runs a module without searching the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def clean(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment without the variables of NOT_INHERITED."""
    return {name: value for name, value in environ.items() if name not in NOT_INHERITED}


def enter(program: str) -> None:
    """Leave the caller's folders; end the process where another project's package would still be imported.

    Args:
        program: the name that the message begins with.
    """
    named = _named_by_variable()
    left = leave_callers_folders()
    from headgate.errors import ShadowedError  # noqa: PLC0415 - once the caller's folders are not searched

    try:
        if str(ROOT) in left:
            _require_installed()
        require_own(named=named)
    except ShadowedError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(error.exit_code)


def leave_callers_folders() -> set[str]:
    """Take the script's folder, the current folder and those of PYTHONPATH off the search path of this process.

    The folder that Headgate lies in stays, as do Python's own. The variables of NOT_INHERITED are removed from the
    environment, so that no process started by this one gets them.

    Returns:
        The folders of the caller, as absolute paths.
    """
    folders = set(_named_by_variable())
    if not sys.flags.safe_path and sys.path and sys.path[0] in _put_first():
        folders.add(_absolute(sys.path[0]))
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    leave = folders - _stays() if folders else folders
    sys.path[:] = [one for one in sys.path if _absolute(one) not in leave]
    return folders


def require_own(packages: Iterable[str] = PACKAGES, *, named: Iterable[str] | None = None) -> None:
    """Refuse to go on where a package of Headgate's name is not Headgate's; nothing is imported.

    Args:
        packages: top-level names.
        named: the folders that PYTHONPATH named when the process began; default: names now.

    Raises:
        ShadowedError: another module would be imported, or none.
    """
    for name in packages:
        spec = importlib.util.find_spec(name)
        found = "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "")
        own = f"{ROOT}{os.sep}{name}{os.sep}__init__.py"
        if found != own and not (found and os.path.realpath(found) == os.path.realpath(own)):
            raise _shadowed(name, found, _named_by_variable() if named is None else named)


def _named_by_variable() -> list[str]:
    """Return the folders that PYTHONPATH names, as absolute paths; an empty one is the current folder."""
    value = "" if sys.flags.ignore_environment else os.environ.get(PYTHONPATH, "")
    return [_absolute(one) for one in value.split(os.pathsep)] if value else []


def _put_first() -> set[str]:
    """Return what Python may have put first: the script's folder, or for `-m` and `-c` the current one."""
    script = _absolute(sys.argv[0] if sys.argv else "")
    return {"", _current(), os.path.dirname(script), os.path.dirname(os.path.realpath(script))}


def _stays() -> set[str]:
    """Return the folders that stay also where the caller names them."""
    library = os.path.dirname(os.__file__)
    own = {str(ROOT), library, os.path.join(library, "lib-dynload")}
    return own | {*site.getsitepackages(), site.getusersitepackages()}


def _absolute(path: str) -> str:
    """Return an absolute path as Python's site.py makes it."""
    return os.path.normpath(os.path.join(_current() or os.sep, path))


def _current() -> str:
    """Return the current folder; empty where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _require_installed() -> None:
    """Refuse to go on with a Headgate that only a folder of the caller's has.

    Raises:
        ShadowedError: a process that Headgate starts finds another Headgate, or none.
    """
    import subprocess  # noqa: PLC0415 - seldom needed

    from headgate.errors import ShadowedError  # noqa: PLC0415 - see `enter`

    code = "import headgate; print(headgate.__path__[0])"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=clean(), capture_output=True, text=True, check=False)
    found, own = done.stdout.strip(), str(ROOT / "headgate")
    if found and os.path.realpath(found) == os.path.realpath(own):
        return
    raise ShadowedError(
        f"{own} was found by the current folder or by PYTHONPATH, and the processes that Headgate starts search "
        f"neither: they find {found or 'no Headgate'}",
        fix=f"pip install {ROOT}; or leave the folder, and unset PYTHONPATH",
    )


def _shadowed(name: str, found: str, named: Iterable[str]) -> ShadowedError:
    from headgate.errors import ShadowedError  # noqa: PLC0415 - see `enter`

    if not found:
        return ShadowedError(f"Headgate's package {name} is not in {ROOT}", fix=_INSTALL_AGAIN)
    package = os.path.dirname(found) if os.path.basename(found).startswith("__init__.") else found
    why, fix = _reason(name, os.path.dirname(package), named)
    return ShadowedError(f"{found} would be imported in place of Headgate's package {name}: {why}", fix=fix)


def _reason(name: str, folder: str, named: Iterable[str]) -> tuple[str, str]:
    """Return why a folder is searched before Headgate's, and what to do about it."""
    if folder in named:
        return f"PYTHONPATH names {folder}", f"take {folder} out of PYTHONPATH, or rename {name} there"
    if folder in _put_first():
        what = "current folder" if folder == _current() else "folder of the script"
        return f"Python searches the {what} first", f"rename {name} there, or start Python with -P"
    from importlib.metadata import packages_distributions  # noqa: PLC0415 - reads every distribution's files

    from headgate.installation import DISTRIBUTION  # noqa: PLC0415 - see `enter`

    if others := sorted(set(packages_distributions().get(name, [])) - {DISTRIBUTION}):
        return (
            f"it is of the distribution {', '.join(others)}",
            f"pip uninstall {' '.join(others)}; or {_INSTALL_AGAIN}",
        )
    listed = [file for file in _path_files() if folder in Path(file).read_text(encoding="utf-8").splitlines()]
    why = f"{', '.join(listed)} names {folder}" if listed else f"sys.path has {folder} before {ROOT}"
    return why, f"rename {name} there; or {_INSTALL_AGAIN}"


def _path_files() -> list[str]:
    """Return the files that add folders to the search path of this Python."""
    places = (*site.getsitepackages(), site.getusersitepackages())
    return [str(file) for place in places for file in Path(place).glob("*.pth")]
