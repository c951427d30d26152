"""Objectives, training, sampling, export and diagnostics, for any pair."""

from ppl_models.inference.evaluation import Evaluation, UnhandledSite, Weights
from ppl_models.inference.objectives import ELBO, IWELBO, EnumeratedELBO, Objective
from ppl_models.inference.schedule import Anneal
from ppl_models.inference.terms import Classification

__all__ = [
    "ELBO",
    "IWELBO",
    "Anneal",
    "Classification",
    "EnumeratedELBO",
    "Evaluation",
    "Objective",
    "UnhandledSite",
    "Weights",
]
