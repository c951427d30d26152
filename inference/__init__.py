"""Objectives, training, sampling, export and diagnostics, for any pair."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppl_models.inference.characteristic import CharacteristicELBO
from ppl_models.inference.checkpoint import RunFolderError
from ppl_models.inference.checks import NotFinite, check_data
from ppl_models.inference.debug import Check, Report, debug
from ppl_models.inference.distance_correlation import DistanceCorrelation
from ppl_models.inference.elbo import ELBO, EnumeratedELBO
from ppl_models.inference.emphasis import Emphasis
from ppl_models.inference.evaluation import Evaluation, UnhandledSite, Weights
from ppl_models.inference.fit import fit
from ppl_models.inference.iwelbo import IWELBO
from ppl_models.inference.kl import Capacity, FreeBits
from ppl_models.inference.margin import Balance, Hat, Hinge, Imputed, LeftOut
from ppl_models.inference.methods import Method, Methods, methods
from ppl_models.inference.objectives import Objective
from ppl_models.inference.players import Player
from ppl_models.inference.predict import error, label_probabilities, loss_per_row
from ppl_models.inference.relaxed import RelaxedELBO
from ppl_models.inference.renyi import Renyi
from ppl_models.inference.run import Run, load
from ppl_models.inference.schedule import Anneal
from ppl_models.inference.score import ScoreELBO
from ppl_models.inference.secondary import Secondary, code_features, exchanged_features
from ppl_models.inference.self_normalised import SelfNormalisedELBO, supervision
from ppl_models.inference.stage import Stage, Training
from ppl_models.inference.stops import StopGradient
from ppl_models.inference.terms import Classification, Penalty
from ppl_models.inference.tmc import TMC
from ppl_models.inference.wake_sleep import WakeSleep
from ppl_models.inference.weighted import Weighted

if TYPE_CHECKING:
    from ppl_models.inference.active import active_learning, bald, entropy
    from ppl_models.inference.calibration import calibration_error, label_calibration, sbc
    from ppl_models.inference.collapse import active_units, aggregate_posterior
    from ppl_models.inference.evidence import log_evidence
    from ppl_models.inference.gaps import against_nuts, amortisation_gap, held_out
    from ppl_models.inference.gibbs import gibbs_posterior, gibbs_predict
    from ppl_models.inference.importance_sampling import importance, sir
    from ppl_models.inference.maximum import map
    from ppl_models.inference.mcmc import hmc, nuts
    from ppl_models.inference.repair import bad_rows, refine, replaced
    from ppl_models.inference.restarts import agreement

# ArviZ takes as long to import as all the rest: only for those who sample or export.
_LATE = {
    "active_learning": "active",
    "active_units": "collapse",
    "against_nuts": "gaps",
    "aggregate_posterior": "collapse",
    "agreement": "restarts",
    "amortisation_gap": "gaps",
    "bad_rows": "repair",
    "bald": "active",
    "calibration_error": "calibration",
    "entropy": "active",
    "gibbs_posterior": "gibbs",
    "gibbs_predict": "gibbs",
    "held_out": "gaps",
    "hmc": "mcmc",
    "importance": "importance_sampling",
    "label_calibration": "calibration",
    "log_evidence": "evidence",
    "map": "maximum",
    "nuts": "mcmc",
    "refine": "repair",
    "replaced": "repair",
    "sbc": "calibration",
    "sir": "importance_sampling",
}

__all__ = [
    "ELBO",
    "IWELBO",
    "TMC",
    "Anneal",
    "Balance",
    "Capacity",
    "CharacteristicELBO",
    "Check",
    "Classification",
    "DistanceCorrelation",
    "Emphasis",
    "EnumeratedELBO",
    "Evaluation",
    "FreeBits",
    "Hat",
    "Hinge",
    "Imputed",
    "LeftOut",
    "Method",
    "Methods",
    "NotFinite",
    "Objective",
    "Penalty",
    "Player",
    "RelaxedELBO",
    "Renyi",
    "Report",
    "Run",
    "RunFolderError",
    "ScoreELBO",
    "Secondary",
    "SelfNormalisedELBO",
    "Stage",
    "StopGradient",
    "Training",
    "UnhandledSite",
    "WakeSleep",
    "Weighted",
    "Weights",
    "active_learning",
    "active_units",
    "against_nuts",
    "aggregate_posterior",
    "agreement",
    "amortisation_gap",
    "bad_rows",
    "bald",
    "calibration_error",
    "check_data",
    "code_features",
    "debug",
    "entropy",
    "error",
    "exchanged_features",
    "fit",
    "gibbs_posterior",
    "gibbs_predict",
    "held_out",
    "hmc",
    "importance",
    "label_calibration",
    "label_probabilities",
    "load",
    "log_evidence",
    "loss_per_row",
    "map",
    "methods",
    "nuts",
    "refine",
    "replaced",
    "sbc",
    "sir",
    "supervision",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        module = import_module(f"ppl_models.inference.{_LATE[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
