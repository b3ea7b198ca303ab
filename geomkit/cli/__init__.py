"""The command line: `geomkit audit`, `compare`, `cosine`, `orthogonality`, `concentration`, `moments`, `survey`, ...

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 an audit's verdict is as bad
as `--fail-on` says, 2 bad input or something that cannot be had or written, in one line, 130 interrupted.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from geomkit import __version__
from geomkit.cli.atlas import app as atlas_app
from geomkit.cli.audits import app as audits_app
from geomkit.cli.bars import showing
from geomkit.cli.doctor import app as doctor_app
from geomkit.cli.lens import app as lens_app
from geomkit.cli.measures import app as measures_app
from geomkit.cli.sources import app as sources_app
from geomkit.errors import GeomkitError

app = typer.Typer(
    help="The geometry of embeddings, measured fast and honestly.",
    epilog="Exit codes: 0 done; 1 the verdict is as bad as --fail-on says; 2 bad input, or something that cannot be "
    "had, in one line; 130 interrupted.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for each in (audits_app, atlas_app, measures_app, lens_app, doctor_app):
    app.add_typer(each)
app.add_typer(sources_app, name="sources")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure the geometry of embeddings."""


_ARGUMENT = re.compile(
    r"(?<![\w./-])(backend|bits|columns|device|dtype|encoding|exclude|key|n|on_invalid|precision|seed|threads)=(['\"]?)([\w.:*-]+)\2(?!\w)"
)


def _in_options(reason: str) -> str:
    """Say an argument of the library that a message advises as the option that it is here."""
    return _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')} {found[3]}", reason)


def _asked(context: Any) -> str:
    """Return the command that was asked for, as a person writes it."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["geomkit", *names])


def run(command: Callable[..., Any]) -> int:
    """Run a Typer application and turn refusals into one line and an exit code."""
    try:
        with showing():
            code = int(command(standalone_mode=False) or 0)
            sys.stdout.flush()
            return code
    except GeomkitError as refused:
        reason, code = _in_options(str(refused)), 2
    except (KeyboardInterrupt, typer.Abort):
        reason, code = "interrupted", 130
    except TyperException as usage:
        reason, code = usage.format_message(), 2
        reason += f" See {_asked(getattr(usage, 'ctx', None))} --help." if reason else ""
    except (BrokenPipeError, SystemExit):
        # The reader of our output has gone, as in `| head`, which Typer makes an exit of its own.
        _discard_output()
        return 0
    except OSError as full:
        _discard_output()
        reason, code = f"{full.filename or 'the output'} could not be written: {full.strerror or full}", 2
    if reason:
        # Without: help was asked for by giving nothing, and is printed.
        typer.echo(f"geomkit: {' '.join(reason.split())}", err=True)
    return code


def _discard_output() -> None:
    """Leave nothing for Python to flush at exit."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the process ends


def _say_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"geomkit: warning: {' '.join(str(message).split())}", err=True)


def main() -> None:
    """Entry point of the console script."""
    warnings.showwarning = _say_warning
    logging.basicConfig(format="geomkit: %(message)s", level=logging.WARNING, stream=sys.stderr)
    sys.exit(run(app))
