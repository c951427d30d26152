"""How long a training takes, as somebody who waits for it is told: a bar, and lines of the log."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from tqdm import tqdm

from ppl_models.inference.objectives.stage import Stage

log = logging.getLogger(__name__)

RATED = 5.0  # seconds of steps before their rate is told
FIRST = 2  # steps that take longer than others: checks, and what is compiled
COMPILING = "compiling, about a minute for each kind of step"


class Pace:
    """Tells of one stage what is ahead when it begins, and how fast it goes when that is known.

    The bar moves with each step; the loss beside it is that of the last point of the curve.

    Args:
        stage: The stage.
        rows: Rows that it is trained on.
        device: Where.
        done: Steps that are done.
        total: Steps of the stage.
        shown: Whether there is a bar.
        told: Whether this process is the one that speaks.
    """

    def __init__(
        self, stage: Stage, rows: int, device: str, done: int, total: int, shown: bool, told: bool
    ) -> None:
        self.name, self.total, self.told = stage.name, total, told
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=f"{stage.name}, {rows:,} rows on {device}",
            unit="step",
            disable=not (shown and told),
            dynamic_ncols=True,
            mininterval=0.5,
            miniters=1,  # a step that takes longer than those before it shows at once
        )
        if stage.training.compile and done < total:
            self.bar.set_postfix_str(COMPILING)
        self._timed = done + FIRST  # from this step on, since that moment
        self._since: float | None = None
        self._rated = not told
        if told:
            log.info(
                "stage %r: %s rows on %s, %s of %s steps to go, each of %s rows",
                stage.name,
                f"{rows:,}",
                device,
                f"{total - done:,}",
                f"{total:,}",
                f"{min(rows, stage.training.batch_size):,}",
            )

    def __enter__(self) -> Pace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def step(self, done: int) -> None:
        """One more step is done."""
        self.bar.update(1)
        if self._rated or done < self._timed:
            return
        now = time.monotonic()
        if self._since is None:
            self._timed, self._since = done, now
        elif now - self._since >= RATED:
            rate = (done - self._timed) / (now - self._since)
            left = spoken((self.total - done) / rate)
            log.info("stage %r: %.3g steps a second, about %s to go", self.name, rate, left)
            self._rated = True

    def loss(self, loss: float) -> None:
        """The curve has a point."""
        self.bar.set_postfix_str(f"loss/row {loss:.3f}", refresh=False)


def spoken(seconds: float) -> str:
    """A time as a person says it, to two digits or so."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"
