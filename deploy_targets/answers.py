"""What a cloud answered, checked where it comes in: what cannot be read raises our error, and no traceback of Python.

An answer may come from a proxy, from another version of an API, or from a test's double. A caller that reads a field
which is not there, or a number that is none, gets TargetUnavailableError, which names what came and what to look at.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHOWN = 200
"""Characters of what cannot be read."""


class Told(dict[str, Any]):
    """What a cloud answered: reading a field that is not there raises TargetUnavailableError, and not KeyError.

    Args:
        fields: of the answer.
        of: the cloud and the call, for the error.
    """

    def __init__(self, fields: Mapping[str, Any], of: str) -> None:
        super().__init__(fields)
        self._of = of

    def __missing__(self, key: str) -> Any:  # noqa: ANN401 - it returns nothing
        raise unreadable(self._of, f"without {key!r}, with {', '.join(sorted(map(str, self))) or 'nothing'}")


def told(answer: object, of: str) -> Told:
    """An answer, as `Told` through all its depth.

    Args:
        answer: what the client made of it.
        of: the cloud and the call, such as "Google's endpoints.get".

    Raises:
        TargetUnavailableError: it is no object.
    """
    if not isinstance(answer, dict):
        raise unreadable(of, repr(answer)[:_SHOWN])
    return Told({key: _told(value, of) for key, value in answer.items()}, of)


def _told(value: object, of: str) -> Any:  # noqa: ANN401 - whatever it was
    if isinstance(value, dict):
        return told(value, of)
    return [_told(one, of) for one in value] if isinstance(value, list) else value


def listed(page: Mapping[str, Any], key: str, of: str) -> list[Any]:
    """The objects that a page lists; none where it says nothing.

    Raises:
        TargetUnavailableError: it lists something else.
    """
    found = page.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise unreadable(of, f"with {key} = {found!r}"[:_SHOWN])
    return found


@contextmanager
def reading(of: str, came: object) -> Iterator[None]:
    """Have whatever cannot be read of an answer raise TargetUnavailableError, which says what came.

    Args:
        of: the cloud and the call, or the metric.
        came: the part of the answer that is read.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise unreadable(of, f"with {came!r}"[:_SHOWN]) from error


def unreadable(of: str, came: str) -> TargetUnavailableError:
    """The error for an answer that is not as the cloud's reference has it.

    Args:
        of: the cloud and the call.
        came: what came instead.
    """
    return TargetUnavailableError(
        f"the answer of {of} is not in the form that its reference gives: it came {came}",
        fix="see whether a proxy answers in the cloud's place (HTTPS_PROXY, NO_PROXY), and that the address is right",
    )
