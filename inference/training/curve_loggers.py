"""Callbacks that write the training curve while it grows: a CSV file, and TensorBoard's folder.

Both write what stands in the run: the loss and its parts by name, the loss on validation rows
where there was a look at them, the learning rate, and the seconds of training. A run that goes on
from its folder goes on in them, and what it had written beyond its last state is written over; a
new run begins them anew.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models.config import native
from ppl_models.files import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ppl_models.inference.training.run import Run

FIRST = ("step", "stage", "seconds", "loss", "validation", "learning_rate")  # columns
RATE = FIRST.index("learning_rate")


class CSVLogger:
    """Writes the curve to a CSV file, a row for each of its points.

    The columns are ``step``, ``stage``, ``seconds``, ``loss`` (nats per row), ``validation`` (of
    the last look at the validation rows since the row before), ``learning_rate``, and the parts
    of the loss by name; what there is not is left empty.

    Args:
        path: The file. Its folder is made if absent.

    Raises:
        ValueError: If there is something else than such a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(native(path))
        self._run: Run | None = None
        self._columns: list[str] = []
        self._rates()

    def __call__(self, run: Run, step: int) -> None:
        """Write the last point of the curve, and those before it that the file lacks."""
        parts = [name for name in run.history if name not in FIRST]
        if run is self._run and self._columns == [*FIRST, *parts]:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(_row(run, parts, len(run.history["step"]) - 1))
            return
        # A new run, one that goes on, or one whose loss has new parts.
        rates = self._rates() if len(run.history["step"]) > 1 else {}
        rows = [_row(run, parts, place) for place in range(len(run.history["step"]))]
        for row in rows[:-1]:
            row[RATE] = rates.get(row[0], "")
        self._run, self._columns = run, [*FIRST, *parts]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda path: _write(path, [self._columns, *rows]))

    def _rates(self) -> dict[int, str]:
        """The learning rates in the file, by step."""
        if not self.path.exists():
            return {}
        try:
            text = self.path.read_text(encoding="utf-8")
            # What a killed process was writing has no end of a line.
            head, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
            if tuple(head[: len(FIRST)]) != FIRST:
                raise ValueError
            whole = (row for row in rows if len(row) == len(head) and row[0].isdecimal())
            return {int(row[0]): row[RATE] for row in whole}
        except (OSError, ValueError, csv.Error):
            raise ValueError(
                f"{self.path} is there and no curve of a CSVLogger, expected a new file"
            ) from None


class TensorBoard:
    """Writes the curve for TensorBoard, through torch's own writer.

    Its scalars are ``loss``, ``validation``, ``learning_rate``, ``seconds`` and
    ``parts/NAME``; ``tensorboard --logdir FOLDER`` shows them.

    Args:
        folder: Of one run; made if absent.

    Raises:
        ValueError: If the package tensorboard is not there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise ValueError("TensorBoard needs its package: pip install tensorboard") from None
        self.folder = Path(native(folder))
        self._run: Run | None = None
        self._writer: SummaryWriter | None = None
        self._looks = 0  # of the validation curve, that are written

    def __call__(self, run: Run, step: int) -> None:
        """Write the last point of the curve, and the looks at validation rows since the last."""
        from torch.utils.tensorboard import SummaryWriter

        steps = run.history["step"]
        if self._writer is None or run is not self._run:
            if self._writer is not None:
                self._writer.close()
            before = int(steps[-2]) if len(steps) > 1 else -1
            # What another process wrote from here on is not shown.
            self._writer = SummaryWriter(str(self.folder), purge_step=before + 1)
            self._run, self._looks = run, sum(at <= before for at in run.validation["step"])
        write = self._writer.add_scalar
        for name, column in run.history.items():
            if name not in ("step", "stage") and column[-1] == column[-1]:
                own = name in FIRST
                write(name if own else f"parts/{name}", column[-1], step)
        write("learning_rate", run.learning_rate, step)
        looks = list(zip(run.validation["step"], run.validation["loss"], strict=True))
        for at, loss in looks[self._looks :]:
            write("validation", loss, int(at))
        self._looks = len(looks)
        self._writer.flush()


def _row(run: Run, parts: list[str], place: int) -> list[Any]:
    """A row of the file, without the learning rate but for the last point."""
    steps, history = run.history["step"], run.history
    before = steps[place - 1] if place else 0
    looks = zip(run.validation["step"], run.validation["loss"], strict=True)
    looked: list[Any] = [loss for at, loss in looks if before < at <= steps[place]][-1:]
    rate = run.learning_rate if place == len(steps) - 1 else ""
    told = [history[name][place] for name in ("step", "stage", "seconds", "loss")]
    own = (history[name][place] for name in parts)
    return [*told, *(looked or [""]), rate, *("" if value != value else value for value in own)]


def _write(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
