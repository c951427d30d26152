"""The entries of the site's navigation that are lists of files, as they lie in their folders."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
GROUPS = {"semisupervised": "Semi-supervised", "bio": "Cells and genes"}  # others by their name
FIRST = ("index", "m2_on_digits", "own_pair", "cells", "when_not_to_trust")  # of the tutorials


@event_priority(-100)  # once all pages are there
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put lists of pages where ``nav`` names a folder, such as ``Papers: papers/``."""
    uris = [file.src_uri for file in files if file.is_documentation_page()]
    config.nav = _filled(config.nav, uris)
    return files


def _filled(entry: Any, uris: list[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _filled(inner, uris) for title, inner in entry.items()}
    if isinstance(entry, list):
        inner = (_filled(one, uris) for one in entry)
        return [
            one for part in inner for one in (part if isinstance(part, list) else [part]) if one
        ]
    if not (isinstance(entry, str) and entry.endswith("/")):
        return entry
    inside = [uri for uri in uris if uri.startswith(entry)]
    if entry == "papers/":
        return _papers(inside)
    return sorted(inside, key=lambda uri: _order(uri.removeprefix(entry).split(".")[0]))


def _order(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def _papers(uris: list[str]) -> list[Any]:
    """The index, and the papers by the folder that they are written in."""
    groups: dict[str, list[str]] = {}
    for name, home in _catalogue().items():
        if (uri := f"papers/{name}.md") in uris:
            folder = home.split(".")[1]
            groups.setdefault(GROUPS.get(folder, folder.capitalize()), []).append(uri)
    listed = {uri for group in groups.values() for uri in group} | {"papers/index.md"}
    groups["Metrics"] = sorted(set(uris) - listed)
    return ["papers/index.md", *({title: sorted(group)} for title, group in groups.items())]


def _catalogue() -> dict[str, str]:
    tree = ast.parse((ROOT / "ppl_models" / "catalogue.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PAPERS":
            found: dict[str, str] = ast.literal_eval(node.value or ast.Dict([], []))
            return found
    raise ValueError("the catalogue has no PAPERS")
