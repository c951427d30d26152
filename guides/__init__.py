"""Variational families: amortised factors, their composition, and automatic guides."""

from ppl_models.guides.factored import Factored
from ppl_models.guides.factors import (
    Bernoulli,
    Categorical,
    Constrained,
    Factor,
    Normal,
    OneHotCategorical,
)
from ppl_models.guides.flows import Flow
from ppl_models.guides.graph import faithful_inverse
from ppl_models.guides.inverse import dependencies, inverse
from ppl_models.guides.mixed import Globals, Mixed
from ppl_models.guides.present import Present
from ppl_models.guides.prior import Prior
from ppl_models.guides.simplex import Beta, Dirichlet
from ppl_models.guides.stopped import Stopped

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Constrained",
    "Dirichlet",
    "Factor",
    "Factored",
    "Flow",
    "Globals",
    "Mixed",
    "Normal",
    "OneHotCategorical",
    "Present",
    "Prior",
    "Stopped",
    "dependencies",
    "faithful_inverse",
    "inverse",
]
