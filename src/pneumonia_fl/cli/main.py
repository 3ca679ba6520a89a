"""`pneumonia-fl`: the entry point. A known error is one line on stderr and exit code 1."""

import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.cli.app import App
from pneumonia_fl.cli.commands.clean import clean
from pneumonia_fl.cli.commands.compare import compare
from pneumonia_fl.cli.commands.cross_site import cross_site
from pneumonia_fl.cli.commands.data import app as data_app
from pneumonia_fl.cli.commands.evaluate import evaluate
from pneumonia_fl.cli.commands.predict import predict
from pneumonia_fl.cli.commands.report import report
from pneumonia_fl.cli.commands.run import run
from pneumonia_fl.cli.commands.runs import runs, ui
from pneumonia_fl.cli.commands.sweep import sweep
from pneumonia_fl.cli.kit_commands.doctor import doctor
from pneumonia_fl.cli.kit_commands.init import init
from pneumonia_fl.cli.kit_commands.jobs import (
    abort,
    clone,
    delete,
    download,
    jobs,
    logs,
    resume,
    submit,
    watch,
)
from pneumonia_fl.cli.kit_commands.provision import authz, provision
from pneumonia_fl.cli.kit_commands.services import down, status, up
from pneumonia_fl.cli.views.terminal import echo, replace_what_a_terminal_lacks
from pneumonia_fl.config.environment import report_nothing
from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.files import keep_files_private

OUT_OF_MEMORY = "out of memory; end other programs, or give fewer --workers, then run again"

app = App(
    help=f"Federated learning of a chest X-ray pneumonia classifier on NVIDIA FLARE.\n\n{DISCLAIMER}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data_app, name="data")
app.command()(run)
app.command()(sweep)
app.command()(evaluate)
app.command()(cross_site)
app.command()(predict)
app.command()(compare)
app.command()(report)
app.command()(runs)
app.command()(ui)
app.command()(clean)
app.command()(init)
app.command()(provision)
app.command()(authz)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(doctor)
app.command()(submit)
app.command()(jobs)
app.command()(watch)
app.command()(logs)
app.command()(abort)
app.command()(download)
app.command()(clone)
app.command()(resume)
app.command()(delete)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    """Set the options that come before the command."""
    if version:
        echo(f"pneumonia-fl {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; never returns normally."""
    keep_files_private()
    replace_what_a_terminal_lacks()
    report_nothing()
    signal.signal(signal.SIGTERM, _interrupt)
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except (PneumoniaFLError, OSError) as error:  # OSError: a full disk, a missing right; it names the file
        echo(traceback.format_exc() if debug else f"error: {_said(error)}", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except MemoryError:
        echo(traceback.format_exc() if debug else f"error: {OUT_OF_MEMORY}", err=True)
        sys.exit(1)
    except Exception:  # Python itself would print what it quotes as it is, escape sequences included
        echo(traceback.format_exc(), err=True)
        sys.exit(1)


def _said(error: Exception) -> str:
    """Return an error as a sentence; the operating system's own begin with a number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    advice = "; its owner can change that with chmod" if isinstance(error, PermissionError) else ""
    return f"{error.filename or 'the operating system'}: {error.strerror}{advice}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C, so that the processes of a run end with it."""
    raise KeyboardInterrupt


def run_job() -> None:
    """Run `pneumonia-fl run` as `python jobs/job.py`, the name that NVFlare users know."""
    sys.argv.insert(1, "run")
    main()
