"""A claim's job that dies on the way, where it is told to."""

from __future__ import annotations

import os
import signal
from typing import Any

from claims.measuring import resumed_fit

import ppl_models as zoo
from ppl_models import data


def job(seed: int) -> tuple[dict[str, Any], int]:
    """What a short fit comes to, and the first step that was done in this process.

    It kills its process at the step ``KILLED_AT``.
    """
    rows = data.load("digits", labelled=50, seed=seed)
    pair = zoo.build("m2", rows, seed=seed, hidden=(8,), latent=2)
    dies, seen = int(os.environ.get("KILLED_AT", 0)), []

    def die(_: Any, step: int) -> None:
        seen.append(step)
        if step == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    _, found = resumed_fit(
        "m2", pair, rows, looks=6, seed=seed, epochs=3, batch_size=100, checkpoint_seconds=0.0,
        callbacks=(die,),
    )  # fmt: skip
    return found, seen[0]
