"""A name with options, as text of the command line: ``sgd(momentum=0.9)``."""

from __future__ import annotations

import ast
from typing import Any


def called(what: str, text: str) -> tuple[str, dict[str, Any]]:
    """Read a name with options; the text is read as a syntax tree, and never evaluated.

    Args:
        what: What it is, for errors.
        text: ``name`` or ``name(option=value, ...)``, values being plain.

    Returns:
        The name, in small letters, and the options.

    Raises:
        ValueError: If it has another form, or an option twice.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        pairs = [(str(word.arg), ast.literal_eval(word.value)) for word in call.keywords]
        if any(word.arg is None for word in call.keywords):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(
            f"{what} {text!r} is not of the form name or name(option=value, ...)"
        ) from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError(f"{what} {text!r} has an option twice")
    return call.func.id.lower(), options
