"""Every error that Headgate raises on purpose.

    HeadgateError                       exit code
    ├── BadInputError                   2   what was given cannot be used
    │   ├── SpecError                       a release file, with every problem at its line
    │   ├── HomeError                       HEADGATE_HOME, a folder or a port cannot be had
    │   ├── RefusedError                    a webhook's delivery that is not its sender's, or not of now
    │   ├── ShadowedError                   another project's module would be imported in place of Headgate's
    │   └── UnsupportedError                the target cannot do what the release file asks
    ├── PackageError                    1   the artifact cannot become an image
    │   ├── ArtifactError                   missing, unreadable, or not an MLflow model
    │   ├── RequirementsError               the model's packages cannot be resolved or installed
    │   ├── UnsafeArtifactError             the artifact holds code that does harm when it is loaded
    │   └── ImageError                      a base, a daemon or a disk fails to make an image
    │       └── ImageRegistryError          the images' registry refused something
    │           └── ImageRegistryUnavailableError   it did not answer; trying again may help
    ├── TargetError                     1   a platform did not do what it was asked
    │   ├── TargetUnavailableError          it did not answer; trying again may help
    │   │   └── NobodyRoutesError           there is nobody that would take a request
    │   ├── ChangedError                    of a cluster: somebody else was first (deploy_targets/kubernetes/api.py)
    │   ├── NotAllowedError                 of a cluster: whoever asks has no right to (in the same place)
    │   └── RevisionFailedError             a revision cannot start, or never became ready
    ├── RegistryError                   1   the journal or MLflow
    │   ├── RegistryUnavailableError        it did not answer; trying again may help
    │   ├── EndpointBusyError               another release holds the endpoint
    │   ├── LeaseLostError                  this process no longer holds the endpoint
    │   ├── JournalChangedError             a stored row no longer matches its hash
    │   └── NothingToRollBackError          no earlier version is known
    ├── MonitorError                    1   the drift check itself could not be made
    │   └── FileLostError                   a file of a window cannot be read (monitoring/predictions/window.py)
    ├── RejectedError                   3   a gate refused the challenger before clients saw it
    │   ├── FrozenError                     a freeze window forbids releases
    │   └── NotApprovedError                someone said no, or nobody said yes in time
    ├── RolledBackError                 4   the judge took the challenger back
    ├── TimedOutError                   5   nothing was decided in the time given
    └── NotKnownError                   6   how it ended cannot be read; it may go on

A message says what happened, what was observed and what the limit was; `fix` says what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from headgate.credentials import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.findings import Problem


class HeadgateError(Exception):
    """The root of the tree.

    Args:
        message: What happened, what was observed, and the limit that it broke.
        fix: What the reader can do about it, as an instruction.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        message = printable(redact(message))
        super().__init__(message)
        self.message = message
        self.fix = printable(redact(fix))

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `fix` when Prefect carries the error between processes."""
        return (_rebuild, (type(self), self.message, self.fix))


def printable(text: str) -> str:
    """Return a text with an escape for each letter that a terminal would act on, or that no file can hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def _rebuild(kind: type[HeadgateError], message: str, fix: str) -> HeadgateError:
    return kind(message, fix=fix)


class BadInputError(HeadgateError):
    """What was given cannot be used; nothing was changed."""

    exit_code = 2


class RefusedError(BadInputError):
    """A webhook's delivery that is not its sender's, or not of now."""


class SpecError(BadInputError):
    """A release file with problems; `problems` holds every one of them, in file order."""

    def __init__(self, message: str, *, problems: Sequence[Problem] = (), fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems)]
        return "\n".join([*lines, f"  fix: {self.fix}"] if self.fix else lines)


class HomeError(BadInputError):
    """HEADGATE_HOME, one of its folders or a port cannot be had."""


class ShadowedError(BadInputError):
    """Another project's module would be imported in place of one of Headgate's packages."""


class UnsupportedError(BadInputError):
    """The target cannot do what the release file asks for."""


class PackageError(HeadgateError):
    """The artifact cannot become an image."""


class ArtifactError(PackageError):
    """The artifact is missing, cannot be read, or is not an MLflow model."""


class RequirementsError(PackageError):
    """The packages that the model names cannot be resolved or installed."""


class UnsafeArtifactError(PackageError):
    """The artifact holds code that does harm when it is loaded."""


class ImageError(PackageError):
    """A base image, the daemon or the disk does not let an image be made."""


class ImageRegistryError(ImageError):
    """The registry of images refused something."""


class ImageRegistryUnavailableError(ImageRegistryError):
    """The registry of images did not answer; trying again may help."""


class TargetError(HeadgateError):
    """A platform did not do what it was asked to do."""


class TargetUnavailableError(TargetError):
    """The platform did not answer; trying again may help."""


class NobodyRoutesError(TargetUnavailableError):
    """There is nobody that would take a request, such as a gateway without a pod."""


class RevisionFailedError(TargetError):
    """A revision cannot start, or did not become ready in time."""


class RegistryError(HeadgateError):
    """The journal or MLflow refused something."""


class RegistryUnavailableError(RegistryError):
    """The journal's database or MLflow did not answer; trying again may help."""


class EndpointBusyError(RegistryError):
    """Another release holds the endpoint."""


class LeaseLostError(RegistryError):
    """This process no longer holds the endpoint and must not change it."""


class JournalChangedError(RegistryError):
    """A stored row no longer matches its hash: somebody changed the past."""


class NothingToRollBackError(RegistryError):
    """No earlier version of the endpoint is known."""


class MonitorError(HeadgateError):
    """The check itself could not be made; this is not drift."""


class RejectedError(HeadgateError):
    """A gate refused the challenger before any client saw its answers."""

    exit_code = 3


class FrozenError(RejectedError):
    """A freeze window forbids releases; nothing was changed."""


class NotApprovedError(RejectedError):
    """Someone rejected the release, or nobody approved it in time."""


class RolledBackError(HeadgateError):
    """The judge took the challenger back while it had live traffic."""

    exit_code = 4


class TimedOutError(HeadgateError):
    """Nothing was decided in the time given."""

    exit_code = 5


class NotKnownError(HeadgateError):
    """How a release ended cannot be read, as the journal does not answer; the release itself may go on."""

    exit_code = 6
