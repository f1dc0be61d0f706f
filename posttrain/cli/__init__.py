"""The command line. One module per command, imported only when that command is called.

Every way out goes through `main`: mistakes in the input are printed all at once and end with 2,
errors of a run with their own code, Ctrl-C with 130, and a bug of ours with one line that says
where the traceback lies.

May import: all of posttrain, heavy parts inside the function that needs them; typer, rich.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.errors import InputError, PosttrainError, Problem

STARTED = time.perf_counter()

COMMANDS = (
    "run",
    "check",
    "plan",
    "resume",
    "submit",
    "status",
    "report",
    "chat",
    "new",
    "show",
    "reward",
    "eval",
    "clean",
    "doctor",
    "explain",
    "schema",
)
HIDDEN = ("schema",)

HELP = """\
posttrain: from a base language model to a finished one, as one graph of stages

  posttrain run quickstart    a small model, trained from nothing, in minutes
  posttrain check mine.yaml   all mistakes of a file at once; starts nothing
  posttrain status            how far the newest run is, and what it has found
  posttrain resume            go on after a stop or a crash; redoes nothing
  posttrain report            what was gained, what it cost, which model to take
  posttrain chat              ask the finished model something

more   plan, submit, new, show, reward, eval, clean, doctor, explain
help   posttrain COMMAND -h, in any position; --traceback says where it broke
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 bad input, 3 gate, 130 Ctrl-C."""
    # Imports make many objects that stay: looking through them for garbage is a sixth of the start.
    gc.set_threshold(50_000, 20, 20)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--traceback" in arguments:
        arguments.remove("--traceback")
        os.environ["POSTTRAIN_TRACEBACK"] = "1"
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of `posttrain ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PosttrainError as error:
        return _report(error, as_json="--json" in arguments)
    except Exception as error:  # boundary: whatever is left is a bug of ours
        return _report_bug(error)


def _dispatch(arguments: list[str]) -> int:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    wants_help = any(each in ("-h", "--help") for each in before)
    words = [each for each in before if not each.startswith("-")]
    if words[:1] == ["help"]:
        words, wants_help = words[1:], True
    if "--version" in arguments and not words:
        from importlib.metadata import version

        print(f"posttrain {version('posttrain')}")
        return 0
    if not words:
        unknown = [each for each in arguments if each not in ("-h", "--help")]
        if unknown:
            raise InputError(Problem("usage", f"no option `{unknown[0]}`", help="posttrain -h"))
        print(HELP, end="")
        return 0
    command = words[0]
    if command not in COMMANDS:
        raise InputError(_unknown_command(command))
    if wants_help:
        return _call(command, ["--help"])
    at = arguments.index(command)
    return _call(command, arguments[:at] + arguments[at + 1 :])


def _unknown_command(command: str) -> Problem:
    from posttrain.config.suggest import closest

    known = [name for name in COMMANDS if name not in HIDDEN]
    near = closest(command, known)
    help = f"did you mean `posttrain {near}`?" if near else f"commands: {', '.join(known)}"
    if command.endswith((".yaml", ".yml")):
        help = f"did you mean `posttrain run {command}`?"
    return Problem("usage", f"no command `{command}`", help=help)


def _call(command: str, arguments: list[str]) -> int:
    """Parse the command's own arguments and call it."""
    import typer

    function: Callable[..., int | None] = getattr(
        importlib.import_module(f"posttrain.cli.{command}"), command
    )
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(function)
    name = f"posttrain {command}"
    try:
        result = app(args=arguments, prog_name=name, standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
        raise InputError(Problem("usage", message, help=f"{name} -h")) from error
    return result if isinstance(result, int) else 0


def _report(error: PosttrainError, as_json: bool) -> int:
    from posttrain.cli.output import print_json_lines, print_problems

    problems = error.problems if isinstance(error, InputError) else [error.problem()]
    if not error.is_shown or as_json:
        print_problems(problems)
    if as_json:
        print_json_lines(problems)
    if os.environ.get("POSTTRAIN_TRACEBACK") == "1":
        _print_traceback(error)
    return error.exit_code


def _report_bug(error: Exception) -> int:
    from posttrain.cli.output import print_problems

    shows = os.environ.get("POSTTRAIN_TRACEBACK") == "1"
    log = None if shows else _write_log(error)
    help = f"this is a bug of posttrain; the traceback is in {log}" if log else ""
    if not shows and not log:
        help = "this is a bug of posttrain; once more with --traceback shows where"
    first_line = str(error).strip().partition("\n")[0]
    print_problems([Problem("internal", f"{type(error).__name__}: {first_line}", help=help)])
    if shows:
        _print_traceback(error)
    return 1


def _write_log(error: Exception) -> Path | None:
    """The traceback in runs/error.log, if this folder has runs: nothing is left anywhere else."""
    import traceback

    log = Path("runs") / "error.log"
    try:
        if not log.parent.is_dir():
            return None
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return None
    return log


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)
