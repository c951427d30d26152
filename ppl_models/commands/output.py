"""What commands print when they are done."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters, marks that turn the direction of writing, and halves of characters.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\ud800-\udfff\ufffe\uffff]"
)


def shown(text: object) -> str:
    """A text as a terminal may show it: what would act on the terminal is written as its code.

    Line ends and tabs stay. All that commands print, and what files say in it, passes here.
    """
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def say(text: object = "", end: str = "\n") -> None:
    """Print for people."""
    print(shown(text), end=end)


def say_json(value: Any) -> None:
    """Print for machines; JSON writes what is not ASCII by its code."""
    print(json.dumps(value, default=str).replace("\x7f", "\\u007f"))


def tell(report: dict[str, Any], as_json: bool) -> None:
    """Print what came out, for people or for machines.

    Args:
        report: Values by their names; shares of errors are shown in per cent.
        as_json: Whether it is for machines.
    """
    if as_json:
        say_json(report)
        return
    for name, value in report.items():
        share = isinstance(value, float) and "error" in name
        say(f"{name:28} {f'{100 * value:.2f} %' if share else value}")
