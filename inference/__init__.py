"""Objectives, training, sampling, export and diagnostics, for any pair."""

from typing import TYPE_CHECKING, Any

from ppl_models.inference.checkpoint import RunFolderError
from ppl_models.inference.checks import NotFinite, check_data
from ppl_models.inference.debug import Check, Report, debug
from ppl_models.inference.evaluation import Evaluation, UnhandledSite, Weights
from ppl_models.inference.fit import fit
from ppl_models.inference.objectives import ELBO, IWELBO, EnumeratedELBO, Objective
from ppl_models.inference.players import Player
from ppl_models.inference.predict import error, label_probabilities, loss_per_row
from ppl_models.inference.run import Run, load
from ppl_models.inference.schedule import Anneal
from ppl_models.inference.stage import Stage, Training
from ppl_models.inference.stops import StopGradient
from ppl_models.inference.terms import Classification

if TYPE_CHECKING:
    from ppl_models.inference.mcmc import nuts

__all__ = [
    "ELBO",
    "IWELBO",
    "Anneal",
    "Check",
    "Classification",
    "EnumeratedELBO",
    "Evaluation",
    "NotFinite",
    "Objective",
    "Player",
    "Report",
    "Run",
    "RunFolderError",
    "Stage",
    "StopGradient",
    "Training",
    "UnhandledSite",
    "Weights",
    "check_data",
    "debug",
    "error",
    "fit",
    "label_probabilities",
    "load",
    "loss_per_row",
    "nuts",
]


def __getattr__(name: str) -> Any:
    # ArviZ takes as long to import as all the rest: only for those who sample or export.
    if name == "nuts":
        from ppl_models.inference.mcmc import nuts

        return nuts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
