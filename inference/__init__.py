"""Objectives, training, sampling, export and diagnostics, for any pair."""

from ppl_models.inference.evaluation import Evaluation, UnhandledSite, Weights
from ppl_models.inference.objectives import ELBO, IWELBO, EnumeratedELBO, Objective
from ppl_models.inference.schedule import Anneal
from ppl_models.inference.stage import Stage, Training
from ppl_models.inference.terms import Classification

