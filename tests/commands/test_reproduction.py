"""The pages of what was measured: every record once, its paper known, bars escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ppl_models.pages import describe
from ppl_models.pages.reproduction import (
    PAGE,
    PAPERS,
    RECORDS,
    claims_files,
    measured_here,
    minutes,
    of_paper,
    page,
    paper_table,
    read,
    split,
    verdict,
)
from ppl_models.pages.tables import table

ROOT = Path(__file__).parents[2]
REAL = read(ROOT / RECORDS)


def row(test: str = "a", **values) -> dict:
    return {
        "ours": "1 %", "baseline": "2 %", "settings": "small", "minutes": 3.0,
        "command": f"pytest -m claims tests/claims/test_m.py::test_{test}", **values,
    }  # fmt: skip


RECORDS_HERE = {
    "m2: 2, q(y|x) at 1,000": row(holds="yes", paper="3*"),
    "m2: 2, q(y|x) at 100": row(holds="no", note="too few * steps"),
    "m2: without a number": row("b", settings="large"),
    "vae: |z| is small": row("b", holds="no", note="too few * steps"),
}


def lines(text: str) -> list[list[str]]:
    """Cells of the lines of all tables of a page."""
    bare = text.replace(r"\|", "¦")
    return [
        [cell.strip() for cell in line[2:-2].split(" | ")]
        for line in bare.splitlines()
        if line.startswith("| ")
    ]


def test_bars_in_cells_are_escaped():
    text = table(("a", "b"), [("q(y|x)", "`|z|`")])
    assert text == "| a | b |\n| --- | --- |\n| q(y\\|x) | `\\|z\\|` |"


@pytest.mark.parametrize("text", [page(REAL), page(RECORDS_HERE)])
def test_every_line_of_a_table_has_as_many_cells(text):
    tables, last = [], ""
    for line in text.splitlines():
        if line.startswith("| "):
            if not last.startswith("| "):
                tables.append([])
            tables[-1].append(len(lines(line)[0]))
        last = line
    assert all(len(set(counts)) == 1 for counts in tables), tables
    assert tables[0][0] == 6
    assert {counts[0] for counts in tables[1:]} == {5}


@pytest.mark.parametrize("records", [REAL, RECORDS_HERE])
def test_every_record_stands_on_the_page_once(records):
    found = [cells for cells in lines(page(records)) if len(cells) == 5]
    heads = [cells for cells in found if cells[0] in ("claim", "---")]
    names = {split(key)[0] for key in records}
    assert len(heads) == 2 * len(names)
    assert len(found) - len(heads) == len(records)
    for key in records:
        name, claim = split(key)
        shown = re.sub(r"^\d+, ", "", claim).replace("|", "¦").replace("*", r"\*")
        own = [cells[0].partition(" <sup>")[0] for cells in lines(paper_table(name, records))]
        assert own.count(shown if claim[0].isdigit() else claim.replace("|", "¦")) == 1, claim


def test_names_are_those_of_the_catalogue():
    assert {split(key)[0] for key in REAL} <= set(PAPERS)
    with pytest.raises(ValueError, match="unknown paper 'm1-m2': did you mean 'm1m2'"):
        split("m1-m2: 1, a claim")
    with pytest.raises(ValueError, match="unknown paper"):
        page({"m1-m2: 1, a claim": row()})


def test_counts_of_each_paper():
    told = {cells[0]: cells[1:] for cells in lines(page(RECORDS_HERE)) if len(cells) == 6}
    assert told["[m2](docs/papers/m2.md)"] == ["3", "1", "1", "1", "6.0"]
    assert told["[vae](docs/papers/vae.md)"] == ["1", "0", "1", "0", "3.0"]
    assert told["all, each run once"] == ["4", "1", "2", "1", "6.0"]
    for key, record in REAL.items():
        assert verdict(record) in ("yes", "no", "not judged"), key


def test_minutes_of_a_run_count_once():
    assert minutes([row(), row(), row("b", minutes=0.1)]) == 3.1
    fixture = [row(fixture="fits"), row("b", fixture="fits")]
    assert minutes(fixture) == 3.0
    assert minutes([row(minutes=0.0)]) == 0.0
    assert minutes([row(minutes=0.0, fixture="fits")]) is None


def test_a_paper_is_told_with_settings_commands_and_remarks():
    text = paper_table("m2", RECORDS_HERE)
    assert [cells[0] for cells in lines(text)[2:]] == [
        "q(y¦x) at 100 <sup>a, 1</sup>", "q(y¦x) at 1,000 <sup>a</sup>",
        "without a number <sup>b</sup>",
    ]  # fmt: skip
    assert [cells[4] for cells in lines(text)[2:]] == ["**no**", "yes", "not judged"]
    assert r"| 3\* |" in text
    assert "\n1. too few \\* steps\n" in text
    assert "- a: small. `pytest -m claims tests/claims/test_m.py::test_a`, 3.0 minutes." in text
    assert "- b: large. `pytest -m claims tests/claims/test_m.py::test_b`, 3.0 minutes." in text
    assert of_paper("m1", RECORDS_HERE) == {}


def test_misses_are_told_with_their_cause():
    text = page(RECORDS_HERE)
    begin, end = text.index("## Misses"), text.index("## vae")
    assert begin < end
    misses = text[begin:end]
    assert "2 of 4 claims do not hold." in misses
    for words in ("[m2](#m2): q(y|x) at 100", "[vae](#vae): |z| is small"):
        assert misses.count(words) == 1
    assert misses.count(r"*Cause:* too few \* steps.") == 2
    assert "too few" not in text[end:]
    together = {f"{name}: c": row(holds="no", note="why") for name in ("m2", "vae")}
    assert page(together).count("*Cause of these 2:* why.") == 1


def test_papers_pages_tell_what_was_measured():
    told = "\n\n".join(measured_here("m2", RECORDS_HERE))
    assert "Of 3 claims: 1 held, 1 missed, 1 not judged." in told
    assert "too few" in told
    assert measured_here("m1", RECORDS_HERE) == []
    assert claims_files("m2", RECORDS_HERE) == ["tests/claims/test_m.py"]
    text = describe.page("m2", RECORDS_HERE)
    assert told in text
    assert "[tests/claims/test_m.py](../../tests/claims/test_m.py)" in text
    assert "## Measured here" not in describe.page("m2")
    for key in REAL:
        for file in claims_files(split(key)[0], REAL):
            assert (ROOT / file).is_file()


def test_the_committed_page_is_up_to_date():
    committed = (ROOT / PAGE).read_text()
    assert committed == page(REAL), "run: python -m ppl_models.pages.describe docs/"


def test_without_records_nothing_is_measured(tmp_path):
    assert read(tmp_path / RECORDS) == {}
    assert "## Measured here" not in describe.page("m2")
