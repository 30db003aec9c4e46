"""The command line. Commands are imported when they are called, so that `headgate --help` is quick."""

from __future__ import annotations

import builtins
import importlib
import io
import keyword
import os
import sys

import click

from headgate import __version__
from headgate.engine import carry_out
from headgate.errors import BadInputError, HeadgateError, printable
from headgate.home import Home
from headgate.proxies import ask_loopback_directly, require_usable

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("stack", "Start the local stack: Prefect, MLflow, Envoy, a worker."),
    "down": ("stack", "Stop the local stack and everything it serves."),
    "connect": ("connect", "Have servers of your own know Headgate's flows."),
    "open": ("sign_in", "Open the page of Prefect or MLflow; print the sign-in."),
    "env": ("sign_in", "Print what a shell needs to use Prefect and MLflow."),
    "doctor": ("stack", "Find what is missing on this machine, with the fix."),
    "init": ("files", "Write a release file for a model."),
    "validate": ("files", "Check a release file; every problem at its line."),
    "schema": ("files", "Print the JSON Schema of release files."),
    "plan": ("files", "Show what a release would do; change nothing."),
    "scan": ("scan", "Look for code in a model's files, as a release does."),
    "release": ("change", "Release a model."),
    "promote": ("change", "Promote a release that is held."),
    "rollback": ("change", "Go back to the version before, or end a release in flight."),
    "pause": ("operate", "Keep a release where it is."),
    "resume": ("operate", "Let a paused release go on."),
    "abort": ("operate", "Take back the release that is in flight."),
    "approvals": ("operate", "Show what waits for an approval."),
    "approve": ("operate", "Approve a release that waits."),
    "reject": ("operate", "Reject a release that waits."),
    "gateway": ("cluster", "Print or apply what a Kubernetes namespace needs once."),
    "reconcile": ("order", "Put in order what nobody is at work on."),
    "guard": ("order", "Watch for releases that lose their process, and end them at once."),
    "monitor": ("change", "Check an endpoint for drift."),
    "labels": ("truth", "Tell what the right answers were."),
    "watch": ("watch", "Check an endpoint, and release to it, by itself."),
    "unwatch": ("watch", "Stop doing so."),
    "automations": ("watch", "Show or apply what Headgate's events lead to."),
    "replay": ("replay", "Try the judge on recorded or simulated traffic."),
    "status": ("read", "Show what is live and what is in flight."),
    "history": ("read", "Show what was live, from when to when, and why."),
    "export": ("portable", "Write an endpoint's history and aliases to a file."),
    "import": ("portable", "Bring an exported history into this journal."),
    "completion": ("read", "Print the shell completion script."),
}
"""Each command's module in this package, and its line in the help."""


_SLOW_TO_IMPORT = frozenset({
    "init", "plan", "release", "promote", "rollback", "approvals", "approve", "reject", "reconcile", "monitor", "watch",
    "unwatch", "automations", "import", "connect", "status", "history", "export", "labels",
})  # fmt: skip
"""Those that the local stack's engine carries out, where it is up."""

_ASK_NOBODY = frozenset({"down", "doctor", "validate", "schema", "replay", "completion"})
"""Those that make no request, and the one that says which proxies and certificates are wrong."""

INTERRUPTED = 130
"""What a shell expects of a command that ended by Ctrl-C."""


class Commands(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"headgate.cli.{COMMANDS[name][0]}")
        # A keyword, and what is built in, cannot be the name of a function.
        taken = keyword.iskeyword(name) or hasattr(builtins, name)
        command: click.Command = getattr(module, f"{name}_" if taken else name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was probably meant."""
        import difflib

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headgate")
def cli() -> None:
    """Release trained models safely.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 rejected by a gate, 4 rolled back, 5 undecided
    or still going on, 6 not known: the journal does not answer.
    """


def _require_text(arguments: list[str]) -> None:
    """Refuse words and settings whose bytes are no text: neither the journal nor a release file can hold them."""
    settings = {f"{name} is": value for name, value in os.environ.items() if name.startswith("HEADGATE_")}
    words = {f"word {number} of the command is": word for number, word in enumerate(arguments, start=1)}
    for what, given in (words | settings).items():
        if any("\ud800" <= letter <= "\udfff" for letter in given):
            raise BadInputError(f"{what} {given}, which is no UTF-8", fix="give it as UTF-8")


def main() -> None:
    """Run the command line, turning our errors into messages and exit codes."""
    ask_loopback_directly()
    arguments = sys.argv[1:]
    try:
        _require_text(arguments)
        if arguments and arguments[0] in COMMANDS.keys() - _ASK_NOBODY and not {"-h", "--help"} & set(arguments):
            require_usable(os.environ)
        if arguments and arguments[0] in _SLOW_TO_IMPORT:
            code = carry_out(Home.from_env().root, "headgate", *arguments)
            if code is not None:
                sys.exit(code)
        sys.exit(cli.main(prog_name="headgate", standalone_mode=False))
    except HeadgateError as error:
        click.echo(f"headgate: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(printable(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("headgate: interrupted", err=True)
        sys.exit(INTERRUPTED)
