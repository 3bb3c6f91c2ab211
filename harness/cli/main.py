"""The command: which commands there are, and how each ends. `status`, `list` and `report` import neither torch nor
Ray: what needs them is imported where it is used."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Annotated, Any

import typer

from harness.cli.evaluate import evaluate
from harness.cli.messages import (
    leave,
    out,
    refuse,
    speak_any_encoding,
    tell,
)
from harness.cli.report import quote, report
from harness.cli.run import run
from harness.cli.show import export, list_names, show, status
from harness.cli.stores import merge, repair, verify
from harness.cli.tune import tune
from harness.errors import ExitCode, InputError
from methods.settings import SettingsError


class _Commands(typer.core.TyperGroup):
    """Typer ends an interrupted command without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("stopped; to go on, give the same command again")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(cls=_Commands, no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode=None)


COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "tune": tune,
    "status": status,
    "report": report,
    "quote": quote,
    "show": show,
    "export": export,
    "merge": merge,
    "verify": verify,
    "repair": repair,
    "list": list_names,
    "evaluate": evaluate,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

# typer brings a click of its own since 0.26, and used the installed one before: the class is found through typer
CommandLineError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def main() -> None:
    """Run a command. What ends it early is one line, and an exit code of its own (`ExitCode`)."""
    speak_any_encoding()
    try:
        code = app(standalone_mode=False, prog_name="run-bench")
    except (InputError, SettingsError) as error:
        refuse(str(error))
    except CommandLineError as error:
        refuse(error.format_message())
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # no file system would take that name
            refuse(str(error))
        tell(f"error: {error}; to go on, give the same command again")
        leave(ExitCode.INCOMPLETE)
    except typer.Abort:
        leave(ExitCode.INTERRUPTED)
    leave(code if isinstance(code, int) else ExitCode.DONE)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    from harness.spec import NUMERICS_VERSION
    from harness.store.provenance import git_commit

    commit = f", commit {git_commit()}" if git_commit() else ""
    out.print(
        f"run-bench {version('robust-fairness-bench')}, numerics version {NUMERICS_VERSION}{commit}", soft_wrap=True
    )
    raise typer.Exit()


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and leave")
]


@app.callback(invoke_without_command=True)
def quickstart(context: typer.Context, version: Version = False) -> int | None:
    """Benchmark class-wise fair adversarial training. Without a command: the quickstart suite on the embedded
    digits."""
    if context.invoked_subcommand is None:
        return run("quickstart")
    return None
