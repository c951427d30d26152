"""What the claims tests measured, as ``REPRODUCTION.md`` and as a part of each paper's page.

The records stand in ``reproduction.json`` beside the docs' folder. A record's key is the
paper's name, in the catalogue or among the metrics, and the claim, ``m2: 1, error below ...``; the
number, if there is one, orders the claims and is not shown. Its values are words:

    paper, ours, baseline    numbers, with their units
    holds                    "yes", "no", or nothing where nobody judged
    note                     the cause of a miss, or a remark
    settings, command        how it was measured
    minutes                  of the test, or of the ``fixture`` of the test's module, if that is
                             named: then all rows of the module with this fixture are one run
    figure, shows            a picture in ``docs/images``, by its stem, and what it shows
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ppl_models import catalogue
from ppl_models.config import unknown
from ppl_models.pages.metric_papers import METRIC_PAPERS
from ppl_models.pages.tables import picture, plain, table

PAPERS = (*catalogue.PAPERS, *METRIC_PAPERS)
RECORDS, PAGE = "reproduction.json", "REPRODUCTION.md"
COLUMNS = ("claim", "paper", "ours", "baseline", "holds")
NOT_JUDGED = "not judged"
MISSES = "#misses"

Record = Mapping[str, Any]
Records = Mapping[str, Record]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records in a file; none if there is no such file."""
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def split(key: str) -> tuple[str, str]:
    """Name of the paper and claim of a record's key.

    Raises:
        ValueError: If the key does not begin with a paper of the catalogue or of the metrics.
    """
    name, _, claim = key.partition(": ")
    if name not in PAPERS:
        raise ValueError(unknown("paper", name, PAPERS))
    return name, claim


def of_paper(name: str, records: Records) -> dict[str, Record]:
    """The records of a paper by claim, in the order in which they are shown."""
    split_keys = {key: split(key) for key in records}
    found = {claim: records[key] for key, (paper, claim) in split_keys.items() if paper == name}
    return dict(sorted(found.items(), key=lambda item: _in_order(item[0])))


def verdict(record: Record) -> str:
    """``yes``, ``no`` or ``not judged``."""
    return record.get("holds") or NOT_JUDGED


def minutes(records: Iterable[Record]) -> float | None:
    """Minutes of all runs behind some records, each run once; None if none was timed.

    Rows of one test, or of one fixture of a module, are one run. A fixture that took no time
    was not timed: an older test told the time after its training.
    """
    runs = {_run(record): record for record in records}
    timed = [r["minutes"] for r in runs.values() if r["minutes"] or not r.get("fixture")]
    return round(sum(timed), 1) if timed else None


def paper_table(name: str, records: Records, *, misses: str = "") -> str:
    """A paper's claims as a table; below it remarks, settings and commands.

    Args:
        name: Name in the catalogue.
        records: All records.
        misses: Where the causes of misses stand, as an address; here as remarks if empty.
    """
    own = of_paper(name, records)
    groups = list(dict.fromkeys(map(_group, own.values())))
    remarks: list[str] = []
    rows = []
    for claim, record in own.items():
        holds = verdict(record)
        marks = [_letter(groups.index(_group(record)))] if len(groups) > 1 else []
        note = record.get("note", "")
        if holds == "no":
            holds = f"[**no**]({misses})" if misses else "**no**"
        if note and not (verdict(record) == "no" and misses):
            if note not in remarks:
                remarks.append(note)
            marks.append(str(remarks.index(note) + 1))
        told = (plain(record.get(column, "")) for column in ("paper", "ours", "baseline"))
        rows.append((_marked(_shown(claim), marks), *told, holds))
    parts = [table(COLUMNS, rows)]
    if remarks:
        parts.append("\n".join(f"{place}. {plain(note)}" for place, note in enumerate(remarks, 1)))
    return "\n\n".join([*parts, _how(own, groups)])


def page(records: Records) -> str:
    """``REPRODUCTION.md``: a line per paper, the misses and their causes, all claims."""
    named = {name: of_paper(name, records) for name in PAPERS}
    measured = {name: own for name, own in named.items() if own}
    parts = [
        "# Reproduction",
        "What the claims tests measured, beside the papers' own numbers: mean and standard "
        "deviation over the seeds. Baselines were trained in the same run. Numbers of papers "
        r"marked \* are recalled, not read. A claim that does not hold stays here, as a miss.",
        _summary(measured, records),
        "Minutes are those of whole tests. One that measures several papers counts in the line of "
        "each and once in the last; *not timed* is one whose training ran before its clock.",
        _unmeasured(name for name in named if name not in measured),
        "## Misses",
        *_misses(measured),
    ]
    for name in measured:
        card = METRIC_PAPERS.get(name) or catalogue.get(name).card
        parts += [
            f"## {name}",
            f"*{card.title}* ({card.year}): [its page]({_docs(name)}).",
            paper_table(name, records, misses=MISSES),
        ]
    parts.append(
        "Written by `pytest -m claims` and, with the papers' pages, by "
        f"`python -m ppl_models.pages.describe docs/` from `{RECORDS}`."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def measured_here(name: str, records: Records) -> list[str]:
    """The part of a paper's page of the docs that tells what was measured; empty without."""
    own = of_paper(name, records)
    if not own:
        return []
    told = ", ".join(f"{count} {kind}" for kind, count in counted(own).items())
    return [
        "## Measured here",
        f"Of {len(own)} claims: {told}. Mean and standard deviation over the seeds; numbers of "
        rf"the paper marked \* are recalled, not read. All papers: [{PAGE}](../../{PAGE}).",
        paper_table(name, records),
        *(part for figure, shows in figures(own).items() for part in picture(figure, shows)),
    ]


def figures(records: Records) -> dict[str, str]:
    """What each picture of what was measured shows, by its stem in ``docs/images``."""
    return {r["figure"]: r.get("shows", "") for r in records.values() if "figure" in r}


def counted(records: Records) -> dict[str, int]:
    """How many claims ``held``, ``missed`` or were ``not judged``, of kinds that there are."""
    words = {"yes": "held", "no": "missed"}
    return {words.get(kind, kind): count for kind, count in _counts(records).items() if count}


def claims_files(name: str, records: Records) -> list[str]:
    """The test files that measured a paper's claims, from the root of the checkout."""
    places = (_test(record) for record in of_paper(name, records).values())
    return list(dict.fromkeys(place.partition("::")[0] for place in places))


def _test(record: Record) -> str:
    test: str = record["command"].split()[-1]
    return test


def _run(record: Record) -> tuple[str, str]:
    test, fixture = _test(record), record.get("fixture", "")
    return (test.partition("::")[0], fixture) if fixture else (test, "")


def _group(record: Record) -> tuple[tuple[str, str], str]:
    return _run(record), record.get("settings", "")


def _in_order(claim: str) -> list[tuple[float, str]]:
    """A key that sorts 100 before 1,000, and numbers before words."""
    parts = re.findall(r"\d+|\D+", re.sub(r"(?<=\d),(?=\d{3})", "", claim))
    return [(int(part), "") if part.isdigit() else (math.inf, part) for part in parts]


def _counts(records: Records) -> dict[str, int]:
    verdicts = [verdict(record) for record in records.values()]
    return {kind: verdicts.count(kind) for kind in ("yes", "no", NOT_JUDGED)}


def _summary(measured: Mapping[str, Records], records: Records) -> str:
    rows = [
        (f"[{name}]({_docs(name)})", *_line(own), _told(minutes(own.values())))
        for name, own in measured.items()
    ]
    rows.append(("all, each run once", *_line(records), _told(minutes(records.values()))))
    return table(("paper", "claims", "hold", "miss", NOT_JUDGED, "minutes"), rows)


def _line(records: Records) -> tuple[str, ...]:
    counts = _counts(records)
    return (str(len(records)), *(str(count) for count in counts.values()))


def _unmeasured(names: Iterable[str]) -> str:
    told = ", ".join(f"[{name}]({_docs(name)})" for name in names)
    return f"No claim of its own: {told}." if told else ""


def _misses(measured: Mapping[str, Records]) -> list[str]:
    """A paragraph per miss; those of one test with one cause stand together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, own in measured.items():
        for claim, record in own.items():
            if verdict(record) == "no":
                cause = record.get("note") or "not known"
                groups.setdefault((record["command"], cause), []).append(
                    f"**[{name}](#{name}): {plain(_shown(claim))}.** {_came_out(record)}"
                )
    count = sum(map(len, groups.values()))
    parts = [f"{count} of {sum(map(len, measured.values()))} claims do not hold."]
    for (_, cause), told in groups.items():
        if len(told) == 1:
            parts.append(f"{told[0]} *Cause:* {plain(cause)}.")
        else:
            lines = "\n".join(f"- {line}" for line in told)
            parts += [lines, f"*Cause of these {len(told)}:* {plain(cause)}."]
    return parts


def _came_out(record: Record) -> str:
    parts = [f"Ours {plain(record['ours'])}"]
    if record.get("baseline"):
        parts.append(f"baseline: {plain(record['baseline'])}")
    paper = record.get("paper")
    parts.append(f"the paper: {plain(paper)}" if paper else "the paper gives no number")
    return "; ".join(parts) + "."


def _how(own: Records, groups: list[tuple[tuple[str, str], str]]) -> str:
    """Settings and commands of each group of rows, and the minutes of each run once."""
    seen: dict[tuple[str, str], str] = {}
    lines = []
    for place, group in enumerate(groups):
        run, settings = group
        rows = [record for record in own.values() if _group(record) == group]
        tests = " ".join(dict.fromkeys(_test(record) for record in rows))
        time = f"in the run of {seen[run]}" if run in seen else _took(minutes(rows))
        seen.setdefault(run, _letter(place))
        told = f"{plain(settings)}. `pytest -m claims {tests}`, {time}."
        lines.append(f"- {_letter(place)}: {told}" if len(groups) > 1 else f"Settings: {told}")
    return "\n".join(lines)


def _told(count: float | None) -> str:
    return "not timed" if count is None else f"{count:.1f}"


def _took(count: float | None) -> str:
    if count == 0:
        return "some seconds"
    return "not timed" if count is None else f"{count:.1f} minutes"


def _shown(claim: str) -> str:
    return re.sub(r"^\d+, ", "", claim)


def _marked(claim: str, marks: list[str]) -> str:
    return plain(claim) + (f" <sup>{', '.join(marks)}</sup>" if marks else "")


def _letter(place: int) -> str:
    return chr(ord("a") + place)


def _docs(name: str) -> str:
    return f"docs/papers/{name}.md"
