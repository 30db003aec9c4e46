"""HEADGATE_HOME: the one folder that holds everything Headgate keeps on this machine, for its owner alone.

Requests of clients are in it (logs of predictions), and who released what.

stack.json        the ports of the local stack, chosen once
secrets.json      what its programs know each other by, and people sign in with; only its owner can read it
sealing.key       what values of runtime.env are sealed with in all that is written (headgate/sealed.py)
journal.db        releases, leases, history (registry/journal.py)
guard.looked      when the guard looked last (tasks/guard.py)
supervisor/       supervisord's configuration, one file a program
gateway/          Envoy's bootstrap, routes and clusters (deploy_targets/envoy.py)
sockets/          what servers of the local target listen on (headgate/stack/sockets.py)
bundles/ envs/    images of the local target and their environments, content-addressed
layers/ uploads/  layers of images, by what they were made of, and pushes that were cut short
locks/            resolved requirements, by what was asked for
revisions/        one folder a revision: its log of predictions and its scratch files
predictions/      what the monitor keeps of those logs, as Parquet (monitoring/predictions/store.py)
prefect/ mlflow/  the state of those servers
logs/             one file a program
"""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from headgate.errors import HomeError

DEFAULT_HOME = "~/.headgate"
SOCKET_PATH_BYTES = 107
"""Linux allows no more; https://man7.org/linux/man-pages/man7/unix.7.html."""
_FOLDER, _FILE, _OTHERS = 0o700, 0o600, 0o077


@dataclass(frozen=True)
class Home:
    """The folder's layout.

    Args:
        root: the folder; it need not exist yet.
    """

    root: Path

    @classmethod
    def from_env(cls) -> Home:
        """The folder that HEADGATE_HOME names, or ~/.headgate.

        Raises:
            HomeError: it begins with the name of a user whose home is not known.
        """
        given = os.environ.get("HEADGATE_HOME") or DEFAULT_HOME
        try:
            return cls(Path(given).expanduser().absolute())
        except RuntimeError as error:
            raise HomeError(
                f"HEADGATE_HOME is {given}, and this machine knows no home folder of that user",
                fix="set HEADGATE_HOME to the whole path of a folder",
            ) from error

    @property
    def stack_file(self) -> Path:
        """The local stack's ports."""
        return self.root / "stack.json"

    @property
    def secrets_file(self) -> Path:
        """The local stack's secrets."""
        return self.root / "secrets.json"

    @property
    def sealing_key(self) -> Path:
        """What values of `runtime.env` are sealed with."""
        return self.root / "sealing.key"

    @property
    def journal_url(self) -> str:
        """The journal's database: HEADGATE_JOURNAL_URL, or a SQLite file here."""
        return os.environ.get("HEADGATE_JOURNAL_URL") or f"sqlite:///{self.root / 'journal.db'}"

    @property
    def supervisor(self) -> Path:
        """Supervisord's configuration and socket."""
        return self.root / "supervisor"

    @property
    def gateway(self) -> Path:
        """Envoy's files."""
        return self.root / "gateway"

    @property
    def sockets(self) -> Path:
        """Sockets of the local target's servers."""
        return self.root / "sockets"

    @property
    def bundles(self) -> Path:
        """Images of the local target, by digest."""
        return self.root / "bundles"

    @property
    def envs(self) -> Path:
        """Environments, by the digest of their lock."""
        return self.root / "envs"

    @property
    def layers(self) -> Path:
        """Layers of images, by the digest of what they were made of."""
        return self.root / "layers"

    @property
    def uploads(self) -> Path:
        """How far pushes to a registry came."""
        return self.root / "uploads"

    @property
    def locks(self) -> Path:
        """Locked requirements, by the digest of what was asked for."""
        return self.root / "locks"

    @property
    def revisions(self) -> Path:
        """What revisions write, by endpoint and name."""
        return self.root / "revisions"

    @property
    def predictions(self) -> Path:
        """Kept predictions, where the release file names no store."""
        return self.root / "predictions"

    @property
    def prefect(self) -> Path:
        """The Prefect server's state."""
        return self.root / "prefect"

    @property
    def mlflow(self) -> Path:
        """The MLflow server's database and artifacts."""
        return self.root / "mlflow"

    @property
    def logs(self) -> Path:
        """One log a program."""
        return self.root / "logs"

    def ensure(self) -> Home:
        """Make the folders, for their owner alone; those that exist keep their modes.

        Raises:
            HomeError: a folder cannot be made or written to.
        """
        folders = [
            self.root, self.supervisor, self.supervisor / "programs", self.gateway, self.sockets, self.bundles,
            self.envs, self.layers, self.uploads, self.locks, self.revisions, self.prefect, self.mlflow, self.logs,
        ]  # fmt: skip
        for folder in folders:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir(mode=_FOLDER, exist_ok=True)
            except OSError as error:
                raise self._unusable(folder, error) from error
        probe = unfinished(self.root / "probe")
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise self._unusable(self.root, error) from error
        return self

    def open_to(self) -> str:
        """Return the folder's mode, such as `755`, where others may look into it; else an empty text."""
        try:
            mode = stat.S_IMODE(self.root.stat().st_mode)
        except FileNotFoundError:
            return ""
        return f"{mode:o}" if mode & _OTHERS else ""

    def tighten(self) -> str:
        """Keep others out of a folder that an earlier version made.

        Returns:
            The mode that it had; empty where nothing was changed, as for a folder of another user.
        """
        had = self.open_to()
        if not had or self.root.stat().st_uid != os.geteuid():
            return ""
        self.root.chmod(_FOLDER)
        for path in self.root.iterdir():
            if not path.is_symlink() and path.stat().st_uid == os.geteuid():
                path.chmod(_FOLDER if path.is_dir() else _FILE)
        return had

    def _unusable(self, folder: Path, error: OSError) -> HomeError:
        return HomeError(
            f"HEADGATE_HOME is {self.root}, but {folder} cannot be written to: {error.strerror or error}",
            fix="set HEADGATE_HOME to a folder that this user may write to",
        )


def require_short(socket: Path, limit: int) -> None:
    """Refuse a Unix socket whose path the system does not take.

    Raises:
        HomeError: it has more than `limit` bytes.
    """
    if (size := len(os.fsencode(socket))) > limit:
        raise HomeError(
            f"HEADGATE_HOME is too long: the path of a Unix socket has at most {limit} bytes here, and {socket} "
            f"has {size}",
            fix="set HEADGATE_HOME to a shorter path",
        )


def unfinished(path: Path) -> Path:
    """A name beside a file, which only this thread has, for what is to replace it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")


def write_atomically(path: Path, text: str, *, mode: int = _FILE) -> None:
    """Replace a file's content so that a reader, or a crash, never sees half of it; only its owner reads it."""
    temporary = unfinished(path)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:  # noqa: PTH123 - Path.open takes no mode
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
