"""The command line: one file per command, listed in `COMMANDS`, imported only when it is called.

A command named `some-name` is the function `some_name` in `emsfl/cli/some_name.py`, annotated for
typer; its docstring is its help. It returns nothing on success and raises `EmsflError` (or
`typer.Exit`) otherwise.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command
from typer.models import ArgumentInfo

import emsfl
from emsfl.errors import EmsflError, UserError

COMMANDS = {
    "run": "Run the experiment of a config file; write a run folder.",
    "resume": "Continue a run that was stopped, to the same result.",
    "sweep": "Run a grid of settings, several points at a time.",
    "report": "Print the table of finished runs and write their HTML report.",
    "compare": "Compare the methods of several runs in one table.",
    "plan": "Show what to expect of an experiment, before any training.",
    "bound": "Hold a run against its convergence bound, or predict.",
    "contacts": "Compute when sites and satellites can exchange bits.",
    "inspect": "Show the experts of a mixture-of-experts checkpoint.",
    "score": "Score how well each expert fits a cluster's data.",
    "assign": "Find which cluster should own which experts.",
    "split": "Cut one loadable sub-model per cluster out of a checkpoint.",
    "tune": "Train a sub-model on local data; write an update.",
    "merge": "Put the clusters' experts back into the model.",
    "evaluate": "Judge a model on every domain of a table.",
    "upcycle": "Turn a dense model into a mixture of experts.",
    "fold-gate": "Fold the domain gate into router weights, if that helps.",
    "data": "List data sets, or fetch those that are downloaded.",
    "validate": "Check a config file and show what it resolves to.",
    "serve": "Be the parameter server of real machines.",
    "join": "Be one cluster's gateway.",
    "keys": "Make keys and certificates for serve and join.",
    "status": "Show where a deployment is, live.",
    "doctor": "Show versions, devices and what is missing.",
}
"""Command name -> one line of help. To add a command: one line here, one file beside this one."""

DEBUG_VARIABLE = "EMSFL_DEBUG"
"""Set to 1 to see the traceback of any error."""

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


class _Command(TyperCommand):
    """A command with plain help: rich's would take four times as long to appear."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help without the backslashes that typer puts before brackets for rich."""
        return super().get_help(ctx).replace("\\[", "[")


class _LazyGroup(TyperGroup):
    """Lists the commands from the table; imports one only to call it or to show its own help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: click.Command(name, short_help=text) for name, text in COMMANDS.items()
        }

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does, then put the imported one in place of the listed one."""
        # Not typer's: click suggests the nearest name itself.
        name, command, rest = click.Group.resolve_command(self, ctx, args)
        return name, (_load(name) if name in COMMANDS else command), rest


def _load(name: str) -> click.Command:
    identifier = name.replace("-", "_")
    function = getattr(import_module(f"emsfl.cli.{identifier}"), identifier)
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, cls=_Command)(function)
    command = get_command(holder)
    _restore_help(command, get_type_hints(function, include_extras=True))
    return command


def _restore_help(command: click.Command, annotations: dict[str, Any]) -> None:
    """Give arguments their help back: typer sets it, then click 8.4 and later set it to None."""
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and parameter.help is None:
            for item in get_args(annotations[str(parameter.name)]):
                if isinstance(item, ArgumentInfo):
                    parameter.help = item.help


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Federated tuning of mixture-of-experts models over satellite links."""
    if version:
        typer.echo(f"emsfl {emsfl.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build() -> click.Command:
    """Return the whole command line as a click command."""
    app = typer.Typer(cls=_LazyGroup, rich_markup_mode=None, invoke_without_command=True)
    app.callback()(_root)
    return get_command(app)


def main() -> None:
    """Run the command line on `sys.argv` and leave with its exit code."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # of what is passed, one part counts
    sys.exit(call(sys.argv[1:]))


def _show_warning(message: Warning | str, *_where: Any) -> None:
    """Print a warning as one line on stderr, as errors are."""
    typer.echo("warning: " + " ".join(str(message).split()), err=True)


def call(arguments: list[str]) -> int:
    """Run the command line on `arguments`; an error is one line on stderr, never a traceback.

    Returns:
        0: good; 1: emsfl's failure, or the reader of the output is gone; 2: the user's input;
        130: interrupted.
    """
    try:
        code = build().main(arguments, prog_name="emsfl", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "emsfl"
        return _report(error, f"{error.format_message().rstrip('.')}; see '{where} --help'", 2)
    except click.ClickException as error:
        return _report(error, error.format_message(), error.exit_code)
    except EmsflError as error:
        return _report(error, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        return _report(error, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes once more at its end: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        if error.filename is None:
            return _report(error, f"the system says: {error}", EXIT_FAILURE)
        return _report(error, f"{error.filename}: {error.strerror}", UserError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort: anything unforeseen ends here
        hint = f"{type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see the traceback)"
        return _report(error, f"unexpected {hint}", EXIT_FAILURE)
    if code == EXIT_INTERRUPTED:
        typer.echo("error: interrupted", err=True)
    return code if isinstance(code, int) else 0


def _report(error: BaseException, message: str, code: int) -> int:
    """Print one line on stderr, below the traceback if the user asked for it; return `code`."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
    typer.echo("error: " + " ".join(message.split()), err=True)
    return code
