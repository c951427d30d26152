"""The guide's posterior of what all rows share: sites outside the data plate, as distributions."""

from __future__ import annotations

from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.guides.protocol import listed
from ppl_models.inference.traces.sites import Program, latent_sites, random_sites
from ppl_models.quiet import quiet
from ppl_models.sample_sites import is_local


def global_posteriors(pair: Program) -> dict[str, dist.TorchDistribution]:
    """The posterior of every site outside the data plate, each by itself.

    Args:
        pair: The pair, such as a ``bayesian_ssl``, whose network has weights w of that kind.

    Returns:
        By name, the distribution q(site) of the guide as it is now, with ``mean``, ``stddev``,
        ``sample`` and ``log_prob``; all dimensions of the site are event dimensions.
        ``guides.Mixed`` gives it for each of its families. Any other guide is run, and each site
        has to be sampled as one distribution, whatever other sites are.

    Raises:
        ValueError: If the guide samples no such site, or one that has no distribution by itself.
    """
    guide = pair.guide
    if hasattr(guide, "marginals"):
        return cast("dict[str, dist.TorchDistribution]", guide.marginals())
    found = {} if listed(guide) is not None else _traced(pair)
    if not found:
        raise ValueError(
            f"{_name(pair)} has no posterior outside the data plate: its guide samples no site "
            "that all rows share; run.posterior(table) has those of rows"
        )
    return found


def global_posterior(pair: Program, name: str) -> dist.TorchDistribution:
    """One of :func:`global_posteriors`.

    Raises:
        ValueError: As there, and if there is no such site, with the names of those there are.
    """
    found = global_posteriors(pair)
    if name not in found:
        raise ValueError(unknown(f"site outside the data plate of {_name(pair)}", name, found))
    return found[name]


def _traced(pair: Program) -> dict[str, dist.TorchDistribution]:
    device = next(iter(pair.parameters())).device
    with quiet(device, None, pair), torch.no_grad():
        some: dict[str, Tensor] = getattr(pair, "some_covariates", lambda rows: {})(2)
        nothing = Batch(
            {name: value.to(device) for name, value in some.items()},
            torch.arange(2, device=device),
        )
        story = poutine.trace(pair.model).get_trace(nothing)
        rows = {name: site["value"] for name, site in random_sites(story) if is_local(site)}
        first, second = (_shared(pair, nothing.replace({**nothing, **rows})) for _ in range(2))
    found = {}
    for name, site in first.items():
        draws = site["value"], second[name]["value"]
        densities = [[of["fn"].log_prob(v) for v in draws] for of in (site, second[name])]
        if not all(map(torch.equal, *densities)):
            raise ValueError(
                f"the guide's posterior of site {name!r} is no distribution by itself, it depends "
                "on other draws; expected guides.Mixed, or its draws by run.posterior(table)"
            )
        found[name] = site["fn"]
    return found


def _shared(pair: Program, batch: Batch) -> dict[str, Any]:
    sites = latent_sites(poutine.trace(pair.guide).get_trace(batch))
    return {name: site for name, site in sites if not is_local(site)}


def _name(pair: Program) -> str:
    card = getattr(pair, "card", None)
    return type(pair).__name__ if card is None else str(card.name)
