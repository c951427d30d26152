"""What commands print when they are done."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

from ppl_models.printable import printable


def shown(text: object) -> str:
    """A text as a terminal may show it: what would act on the terminal is written as its code.

    Line ends and tabs stay. All that commands print, and what files say in it, passes here.
    """
    return printable(str(text), "\n\t")


def say(text: object = "", end: str = "\n") -> None:
    """Print for people."""
    print(shown(text), end=end)


def say_json(value: Any) -> None:
    """Print for machines; JSON writes what is not ASCII by its code."""
    print(json.dumps(value, default=str).replace("\x7f", "\\u007f"))


class _Lines(logging.Handler):
    """Lines of the log for people, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"ppl-models: {shown(record.getMessage())}", file=sys.stderr)


@contextlib.contextmanager
def logged(verbose: bool) -> Iterator[None]:
    """Show meanwhile what the library tells of its work, if that is asked for."""
    log, lines = logging.getLogger("ppl_models"), _Lines(logging.INFO)
    if not verbose:
        yield
        return
    before = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(before)


def tell(report: dict[str, Any], as_json: bool) -> None:
    """Print what came out, for people or for machines.

    Args:
        report: Values by their names; shares of errors are shown in per cent, lists line by
            line.
        as_json: Whether it is for machines.
    """
    if as_json:
        say_json(report)
        return
    for name, value in report.items():
        share = isinstance(value, float) and "error" in name
        for line in value if isinstance(value, list) else [value]:
            say(f"{name:28} {f'{100 * line:.2f} %' if share else rounded(line)}")


def rounded(value: Any) -> Any:
    """A number as people read it: six digits; machines get all of them."""
    return f"{value:.6g}" if isinstance(value, float) else value
