"""What the claims tests measured, as ``REPRODUCTION.md`` and as sections of papers' pages.

A record's name is ``paper: claim`` with the paper's name in the catalogue. It holds strings:
``paper``, the published number; ``ours`` and ``baseline``; ``settings``, ``note``, ``command``;
``holds``, ``"yes"`` or ``"no"`` where something was asserted; and ``minutes``, of its command.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_models.pages.tables import table

HEAD = """# Reproduction

What the claims tests measured, beside the papers' numbers: mean and standard deviation over the
seeds. Baselines were trained in the same run. Misses stay, with their causes. A number before a
claim is its place among the checks of its paper; papers' numbers marked * are recalled, not read.
Written by `pytest -m claims` from `reproduction.json`."""
VERDICTS = {"yes": "yes", "no": "**no**", "": "not judged"}


@dataclass(frozen=True)
class Claim:
    """One record; see the module.

    Attributes:
        claim: What was claimed.
        paper: The paper's number.
        ours: Ours.
        baseline: The baseline's, from the same run.
        holds: ``"yes"``, ``"no"``, or empty where nothing was asserted.
        note: What to know, of a miss its cause.
        settings: How it was measured.
        command: What measures it again.
        minutes: How long the command takes.
    """

    claim: str
    paper: str
    ours: str
    baseline: str
    holds: str
    note: str
    settings: str
    command: str
    minutes: float


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a ``reproduction.json``; none if there is no such file."""
    records: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return records


def claims(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Claim]]:
    """The records by paper, both in alphabetical order.

    Raises:
        ValueError: If a record's name is not of the form ``paper: claim``.
    """
    papers: dict[str, list[Claim]] = {}
    for name in sorted(records):
        paper, colon, claim = name.partition(": ")
        if not colon:
            raise ValueError(f"the record {name!r} is not of the form 'paper: claim'")
        entry = records[name]
        words = ("paper", "ours", "baseline", "holds", "note", "settings", "command")
        texts = {word: str(entry.get(word) or "") for word in words}
        papers.setdefault(paper, []).append(Claim(claim, **texts, minutes=entry["minutes"]))
    return papers


def page(records: Mapping[str, Mapping[str, Any]], docs: str = "docs/papers") -> str:
    """The whole page, as Markdown.

    Args:
        records: By ``paper: claim``.
        docs: Folder of the papers' pages, seen from this one.
    """
    papers = claims(records)
    parts = [HEAD, "## Papers", _summary(papers, docs), "## Misses", *_misses(papers)]
    for paper, found in papers.items():
        parts += [f"## {paper}", *section(found)]
    return "\n\n".join(parts) + "\n"


def section(found: Sequence[Claim]) -> list[str]:
    """Tables of one paper's claims: one for each group of the same settings and command.

    Args:
        found: Claims of the paper.
    """
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in found:
        groups.setdefault((claim.settings, claim.command), []).append(claim)
    parts = []
    for (settings, command), members in groups.items():
        notes = list(dict.fromkeys(c.note for c in members if c.note))
        rows = [
            (c.claim + _mark(c, notes), c.paper, c.ours, c.baseline, VERDICTS[c.holds])
            for c in members
        ]
        parts.append(table(("claim", "paper", "ours", "baseline", "holds"), rows))
        parts += [f"{place}. {note}" for place, note in enumerate(map(_sentence, notes), 1)]
        if settings:
            parts.append(f"Settings: {_sentence(settings, upper=False)}")
        parts.append(f"`{command}`, {members[0].minutes:g} minutes.")
    return parts


def _summary(papers: Mapping[str, Sequence[Claim]], docs: str) -> str:
    """A line per paper; a command that measured several claims is counted once."""
    rows = []
    for paper, found in papers.items():
        count = Counter(claim.holds for claim in found)
        minutes = sum({claim.command: claim.minutes for claim in found}.values())
        numbers = (len(found), count["yes"], count["no"], count[""])
        rows.append((f"[{paper}]({docs}/{paper}.md)", *map(str, numbers), f"{minutes:.0f}"))
    return table(("paper", "claims", "hold", "miss", "not judged", "minutes"), rows)


def _misses(papers: Mapping[str, Sequence[Claim]]) -> list[str]:
    parts = []
    for paper, found in papers.items():
        for claim in found:
            if claim.holds == "no":
                numbers = [f"ours {claim.ours}", f"baseline {claim.baseline}"]
                numbers += [f"paper {claim.paper}"] if claim.paper else []
                parts.append(
                    f"**{paper}**, {_sentence(claim.claim, upper=False)} "
                    f"{_sentence('; '.join(numbers))} {_sentence(claim.note)}".strip()
                )
    return parts or ["None."]


def _mark(claim: Claim, notes: Sequence[str]) -> str:
    return f" ({notes.index(claim.note) + 1})" if claim.note else ""


def _sentence(text: str, upper: bool = True) -> str:
    text = text.strip()
    start = text[:1].upper() if upper else text[:1]
    return f"{start}{text[1:]}{'' if text.endswith('.') or not text else '.'}"
