"""Machines that only pretend to run an image, for tests that are about a cloud and not the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from support.machines import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass
class PretendedMachine:
    """Answers everything alike: with its image's name where a test says nothing else."""

    image: str
    answer: bytes = b""
    asked: list[bytes] = field(default_factory=list)

    def answers(self, _path: str) -> bool:
        return True

    def is_running(self) -> bool:
        return True

    def ask(self, _path: str, body: bytes, _headers: Mapping[str, str]) -> Answer:
        self.asked.append(body)
        answer = self.answer or b'{"predictions": ["%s"]}' % self.image.encode()
        return Answer(200, answer, "application/json", 0.001)

    def log(self, _lines: int = 30) -> list[str]:
        return []

    def end(self) -> None:
        """Nothing runs."""


class Pretended:
    """Starts them, at once."""

    step_seconds: ClassVar[float] = 0.15
    poll_seconds: ClassVar[tuple[float, float]] = (0.05, 0.3)

    def __init__(self) -> None:
        self.started: list[PretendedMachine] = []

    def host(self) -> str:
        return "127.0.0.1"

    def start(self, image: str, _env: Mapping[str, str], _command: Sequence[str] = ()) -> PretendedMachine:
        self.started.append(PretendedMachine(image))
        return self.started[-1]

    def close(self) -> None:
        """Nothing runs."""
