"""Worlds of several labels, and every bound of theirs by loops over all combinations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import Weights
from ppl_models.inference.traces.sites import latent_sites, random_sites
from ppl_models.networks import Label, Net, Scalar

ROWS = 3


class Chain(nn.Module):
    """a -> b -> c, each seen through an entry of x; z explains the last; d is the model's own."""

    labels = ("a", "b", "c")

    def __init__(self, model_only: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.a, self.to_b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.to_c, self.to_d = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(3, 2))
        self.means = nn.Parameter(torch.randn(4, 3))
        factors = {
            "a": guides.Categorical(3, {"x": 4}, (4,)),
            "b": guides.Bernoulli({"x": 4, "a": Label(3)} if "a" not in model_only else {"x": 4}),
            "c": guides.Categorical(2, {"x": 4, "b": Scalar()}, (4,)),
            "z": guides.Normal(Scalar(), {"x": 4, "c": Label(2)}, (4,)),
        }
        self.guide = guides.Factored(**{n: f for n, f in factors.items() if n not in model_only})

    def model(self, batch: Batch) -> None:
        means, x = self.means, batch.get("x")
        with batch.plate():
            a = pyro.sample("a", dist.Categorical(logits=self.a), obs=batch.get("a"))
            b = pyro.sample("b", dist.Bernoulli(logits=self.to_b[a]), obs=batch.get("b"))
            to_c = self.to_c[b.long()]
            c = pyro.sample("c", dist.Categorical(logits=to_c), obs=batch.get("c"))
            d = pyro.sample("d", dist.Categorical(logits=self.to_d[a]))
            z = pyro.sample("z", dist.Normal(means[3, 0].detach() * 0, 1.0))
            for place, loc in enumerate((means[0][a], means[1][b.long()], means[2][c] + z)):
                obs = None if x is None else x[..., place]
                pyro.sample(f"x{place}", dist.Normal(loc, 0.8), obs=obs)
            obs = None if x is None else x[..., 3]
            pyro.sample("x3", dist.Normal(means[3][d], 0.8), obs=obs)


class Bits(nn.Module):
    """A row's label y, a plate of bits b under it, a code w and an observation for each bit."""

    labels = ("y", "b")

    def __init__(self, model_only: tuple[str, ...] = (), bits: int = 3) -> None:
        super().__init__()
        self.bits = bits
        self.y, self.to_b = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))
        self.means = nn.Parameter(torch.randn(2, 2))
        self.q_y = Net({"x": bits}, (3,), 2)
        given_y = {"y": Label(2)} if "y" not in model_only else {}
        given_b = {"b": Scalar()} if "b" not in model_only else {}
        self.q_b = Net({"own": Scalar(), **given_y}, (3,), 1)
        self.q_w = Net({"own": Scalar(), **given_b}, (3,), 2)
        self.model_only = model_only

    def model(self, batch: Batch) -> None:
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(logits=self.y), obs=batch.get("y"))
            with pyro.plate("bits", self.bits, dim=-2):
                b = pyro.sample("b", dist.Bernoulli(logits=self.to_b[y]))
                w = pyro.sample("w", dist.Normal(self.y.new_zeros(()), 1.0))
                loc = self.means[y, b.long()] + w
                pyro.sample("x", dist.Normal(loc, 0.8), obs=batch["x"].T)

    def guide(self, batch: Batch) -> None:
        own = batch["x"].T
        given: dict[str, Tensor] = {}
        with batch.plate():
            if "y" in batch:
                given["y"] = batch["y"]
            elif "y" not in self.model_only:
                given["y"] = pyro.sample("y", dist.Categorical(logits=self.q_y(x=batch["x"])))
            with pyro.plate("bits", self.bits, dim=-2):
                if "b" not in self.model_only:
                    logits = self.q_b(own=own, **given).squeeze(-1)
                    given["b"] = pyro.sample("b", dist.Bernoulli(logits=logits))
                loc, log_scale = self.q_w(own=own, **given).unbind(-1)
                pyro.sample("w", dist.Normal(loc, log_scale.exp()))


def world(kind: type, *args: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*args).double()


def batch_of(pair: Any, scale: int = 1, labelled: bool = False) -> Batch:
    """Rows of noise; observed, the first label is 0, 1, 0, ..."""
    g = torch.Generator().manual_seed(5)
    width = 4 if isinstance(pair, Chain) else pair.bits
    sites = {"x": torch.randn(ROWS, width, generator=g, dtype=torch.float64)}
    if labelled:
        sites[pair.labels[0]] = torch.arange(ROWS) % 2
    return Batch(sites, size=ROWS * scale)


def _log_density(trace: poutine.Trace, names: set[str]) -> Tensor:
    parts = []
    for name, site in random_sites(trace):
        if name in names:
            value = site["fn"].log_prob(site["value"])
            parts.append(value.expand(torch.broadcast_shapes(value.shape, (ROWS,))).flatten(0, -2)
                         .sum(0) if value.dim() > 1 else value)  # fmt: skip
    return sum(parts, torch.zeros(ROWS, dtype=torch.float64))


def _chosen(site: Any, at: Mapping[str, tuple[int, ...]], labels: Mapping[str, Any], k: int):
    """A draw's value where every label takes one value (one for each entry of its plate)."""
    value = site["value"]
    nesting = max(1, *(len(s["cond_indep_stack"]) for s in labels.values()))
    entries = value.shape[-2] if nesting > 1 and value.dim() > 1 else 1
    own = []
    for j in range(entries):
        v = value[..., j : j + 1, :] if nesting > 1 and value.dim() > 1 else value
        for name, places in at.items():
            dim = labels[name]["infer"]["_enumerate_dim"]
            if v.dim() >= -dim and v.shape[dim] > 1:
                v = v.narrow(dim, places[min(j, len(places) - 1)], 1)
        particle = -1 - nesting
        if v.dim() >= -particle and v.shape[particle] > 1:
            v = v.narrow(particle, k, 1)
        own.append(v.reshape(-1, v.shape[-1]) if nesting > 1 else v.reshape(-1))
    return torch.cat(own) if nesting > 1 else own[0]


def combinations(labels: Mapping[str, Any], entries: int) -> Iterator[dict[str, tuple[int, ...]]]:
    choices = []
    for site in labels.values():
        size = site["value"].numel()
        copies = entries if len(site["cond_indep_stack"]) > 1 else 1
        choices.append(list(itertools.product(range(size), repeat=copies)))
    for chosen in itertools.product(*choices):
        yield dict(zip(labels, chosen, strict=True))


def weights_by_loop(
    pair: Any, batch: Batch, w: Weights, K: int, analytic: bool = False
) -> tuple[Tensor, Tensor]:
    """log w ``(combinations, K, B)`` and log q of the labels ``(combinations, B)``.

    The draws are those of ``w``; each combination of the guide's labels, of the model's own
    labels within it and of entries of a plate is put into model and guide in its turn.
    """
    entries = getattr(pair, "bits", 1)
    drawn = {n: s for n, s in latent_sites(w.guide) if "_enumerate_dim" not in s["infer"]}
    in_guide = {n: s for n, s in latent_sites(w.guide) if "_enumerate_dim" in s["infer"]}
    own = {n: s for n, s in latent_sites(w.model) if n not in drawn and n not in in_guide}
    every = {**in_guide, **own}

    def values(at: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        out = {}
        for name, places in at.items():
            support = every[name]["value"].reshape(-1)
            value = support[torch.tensor(places)].unsqueeze(-1).expand(len(places), ROWS)
            out[name] = value if len(every[name]["cond_indep_stack"]) > 1 else value[0]
        return out

    log_w, log_q_labels = [], []
    for at in combinations(in_guide, entries):
        rows = []
        for k in range(K):
            z = {n: _chosen(s, at, every, k) for n, s in drawn.items()}
            fixed = {**values(at), **z}
            guide = poutine.trace(poutine.condition(pair.guide, fixed)).get_trace(batch)
            inner = []
            for more in combinations(own, entries):
                data = {**fixed, **values(more)}
                model = poutine.trace(poutine.condition(pair.model, data)).get_trace(batch)
                inner.append(
                    _log_density(model, set(model.nodes) - (set(drawn) if analytic else set()))
                )
            log_p = torch.logsumexp(torch.stack(inner), 0)
            if analytic:
                kls = [_kl(guide.nodes[n]["fn"], model.nodes[n]["fn"]) for n in drawn]
                rows.append(log_p - sum(kls))
            else:
                rows.append(log_p - _log_density(guide, set(drawn)))
        log_w.append(torch.stack(rows))
        log_q_labels.append(_log_density(guide, set(in_guide)))
    return torch.stack(log_w), torch.stack(log_q_labels)


def _kl(q: Any, p: Any) -> Tensor:
    kl = torch.distributions.kl_divergence(q, p)
    return kl.reshape(-1, ROWS).sum(0)


def elbo_by_loop(log_w: Tensor, log_q: Tensor) -> Tensor:
    return (log_q.exp() * (log_w.mean(1) - log_q)).sum(0)


def iwelbo_by_loop(log_w: Tensor, log_q: Tensor, lam: float) -> Tensor:
    ell = torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])
    inside = torch.logsumexp(ell, 0)
    return (1 - lam) * inside + lam * (log_q.exp() * (ell - log_q)).sum(0)


def same(ours: Tensor, hand: Tensor, pair: nn.Module, tol: float = 1e-10) -> None:
    """Equal values, and equal gradients of every parameter."""
    torch.testing.assert_close(ours, hand, rtol=0, atol=tol)
    named = dict(pair.named_parameters())
    both = [
        torch.autograd.grad(v.sum(), list(named.values()), allow_unused=True, retain_graph=True)
        for v in (ours, hand)
    ]
    for name, a, b in zip(named, *both, strict=True):
        zero = torch.zeros_like(named[name])
        torch.testing.assert_close(
            zero if a is None else a, zero if b is None else b, rtol=1e-9, atol=tol,
            msg=lambda m, name=name: f"{name}: {m}",
        )  # fmt: skip
