"""Records of claims as pages: nothing is left out, counted twice or broken by a bar."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ppl_models import catalogue
from ppl_models.pages import reproduction
from ppl_models.pages.tables import table

ROOT = Path(__file__).parents[2]
ROW = {
    "paper": "0.9*",
    "ours": "0.8 (0.1)",
    "baseline": "0.7",
    "settings": "4 rows",
    "command": "pytest -m claims tests/claims/test_a.py::test_a",
    "minutes": 2.0,
}
RECORDS = {
    "m2: 1, q(y|x) is right": {**ROW, "holds": "yes"},
    "m2: 2, |error| falls": {**ROW, "holds": "no", "note": "too few passes"},
    "m2: 3, seen only": ROW,
    "vae: 1, bound": {**ROW, "holds": "no", "command": "pytest -m claims b", "minutes": 0.6},
}


def cells(line: str) -> list[str]:
    """The cells of a row as a renderer of Markdown splits them."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_bars_and_line_breaks_stay_inside_their_cells():
    lines = table(("a", "b"), [("q(y|x)", "|r| of\ntwo lines")]).splitlines()
    assert [cells(line) for line in lines] == [
        ["a", "b"],
        ["---", "---"],
        [r"q(y\|x)", r"\|r\| of two lines"],
    ]


def test_papers_are_counted_and_a_command_of_several_claims_once():
    text = reproduction.page(RECORDS)
    rows = [cells(line) for line in text.splitlines() if line.startswith("| [")]
    assert rows == [
        ["[m2](docs/papers/m2.md)", "3", "1", "1", "1", "2"],
        ["[vae](docs/papers/vae.md)", "1", "0", "1", "0", "1"],
    ]


def test_misses_come_first_with_their_causes():
    text = reproduction.page(RECORDS)
    misses = text[text.index("## Misses") : text.index("## m2")]
    assert "**m2**, 2, |error| falls. Ours 0.8 (0.1); baseline 0.7; paper 0.9*. Too few" in misses
    assert "**vae**, 1, bound. " in misses
    assert "q(y|x)" not in misses


def test_settings_and_command_stand_once_below_their_claims():
    (claims,) = (found for paper, found in reproduction.claims(RECORDS).items() if paper == "m2")
    text = "\n\n".join(reproduction.section(claims))
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert all(len(row) == 5 for row in rows) and len(rows) == 2 + 3
    assert [row[0] for row in rows[2:]] == [r"1, q(y\|x) is right", r"2, \|error\| falls (1)",
                                            "3, seen only"]  # fmt: skip
    assert [row[-1] for row in rows[2:]] == ["yes", "**no**", "not judged"]
    assert text.count("Settings: 4 rows.") == text.count(ROW["command"]) == 1
    assert "1. Too few passes." in text


def test_a_record_must_name_its_paper():
    with pytest.raises(ValueError, match=r"'m2 beats' is not of the form 'paper: claim'"):
        reproduction.page({"m2 beats": ROW})


def test_every_record_stands_on_the_page_once_under_a_name_of_the_catalogue():
    records = reproduction.read(ROOT / "reproduction.json")
    papers = reproduction.claims(records)
    assert set(papers) <= set(catalogue.PAPERS)
    assert sum(map(len, papers.values())) == len(records)
    lines = (ROOT / "REPRODUCTION.md").read_text().splitlines()
    tables = [cells(line) for line in lines if line.startswith("| ")]
    five = [row for row in tables if len(row) == 5 and row[0] not in ("claim", "---")]
    assert len(five) == len(records)
    told = [row[0] for row in tables if len(row) not in (5, 6)]
    assert told == []  # a bar that was not escaped would make more cells


def test_without_a_file_there_are_no_records(tmp_path):
    assert reproduction.read(tmp_path / "reproduction.json") == {}
