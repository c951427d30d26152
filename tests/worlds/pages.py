"""Pages of the docs whose Python is run, block after block, as a reader would."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from worlds.cells import write_cells

DOCS = Path(__file__).parents[2] / "docs"
STORIES = Path(__file__).parent / "stories"
PART = "<!-- a part of a file, not run -->\n"  # stands before a block that is no whole


def blocks(page: str) -> list[str]:
    """The blocks of Python of a page, but for those that are parts of a file."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.findall(rf"({PART})?```python\n(.*?)```", text, re.DOTALL)
    return [block for part, block in found if not part]


def run_page(page: str, folder: Path | None = None) -> dict[str, Any]:
    """Run a page's blocks in one scope, which comes back.

    Args:
        page: Its name, without folder and ending.
        folder: The working folder, if the page reads files: stories and cells are put there.
    """
    if folder is not None:
        for story in ("counts.py", "sets.py"):
            shutil.copy(STORIES / story, folder)
        shutil.copy(DOCS.parent / "examples" / "cells.py", folder)
        write_cells(folder / "cells.h5ad")
    scope: dict[str, Any] = {"__name__": page.replace("-", "_")}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}.md, block {number}", "exec", dont_inherit=True), scope)
    return scope
