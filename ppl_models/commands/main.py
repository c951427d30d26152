"""The command line: ``ppl-models COMMAND``; without one it lists them.

Exit codes: 0 done; 1 it failed on the way; 2 the command, data or folder do not fit, and nothing
was done; 3 ``check``: the posterior is not to be trusted; 130 interrupted, and resumable.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module

from ppl_models.commands.flags import Parser, UsageError
from ppl_models.commands.output import logged, say, shown
from ppl_models.config import unknown
from ppl_models.version import __version__

# Name -> what it does, and the function that adds its flags and returns what it runs. A command
# is imported when it is asked for, so that the help stays fast.
COMMANDS = {
    "list": ("papers in the zoo", "papers:list_papers"),
    "show": ("a paper's story, settings and training", "papers:show"),
    "fit": ("train a pair and write its posterior", "fit:fit"),
    "predict": ("predict labels of rows, into a table or an h5ad file", "predict:predict"),
    "export": ("write the posterior of a run again", "posterior:export"),
    "check": ("say whether a run's posterior can be trusted", "posterior:check"),
    "metrics": ("measure a run's codes, by the metrics of disentanglement", "metrics:metrics"),
    "report": ("write a page that shows a run and its posterior", "report:report"),
    "compare": ("compare posteriors of the same rows", "report:compare"),
    "intervene": ("draw rows as they would be had sites had other values", "intervene:intervene"),
    "counterfactual": (
        "draw rows as they would have been, by their own noise, had sites had other values",
        "intervene:counterfactual",
    ),
    "transfer": ("draw rows with sites of other rows", "intervene:transfer"),
    "data": ("data sets: list, show, build or preview them", "data:command"),
}

# Where this variable of the environment is set, errors show where they arose.
TRACEBACK = "PPL_MODELS_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Warnings of libraries underneath are not the user's to act on.
    warnings.simplefilter("ignore")
    for ours in ("training is not compiled", "validation loss", "site .* read as missing"):
        warnings.filterwarnings("default", ours)
    warnings.formatwarning = lambda message, *_, **__: f"ppl-models: {shown(message)}\n"
    logging.getLogger().setLevel(logging.ERROR)
    try:
        command, options = _command(arguments)
        with logged(options.verbose):
            code = command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return _say(f"{stop or 'interrupted'}; add --resume to go on from there", 130, once=True)
    except Exception as problem:  # whatever it is, it is told in one line
        return _failed(problem)


def _failed(problem: Exception) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(problem)
    if isinstance(problem, ValueError | FileNotFoundError):
        return _say(f"error: {problem}", 2, once=isinstance(problem, UsageError))
    if isinstance(problem, MemoryError):
        return _say(f"error: out of memory ({problem})", 1)
    if isinstance(problem, ArithmeticError | OSError | RuntimeError):
        return _say(f"error: {str(problem) or type(problem).__name__}", 1)
    kind = type(problem).__name__
    return _say(f"error: {kind}: {problem}; {TRACEBACK}=1 shows where it arose", 1)


def _say(line: str, code: int, once: bool = False) -> int:
    # Under torchrun: what is the same in all processes is said by the first alone.
    if not once or os.environ.get("RANK", "0") == "0":
        print(f"ppl-models: {shown(' '.join(line.split()))}", file=sys.stderr)
    return code


def _command(arguments: list[str]) -> tuple[Callable[[Namespace], int], Namespace]:
    """What to run, and its options."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _help()
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        say(f"ppl-models {__version__}")
        sys.exit(0)
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    text, place = COMMANDS[name]
    parser = Parser(prog=f"ppl-models {name}", description=text)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--verbose", action="store_true", help="say what is being done meanwhile")
    module, _, function = place.partition(":")
    command = getattr(import_module(f"ppl_models.commands.{module}"), function)(parser, rest)
    return command, parser.parse_all(rest)


def _help() -> None:
    parser = Parser(prog="ppl-models", description="A zoo of deep generative models on Pyro.")
    parser.add_argument("--version", action="store_true", help="say the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (text, _) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    parser.print_help()


if __name__ == "__main__":
    sys.exit(main())
