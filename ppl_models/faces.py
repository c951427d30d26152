"""Faces of packages: public names that are imported when they are first asked for.

A face lists its names twice, for Python as name -> module and for type checkers as imports; a
test keeps both equal. ``import ppl_models.inference.objectives.schedule`` so costs that module
alone, and the command line's help needs neither torch nor ArviZ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package's ``__init__.py``.

    Args:
        package: Its ``__name__``.
        homes: Public name -> module within the package, ``"objectives.elbo"``; empty for a
            package within it.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not homes[name]:
            return import_module(f"{package}.{name}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find, lambda: sorted(homes)
