"""Variational families: amortised factors, their composition, and automatic guides."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.guides.experts import Mixture as Mixture, Product as Product
    from ppl_models.guides.factored import Factored as Factored
    from ppl_models.guides.factors import (
        Bernoulli as Bernoulli,
        Categorical as Categorical,
        Conditional as Conditional,
        Constrained as Constrained,
        Factor as Factor,
        Normal as Normal,
        OneHotCategorical as OneHotCategorical,
    )
    from ppl_models.guides.flows import Flow as Flow
    from ppl_models.guides.inverse_graph import faithful_inverse as faithful_inverse
    from ppl_models.guides.inverse_guide import dependencies as dependencies, inverse as inverse
    from ppl_models.guides.mixed import Globals as Globals, Mixed as Mixed
    from ppl_models.guides.points import Point as Point, PointPerRow as PointPerRow
    from ppl_models.guides.pooling import POOLS as POOLS, Pool as Pool
    from ppl_models.guides.present import Present as Present
    from ppl_models.guides.prior import Prior as Prior
    from ppl_models.guides.protocol import Guide as Guide
    from ppl_models.guides.simplex import Beta as Beta, Dirichlet as Dirichlet
    from ppl_models.guides.spherical import VonMisesFisher as VonMisesFisher
    from ppl_models.guides.stopped import Stopped as Stopped

_HOMES = {
    "Bernoulli": "factors",
    "Beta": "simplex",
    "Categorical": "factors",
    "Conditional": "factors",
    "Constrained": "factors",
    "Dirichlet": "simplex",
    "Factor": "factors",
    "Factored": "factored",
    "Flow": "flows",
    "Globals": "mixed",
    "Guide": "protocol",
    "Mixed": "mixed",
    "Mixture": "experts",
    "Normal": "factors",
    "OneHotCategorical": "factors",
    "POOLS": "pooling",
    "Point": "points",
    "PointPerRow": "points",
    "Pool": "pooling",
    "Present": "present",
    "Prior": "prior",
    "Product": "experts",
    "Stopped": "stopped",
    "VonMisesFisher": "spherical",
    "dependencies": "inverse_guide",
    "faithful_inverse": "inverse_graph",
    "inverse": "inverse_guide",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
