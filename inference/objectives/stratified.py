"""The bound of a guide that is a mixture, with draws of each of its components."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.guides.experts import Mixture, MixtureOfNormals
from ppl_models.inference.objectives.arithmetic import check_unscaled
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.loss_parts import BOUND
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import base_of


class Stratified(Objective):
    r"""A bound of a mixture :math:`q = \frac1M \sum_m q_m`, with K draws of each component.

    :math:`\frac1M \sum_m E_{z_k \sim q_m} \log \frac1K \sum_k p(x, z_k) / q(z_k | x)` with the
    density of the whole mixture below (Shi et al. 2019, arXiv 1911.03393, eqs. 3 and 4; their
    code calls it the looser one). At K = 1 it is the evidence lower bound of q without the noise
    of which component a draw is from. In a row that has some of the experts' sites only, those
    of its components count.

    Args:
        particles: Draws K of each component, averaged inside the log.
        grad: ``"plain"``, or ``"dreg"`` for the guide's doubly reparameterised gradient (Tucker
            et al. 2019, arXiv 1810.04152). The derivative of log q at a fixed draw has a part of
            each component. That of the draw's own is reparameterised again; those of the others
            stay as they are, as a draw does not move with them. The paper's code leaves them
            out, which is unbiased at K = 1 alone; so are they here, at K = 1.
        site: The site of the guide that is the mixture, the only one that it samples.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is not one of those named; at a pair, if its guide has another
            factor for the site.
    """

    def __init__(
        self,
        particles: int = 1,
        grad: Literal["plain", "dreg"] = "plain",
        site: str = "z",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_choice("grad", grad, ("plain", "dreg"))
        self.particles, self.grad, self.site = particles, grad, site

    @property
    def formula(self) -> str:
        """With K filled in."""
        z, K = self.site, self.particles
        ratio = f"p(x, {z}) / q({z}|x)"
        inside = f"log {ratio}" if K == 1 else f"log 1/{K} sum_k {ratio}"
        return f"mean_m E_q_m({z}|x)[{inside}], q = mean_m q_m"

    @property
    def part_names(self) -> tuple[str, ...]:
        """It is a bound."""
        return (BOUND,)

    def weights(self, run: Evaluation) -> Weights:
        """C K draws of a row, K of each component after the other's."""
        return run.once(("strata", self.particles, self.grad), lambda: self._weights(run), self)

    def _weights(self, run: Evaluation) -> Weights:
        count = self._mixture(run).components(dict(run.batch))
        guide = _InTurn(run.guide, self.site, -1 - run.plate_nesting)
        turned = run.like(guide=guide)
        found = turned.weights(count * self.particles, bridge=self.grad == "dreg")
        if found.labels or list(found.draws) != [self.site]:
            raise UnhandledSite(
                f"the guide samples {list(found.draws)} and sums {len(found.labels)} labels, "
                f"expected {self.site!r} alone, which {type(self).__name__} draws by component"
            )
        return found

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound ``(B,)``."""
        w = self.weights(run)
        if self.particles > 1:
            check_unscaled(w)
        strata = _Strata(w, self.site, self._mixture(run).components(dict(run.batch)))
        log_w = strata.by_component(w.log_w)  # C x K x B
        if self.grad == "plain":
            value = log_w.logsumexp(1) - math.log(log_w.shape[1])  # C x B
        else:
            value = strata.doubly_reparameterised(log_w.detach())
        shares = strata.shares  # C x B
        return -torch.where(shares > 0, shares * value, 0).sum(0)

    def outside(self, run: Evaluation) -> Tensor | float:
        """Minus (log p - log q) of the sites outside the data plate."""
        return -self.weights(run).outside

    def lead(self, run: Evaluation) -> Lead | None:
        """None: draws that come by component are no draws of the guide."""
        return None

    def _mixture(self, run: Evaluation) -> Mixture:
        factors: Any = getattr(run.guide, "factors", {})
        factor = dict(factors.items()).get(self.site)
        if not isinstance(factor, Mixture):
            raise UnhandledSite(
                f"the guide has {type(factor).__name__} for site {self.site!r}, expected "
                "guides.Mixture, whose components are drawn in turn"
            )
        return factor


class _Strata:
    """The draws of a mixture by component, and what the components say of them."""

    def __init__(self, w: Weights, site: str, count: int) -> None:
        self.w, self.count = w, count
        node = w.guide.nodes[site]
        self.z, self.q = node["value"], node["fn"]
        counts = self.q.counting().reshape(-1, *self.q.counting().shape[-2:])[0].T  # C x B
        counts = counts.to(self.z.dtype).expand(count, w.log_w.shape[-1])
        self.shares = counts / counts.sum(0).clamp(min=1)

    def by_component(self, value: Tensor) -> Tensor:
        """``(C K, B)`` as ``(C, K, B)``; what is the same for all draws is repeated."""
        draws = max(len(value), self.count)
        wide = value.expand(draws, value.shape[-1])
        return wide.reshape(self.count, -1, value.shape[-1])

    def doubly_reparameterised(self, log_w: Tensor) -> Tensor:
        r"""The bounds of the components ``(C, B)``, with the gradient for the guide.

        With a the weights normalised over the K draws of a component c, and r the share that
        component j has in the density of the mixture at a draw z, the derivative of minus
        log q at a fixed z is a sum of :math:`-a\, r_j\, \partial \log q_j(z)`. The term j = c
        equals, in expectation, :math:`-\partial_z (a\, r_c)` along the draw's path.

        Args:
            log_w: ``(C, K, B)``, without gradient.
        """
        value = log_w.logsumexp(1) - math.log(log_w.shape[1])
        a = log_w.softmax(1)  # C x K x B
        parts = self._log_densities(self.z, detached=True)  # C K x B x M, through z alone
        total = parts.logsumexp(-1)
        own = torch.arange(self.count, device=a.device).repeat_interleave(a.shape[1])
        index = own[:, None, None].expand(*parts.shape[:2], 1)
        of_own = parts.gather(-1, index).squeeze(-1)
        safe = torch.where(of_own.isfinite(), of_own, total)  # of rows that lack the component
        r = self.by_component((safe - total).detach().exp())
        path = a if log_w.shape[1] == 1 else a * (1 - (1 - a) * r)
        self._scale_model(path / a.clamp_min(torch.finfo(a.dtype).tiny))
        log_p = self.by_component(self.w.log_p)
        log_q = self.by_component(total)
        surrogate = a * log_p - path * log_q
        if log_w.shape[1] > 1:
            surrogate = surrogate - a * r * (self.by_component(safe) - log_q)
            direct = self._log_densities(self.z.detach(), detached=False)
            held = (direct - direct.logsumexp(-1, keepdim=True)).detach().exp()
            held = held.scatter(-1, index, 0.0)
            direct = torch.where(held > 0, direct, 0)
            surrogate = surrogate - a * self.by_component((held * direct).sum(-1))
        surrogate = torch.where(self.shares[:, None] > 0, surrogate, 0).sum(1)
        return value + surrogate - surrogate.detach()

    def _log_densities(self, z: Tensor, detached: bool) -> Tensor:
        """Log of share times density of each component at each draw ``(C K, B, M)``."""
        q = base_of(self.q.component_distribution)
        loc, scale = (v.detach() if detached else v for v in (q.loc, q.scale))
        found = torch.distributions.Normal(loc, scale).log_prob(z.unsqueeze(-2)).sum(-1)
        found = found + self.q.mixture_distribution.logits
        draws = max(self.count, len(self.w.log_w))
        wide: Tensor = found.reshape(-1, *found.shape[-2:]).expand(draws, *found.shape[-2:])
        return wide

    def _scale_model(self, ratio: Tensor) -> None:
        for bridge, event in self.w.bridges:
            if bridge.requires_grad:
                wide = ratio.reshape(-1, ratio.shape[-1])
                inner = bridge.dim() - event - 2  # plates within the row
                scale = wide.reshape(len(wide), *[1] * inner, -1, *[1] * event)
                bridge.register_hook(lambda g, scale=scale: g * scale)


class _InTurn:
    """A guide one of whose sites draws from the components of its mixture in turn."""

    def __init__(self, guide: Callable[[Batch], Any], site: str, dim: int) -> None:
        self.guide, self.site, self.dim = guide, site, dim

    def __call__(self, batch: Batch) -> Any:
        """Run the guide."""
        with _Turned(self.site, self.dim):
            return self.guide(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guide, name)


class _Turned(Messenger):
    def __init__(self, site: str, dim: int) -> None:
        super().__init__()
        self.site, self.dim = site, dim

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site and isinstance(msg["fn"], MixtureOfNormals):
            msg["fn"] = msg["fn"].stratified(self.dim)
