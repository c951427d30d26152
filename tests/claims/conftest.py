"""What claims tests measure goes to ``reproduction.json`` and the table in ``REPRODUCTION.md``.

Pictures that show a claim go to ``docs/images``, where the paper's docs page shows them.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS, TABLE = ROOT / "reproduction.json", ROOT / "REPRODUCTION.md"
COLUMNS = ("claim", "paper", "ours", "baseline", "holds", "note", "settings", "minutes", "command")
HEAD = """# Reproduction

What the claims tests measured, beside the papers' numbers: mean and standard deviation over the
seeds. Baselines were trained in the same run. Misses stay in the table. Written by
`pytest -m claims`, one row per claim; numbers of papers marked * are recalled, not read.

"""


@pytest.fixture
def record(request):
    """Call with a row; the test's own command is filled in, and its time unless given.

    What a fixture of the module trains ran before the test's clock: give its ``minutes``.
    """
    began = time.monotonic()

    def write(claim: str, **row) -> None:
        row.setdefault("minutes", round((time.monotonic() - began) / 60, 1))
        row["command"] = f"pytest -m claims {request.node.nodeid}"
        with RECORDS.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # claims of several papers may run at once
            file.seek(0)
            records = json.loads(file.read() or "{}")
            records[claim] = row
            file.seek(0)
            file.truncate()
            file.write(json.dumps(records, indent=1, sort_keys=True) + "\n")
            table(records)

    def table(records: dict[str, dict]) -> None:
        lines = [COLUMNS, ("---",) * len(COLUMNS)]
        for name in sorted(records):
            values = {"claim": name, **records[name]}
            cells = [str(values.get(column, "")) for column in COLUMNS]
            cells[-1] = f"`{cells[-1]}`"
            lines.append(tuple(cells))
        TABLE.write_text(HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")

    return write


@pytest.fixture
def picture():
    """Call with a matplotlib figure and a paper's name in the catalogue."""

    def save(figure, name: str) -> None:
        path = ROOT / "docs" / "images" / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})

    return save
