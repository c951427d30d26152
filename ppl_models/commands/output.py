"""What commands print when they are done."""

from __future__ import annotations

import json
from typing import Any


def tell(report: dict[str, Any], as_json: bool) -> None:
    """Print what came out, for people or for machines.

    Args:
        report: Values by their names; shares of errors are shown in per cent.
        as_json: Whether it is for machines.
    """
    if as_json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        share = isinstance(value, float) and "error" in name
        print(f"{name:28} {f'{100 * value:.2f} %' if share else value}")
