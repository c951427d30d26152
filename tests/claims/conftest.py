"""What claims tests measure goes to ``reproduction.json`` and from there to ``REPRODUCTION.md``.

The papers' pages show it too, once ``python -m ppl_models.pages.describe docs/`` has been run.
Pictures that show a claim go to ``docs/images``, where the paper's docs page shows them.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

import pytest
from claims.measuring import SAVED

from ppl_models.pages import reproduction

ROOT = Path(__file__).parents[2]
RECORDS, PAGE = ROOT / reproduction.RECORDS, ROOT / reproduction.PAGE


@pytest.fixture
def record(request):
    """Call with ``paper: claim`` and a row; see :mod:`ppl_models.pages.reproduction`.

    The paper is named as in the catalogue. The test's own command is filled in, and its time
    unless given. What a fixture of the module trains ran before the test's clock: name the
    ``fixture`` and give its ``minutes``.
    """
    began, earlier = time.monotonic(), len(SAVED)

    def write(claim: str, **row) -> None:
        seconds = time.monotonic() - began + sum(list(SAVED.values())[earlier:])
        row.setdefault("minutes", round(seconds / 60, 1))
        row["command"] = f"pytest -m claims {request.node.nodeid}"
        with RECORDS.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # claims of several papers may run at once
            file.seek(0)
            records = json.loads(file.read() or "{}")
            records[claim] = row
            text = reproduction.page(records)  # before anything is written: it refuses bad names
            file.seek(0)
            file.truncate()
            file.write(json.dumps(records, indent=1, sort_keys=True) + "\n")
            PAGE.write_text(text)

    return write


@pytest.fixture
def picture():
    """Call with a matplotlib figure and a paper's name in the catalogue."""

    def save(figure, name: str) -> None:
        path = ROOT / "docs" / "images" / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})

    return save
