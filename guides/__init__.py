"""Variational families: amortised factors and their composition."""

from ppl_models.guides.factored import Factored
from ppl_models.guides.factors import Bernoulli, Categorical, Factor, Normal, OneHotCategorical

__all__ = ["Bernoulli", "Categorical", "Factor", "Factored", "Normal", "OneHotCategorical"]
