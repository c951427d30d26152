"""Calls of ArviZ whose names or results are others below its version 1 than since."""

from __future__ import annotations

import arviz as az

from ppl_models.inference.posterior.groups import ARVIZ


def loo(idata, **options):
    """Leave-one-out log density of every row, and its k-hat."""
    found = az.loo(idata, pointwise=True, **options)
    return found.elpd_i if ARVIZ >= 1 else found.loo_i, found.pareto_k


def compare(files, **options):
    """Sums of the leave-one-out log densities, the best first."""
    if ARVIZ >= 1:
        return az.compare(files, round_to="none", **options)["elpd"]
    return az.compare(files, **options)["elpd_loo"]


def trace_lines(idata, name, **coords):
    """Draws that a trace plot shows, a line for every chain and number."""
    drawn = az.plot_trace(idata, var_names=[name], coords=coords)
    lines = drawn.viz["trace"][name].values.ravel() if ARVIZ >= 1 else drawn[0, 1].lines
    return [line.get_ydata() for line in lines]


def ppc_axes(idata, name, draws):
    """Axes of densities of the data and of draws."""
    if ARVIZ >= 1:
        drawn = az.plot_ppc_dist(idata, var_names=[name], num_samples=draws)
        return drawn.viz["plot"][name].item()
    return az.plot_ppc(idata, var_names=[name], num_pp_samples=draws, random_seed=0)
