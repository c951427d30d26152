"""The index of papers and data sets: what lists show, without importing any of them.

It stands beside this module as ``index.json``, which ``python -m ppl_models.pages.describe docs/``
writes; a test holds it equal to cards and loaders.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Index = dict[str, dict[str, dict[str, Any]]]

INDEX = Path(__file__).with_suffix(".json")
OF_CARD = ("title", "authors", "year", "arxiv", "task")
# Families of data sets, by the room of their loader.
ROOMS = {"readers": "read from files", "render": "drawn or simulated"}


def read() -> Index:
    """The index as it was last written.

    Returns:
        Under ``papers``, by name, some entries of the card and ``family``, the paper's folder;
        under ``data``, by name, ``family``, a value of :data:`ROOMS`, and ``about``, a line;
        under ``claims``, by name of a paper, metrics included, how many ``held``, ``missed`` or
        were ``not judged``.
    """
    found: Index = json.loads(INDEX.read_text("utf-8"))
    return found


def made(records: Mapping[str, Mapping[str, Any]]) -> Index:
    """The index as cards and loaders are now, which imports all of them.

    Args:
        records: Of ``reproduction.json``, see :mod:`ppl_models.pages.reproduction`.
    """
    from ppl_models import catalogue
    from ppl_models.data import catalogue as sets
    from ppl_models.pages import reproduction

    papers = {}
    for name, place in sorted(catalogue.PAPERS.items()):
        card = catalogue.get(name).card
        told = {entry: getattr(card, entry) for entry in OF_CARD}
        papers[name] = {**told, "family": place.split(".")[1]}
    data = {
        name: {"family": ROOMS[place.split(".")[2]], "about": about(sets.loader(name))}
        for name, place in sorted(sets.LOADERS.items())
    }
    measured = {name: reproduction.of_paper(name, records) for name in reproduction.PAPERS}
    claims = {name: reproduction.counted(own) for name, own in measured.items() if own}
    return {"papers": papers, "data": data, "claims": claims}


def about(loader: object) -> str:
    """The first paragraph of a loader's docstring, in one line."""
    return prose((inspect.getdoc(loader) or "").partition("\n\n")[0])


def prose(paragraph: str) -> str:
    """A paragraph of a docstring in one line, without marks of code and references."""
    return " ".join(re.sub(r":\w+:`([^`]+)`|``", r"\1", paragraph).split())


def text(index: Index) -> str:
    """The index as its file holds it."""
    return json.dumps(index, indent=1, ensure_ascii=False) + "\n"
