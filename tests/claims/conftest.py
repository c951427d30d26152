"""What claims tests measure goes to ``reproduction.json`` and the table in ``REPRODUCTION.md``."""

from __future__ import annotations

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
    """Call with a row; the test's own command and time are filled in."""
    began = time.monotonic()

    def write(claim: str, **row) -> None:
        records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
        node = request.node.nodeid
        row["minutes"] = round((time.monotonic() - began) / 60, 1)
        row["command"] = f"pytest -m claims {node}"
        records[claim] = row
        RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
        lines = [COLUMNS, ("---",) * len(COLUMNS)]
        for name in sorted(records):
            values = {"claim": name, **records[name]}
            cells = [str(values.get(column, "")) for column in COLUMNS]
            cells[-1] = f"`{cells[-1]}`"
            lines.append(tuple(cells))
        TABLE.write_text(HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")

    return write
