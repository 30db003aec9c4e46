"""The command `headgate`, and `python -m headgate`: the command line, once the caller's folders are not searched."""

from __future__ import annotations

from headgate.safe_path import enter


def main() -> None:
    """Run the command line; nothing of it, and nothing that it needs, is imported from the caller's folders."""
    enter("headgate")
    from headgate.cli import main as command_line  # noqa: PLC0415 - see above

    command_line()


if __name__ == "__main__":
    main()
