"""A finished run: the fitted pair, its training curve, and what to ask of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
from torch import Tensor

from ppl_models import catalogue
from ppl_models.config import native
from ppl_models.data import straight
from ppl_models.data.tables.schema import Schema
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.inference.diagnostics.verdict import Verdict, verdict
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.posterior import prediction, row_frames
from ppl_models.inference.posterior.confusion import Confusion
from ppl_models.inference.posterior.points_by_row import points_by_row
from ppl_models.inference.training import run_facts, run_folder
from ppl_models.inference.training.run_rows import rows_of_run
from ppl_models.inference.training.saved_pair import build_saved
from ppl_models.inference.training.saved_run import save
from ppl_models.inference.training.state import curves
from ppl_models.pair import Pair

if TYPE_CHECKING:
    import arviz as az
    import pandas as pd
    from anndata import AnnData

Rows = Any  # a Table, a Dataset, a pandas.DataFrame, an AnnData, or the path of a file
CHECKED = 1000  # rows of whose posterior a check is made


@dataclass
class Run:
    """A fitted pair.

    What is asked about rows takes them as they are at hand: a table; a data set, whose test rows
    are taken; a ``pandas.DataFrame`` or an ``AnnData``, whose columns are known by their names in
    the fit; or the path of a file, which is read as the data of the fit were. Of these three all
    rows are taken; labels may be missing, and columns that the fit does not know are left out.

    Attributes:
        pair: The pair, trained in place.
        objective: Formula of the objective of the last stage.
        seed: Seed of the training.
        history: Training curve: lists of equal length under ``step``, ``stage``, ``loss`` (nats
            per row) and ``seconds``, and under the name of each part of the loss, such as
            ``bound``. The parts are losses and add up to ``loss``: that of the bound is minus
            the bound. NaN in stages that have no such part. See
            :mod:`ppl_models.inference.objectives.loss_parts`.
        validation: Validation curve, ``step`` and ``loss`` (nats per row, labels left out): about
            20 looks a stage at up to 1,000 rows, or those of early stopping; empty without
            validation rows, and for stages that are too short for it.
        status: ``"running"``; ``"finished"``, also by early stopping; ``"stopped"`` by a callback
            (:class:`StopTraining`); or ``"interrupted"``, by hand or ``max_minutes``.
        reason: Why it was stopped or interrupted, in words; empty for all others.
        planned: Steps that were planned, up to the end of the stage at hand.
        labelled: How the labelled rows that it was trained on are told, by label.
        data: What it was trained on; of a run from a folder None until it is asked for.
        folder: Where it is kept, if it is.
        description: What it is, as plain values: paper, settings, data, stages and versions.
        optimiser: What moves the pair in the stage at hand; empty for a run from a folder.
        learning_rate: Of the last step up to the curve's last point, for parameters without a
            rate of their own; NaN before, and for a run from a folder.
    """

    pair: Pair
    objective: str
    seed: int = 0
    history: dict[str, list[float]] = field(
        default_factory=lambda: {"step": [], "stage": [], "loss": [], "seconds": []}
    )
    validation: dict[str, list[float]] = field(default_factory=lambda: {"step": [], "loss": []})
    status: str = "running"
    reason: str = ""
    planned: int = 0
    labelled: dict[str, Confusion] = field(default_factory=dict)
    data: Dataset | Table | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    description: dict[str, Any] = field(default_factory=dict, repr=False)
    optimiser: str = ""
    learning_rate: float = math.nan

    def __post_init__(self) -> None:
        """A seed of another library's kind becomes Python's own."""
        self.seed = native(self.seed)

    def __repr__(self) -> str:
        return run_facts.text(self)

    def _repr_html_(self) -> str:
        return run_facts.html(self)

    def __getstate__(self) -> dict[str, Any]:
        """All but the data, which may be large or lie in a file."""
        return {**self.__dict__, "data": None}

    def record(
        self,
        step: int,
        stage: int,
        loss: float,
        seconds: float,
        parts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Add a point to the training curve, with the parts of the loss by name."""
        before = len(self.history["step"])
        for name in parts:
            self.history.setdefault(name, [math.nan] * before)
        point = {"step": step, "stage": stage, "loss": loss, "seconds": seconds, **parts}
        for name, column in self.history.items():
            column.append(point.get(name, math.nan))

    def record_validation(self, step: int, loss: float) -> None:
        """Add a point to the validation curve."""
        self.validation["step"].append(step)
        self.validation["loss"].append(loss)

    def predict(self, data: Rows, particles: int = 0, draws: int = 0) -> pd.DataFrame:
        """See :func:`ppl_models.inference.posterior.row_frames.predict`."""
        return row_frames.predict(self.pair, self._table(data), particles, draws)

    def codes(self, data: Rows, site: str | None = None) -> row_frames.RowCodes:
        """See :func:`ppl_models.inference.posterior.row_frames.codes`."""
        return row_frames.codes(self.pair, self._table(data), site)

    def annotate(self, adata: AnnData, particles: int = 0, draws: int = 0) -> None:
        """See :func:`ppl_models.inference.posterior.row_frames.annotate`."""
        row_frames.annotate(self.pair, self._table(adata), adata, particles, draws)

    def label_probabilities(
        self, data: Rows, site: str = "y", particles: int = 0, draws: int = 0
    ) -> Tensor:
        """See :func:`ppl_models.inference.posterior.prediction.label_probabilities`."""
        table = self._table(data)
        return prediction.label_probabilities(self.pair, table, site, particles, draws=draws)

    def error(self, data: Rows, site: str = "y", particles: int = 0, draws: int = 0) -> float:
        """See :func:`ppl_models.inference.posterior.prediction.error`."""
        return prediction.error(self.pair, self._table(data), site, particles, draws=draws)

    def errors(self, data: Rows, particles: int = 0, draws: int = 0) -> dict[str, float]:
        """See :func:`ppl_models.inference.posterior.prediction.errors`."""
        return prediction.errors(self.pair, self._table(data), particles, draws=draws)

    def loss_per_row(self, data: Rows, objective: Objective) -> Tensor:
        """See :func:`ppl_models.inference.posterior.prediction.loss_per_row`."""
        return prediction.loss_per_row(self.pair, self._table(data), objective)

    def global_posterior(self, name: str) -> dist.TorchDistribution:
        """See :meth:`ppl_models.Pair.global_posterior`."""
        return self.pair.global_posterior(name)

    def bound_per_row(self, data: Rows, objective: Objective) -> Tensor:
        """See :func:`ppl_models.inference.posterior.prediction.bound_per_row`."""
        return prediction.bound_per_row(self.pair, self._table(data), objective)

    def posterior(
        self, data: Rows, *, restarts: Sequence[Run] = (), **options: Any
    ) -> az.InferenceData:
        """See :func:`ppl_models.inference.posterior.export.posterior`.

        Args:
            data: The rows.
            restarts: Fits of the same pair from other seeds, which are further chains.
            options: ``path``, to write it to a file in memory that does not grow with the rows,
                ``rows``, ``draws``, ``draws_for``, ``counterfactual`` and more.
        """
        from ppl_models.inference.posterior.export import posterior

        runs = (self, *restarts)
        seeds = [run.seed for run in runs]
        # What is said of training is said of the one that is farthest from its end.
        last = min(runs, key=lambda run: (run.status in ("finished", "stopped"), run.share))
        return posterior(
            [run.pair for run in runs],
            self._table(data),
            history=[run.history for run in runs],
            labelled=[run.labelled for run in runs],
            attrs={
                "objective": self.objective,
                "training_seed": seeds if restarts else self.seed,
                "training_status": last.status,
                "training_steps": [last.taken, last.planned],
            },
            **options,
        )

    def check(
        self, data: Rows | None = None, masks: Mapping[str, Any] | None = None, **options: Any
    ) -> Verdict:
        """Whether the posterior of rows can be trusted, and what to try where it cannot.

        Args:
            data: The rows; by default the validation rows of the data it was trained on, else
                the test rows, else the training rows, which are all that points by row stand for.
            masks: Of :func:`ppl_models.inference.diagnostics.verdict.verdict`.
            options: Of :meth:`posterior`, such as the ``oracle`` that reads causes in data;
                ``rows`` is the first 1,000 by default.

        Raises:
            ValueError: If the run does not know its data and is given none, and as
                :meth:`posterior`.
        """
        table = self._rows() if data is None else self._table(data)
        options.setdefault("rows", range(min(len(table), CHECKED)))
        return verdict(self.posterior(table, **options), masks)

    def report(
        self, path: str | Path, data: Rows | None = None, simulations: int = 200, **options: Any
    ) -> bool:
        """Write one page that shows the fit to a person: what ``ppl-models report`` writes.

        Args:
            path: The page, an HTML file; replaced only when the new one is complete.
            data: The rows; by default those of :meth:`check`.
            simulations: Rows simulated to check the guide's calibration; 0 for none.
            options: Of :meth:`posterior`; ``rows`` is the first 1,000 by default.

        Returns:
            Whether the posterior is to be trusted.

        Raises:
            FileNotFoundError: If there is no folder for the page.
            ValueError: As :meth:`check`.
            OSError: If the page cannot be written.
        """
        table = self._rows() if data is None else self._table(data)
        options.setdefault("rows", range(min(len(table), CHECKED)))
        write = catalogue.loaded(catalogue.REPORT, "writer of reports")
        trusted: bool = write(
            self, Path(path), lambda: self.posterior(table, **options), simulations
        )
        return trusted

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the run to a folder, from which :func:`ppl_models.load` reads it.

        The folder is then as one of ``fit(out=...)``: commands take it, and rows in memory of up
        to 256 MiB are kept in it. Its training can be resumed if the run was fitted with ``out``
        and its pair has not changed since.

        Args:
            folder: A new or empty folder, made if absent.
            overwrite: Whether a run that stands there may be replaced.

        Raises:
            RunFolderError: If the folder holds something else, or another process is at work in
                it.
            ValueError: If the run stands there itself, or was made by neither ``fit`` nor
                ``load``.
            OSError: If it cannot be written; nothing is left behind.
        """
        save(self, folder, overwrite)

    def _table(self, data: Rows) -> Table:
        return straight.rows(data, self.pair.schema, self.description.get("data", {}))

    def _rows(self) -> Table:
        if self.data is None:
            if self.folder is None or not self.description:
                raise ValueError("this run does not know its data, expected rows: check(rows)")
            self.data = rows_of_run(self.folder, self.description["data"])
        if not isinstance(self.data, Dataset):
            return self.data
        if points_by_row(self.pair):
            return self.data.train
        parts = (self.data.validation, self.data.test, self.data.train)
        return next((part for part in parts if len(part)), self.data.train)

    @property
    def taken(self) -> int:
        """Steps that are done, up to the curve's last point."""
        steps = self.history["step"]
        return int(steps[-1]) if steps else 0

    @property
    def share(self) -> float:
        """Share of the planned steps that is done."""
        return self.taken / max(1, self.planned)

    def refine(
        self, data: Rows, rows: Sequence[int] | Tensor | None = None, **options: Any
    ) -> az.InferenceData:
        """See :func:`ppl_models.inference.sampling.refine.refine`."""
        from ppl_models.inference.sampling.refine import refine

        idata = refine(self.pair, self._table(data), rows, **options)
        idata.attrs |= {"objective": self.objective, "training_seed": self.seed}
        return idata


def load(folder: str | Path, pair: str | None = None) -> Run:
    """A run from its folder.

    Args:
        folder: Where ``fit`` or :meth:`Run.save` wrote it.
        pair: Where to find a pair of your own, as given to ``build``; a name of the
            catalogue is read from the folder, but code files are never loaded on its word.

    Returns:
        The run, with what its ``run.json`` says as ``description``.

    Raises:
        RunFolderError: If the folder holds no run or a damaged one, or weights that do not fit.
    """
    folder = Path(folder)
    description = run_folder.read_description(folder)
    state = run_folder.read_state(folder)
    run_folder.check_run(folder, state, description)
    source = description["paper"]
    if pair is None and catalogue.published(source) is None:
        raise run_folder.RunFolderError(
            f"{folder} was fitted with a pair of your own ({source}); name it (--pair {source})"
        )
    if pair is not None and pair != source:
        raise run_folder.RunFolderError(f"{folder} holds a run of {source}, not of {pair}")
    with _naming(folder / run_folder.DESCRIPTION, source):
        room = (folder / run_folder.STATE).stat().st_size
        built = build_saved(source, description["config"], room)
    with _naming(folder / run_folder.STATE, source):
        built.load_state_dict(state["model"])
        objective, seed = description.get("objective", ""), description["identity"]["seed"]
        run = Run(built.eval(), objective, seed, *curves(state))
        run.status, run.planned = description["status"], description.get("planned", 0)
        run.reason, built.fitted = description.get("reason", ""), True
        run.folder, run.description = folder, description
    with _naming(folder / run_folder.DESCRIPTION, source):
        labelled = description.get("labelled", {})
        run.labelled = {name: Confusion.read(told) for name, told in labelled.items()}
        if schema := description.get("schema"):
            built.schema = Schema.read(schema)
    return run


@contextlib.contextmanager
def _naming(file: Path, source: str) -> Iterator[None]:
    """What does not fit names the file that it stands in, whatever stumbled over it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise run_folder.RunFolderError(f"{file} does not fit {source}: {reason}") from None
