"""Docstrings as the site shows them: roles become links, formulas and code become Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLES = re.compile(r":(func|class|meth|mod|data|attr|exc|obj):`~?([\w.\s]+)`")
MATHS = re.compile(r":math:`([^`]*)`")
BLOCKS = re.compile(r"\.\. math:: (.*?)(?=\n[ \t]*\n|\Z)", re.DOTALL)


class Roles(griffe.Extension):
    """Rewrite the docstring of every object once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        """Change one object's docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def shown(text: str) -> str:
    """A docstring's roles and formulas, as Markdown."""
    text = BLOCKS.sub(lambda m: f"$${_line(m[1])}$$", text)
    text = MATHS.sub(lambda m: f"${_line(m[1])}$", text)
    text = ROLES.sub(lambda m: _link(_line(m[2]).replace(" ", "")), text)
    return re.sub(r"::\n\n", ":\n\n", text)  # what follows is indented, and so is code


def _line(text: str) -> str:
    return " ".join(text.split())


def _link(name: str) -> str:
    last = name.rpartition(".")[2]
    return f'<autoref identifier="{name}" optional><code>{last}</code></autoref>'
