"""Encoders and decoders of any number of modalities, each with a likelihood of its own.

A modality is a site of the data that a row may lack (:mod:`ppl_models.modalities`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models import guides, modalities
from ppl_models.batch import Batch
from ppl_models.config import Config, setting, unknown
from ppl_models.guides.experts import MixtureOfNormals
from ppl_models.networks import Net
from ppl_models.pair import Card
from ppl_models.sample_sites import base_of

KINDS = {
    "laplace": "numbers in 0..1, such as pixels",
    "normal": "numbers",
    "bernoulli": "numbers 0 or 1",
    "tokens": "words",
    "counts": "counts",
}
EMBEDDING = 32  # numbers of a word that an encoder reads


@dataclasses.dataclass(frozen=True)
class ModalitiesConfig(Config):
    """Which modalities there are, and their networks."""

    modalities: tuple[str, ...] = setting(("s", "t"), "sites of the data that a row may lack")
    sizes: tuple[int, ...] = setting(
        (64, 144), "D of each; of tokens the vocabulary", from_data="modalities", minimum=1
    )
    kinds: tuple[str, ...] = setting(
        ("laplace", "laplace"), f"likelihood of each: {', '.join(KINDS)}"
    )
    scales: tuple[float, ...] = setting(
        (0.15, 0.15), "b, scale of Laplace and normal ones: what each weighs", minimum=1e-6
    )
    words: int = setting(12, "tokens of a modality of that kind", minimum=1)
    latent: int = setting(16, "L, size of z", minimum=1)
    hidden: tuple[int, ...] = setting((256,), "units of encoders, in turn of decoders", minimum=1)

    def __post_init__(self) -> None:
        """Check that each modality has a size, a likelihood and a scale."""
        super().__post_init__()
        if len(set(self.modalities)) < max(1, len(self.modalities)):
            raise ValueError(f"modalities are {self.modalities}, expected different names")
        for name in ("sizes", "kinds", "scales"):
            if len(given := getattr(self, name)) != len(self.modalities):
                raise ValueError(f"{name} are {given}, expected one for each of {self.modalities}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(unknown("kind of modality", kind, KINDS))


class Reader(nn.Module):
    """A network that reads one modality.

    Args:
        site: Its name.
        kind: Its likelihood.
        size: D, or the vocabulary of tokens.
        hidden: Units of each hidden layer.
        outputs: Size of the output.
        words: Tokens of a row.
    """

    def __init__(
        self, site: str, kind: str, size: int, hidden: Sequence[int], outputs: int, words: int = 1
    ) -> None:
        super().__init__()
        self.site, self.kind = site, kind
        self.given: tuple[str, ...] = (site,)
        tokens = kind == "tokens"
        self.embedding = nn.Parameter(torch.randn(size, EMBEDDING)) if tokens else None
        inputs = words * EMBEDDING if tokens else size
        self.net = Net({"x": inputs}, hidden, outputs, "relu")

    def forward(self, **values: Tensor) -> Tensor:
        """Values ``(..., D)``, words ``(..., W)`` or weights of words ``(..., W, V)``."""
        x = values[self.site]
        if self.kind == "counts":
            x = x.log1p()
        elif self.embedding is not None:
            table = self.embedding
            x = x @ table if x.is_floating_point() else F.embedding(x, table)
            x = x.flatten(-2)
        out: Tensor = self.net(x=x)
        return out


class Decoder(nn.Module):
    """p(modality | z): a network and a likelihood.

    Args:
        kind: The likelihood, one of ``KINDS``.
        size: D, or the vocabulary of tokens.
        latent: Size of z.
        hidden: Units of each hidden layer.
        scale: Of a Laplace or a Normal.
        words: Tokens of a row.
    """

    def __init__(
        self,
        kind: str,
        size: int,
        latent: int,
        hidden: Sequence[int],
        scale: float = 1.0,
        words: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        self.shape = (words, size) if kind == "tokens" else (size,)
        outputs = words * size if kind == "tokens" else size
        self.net = Net({"z": latent}, hidden, outputs, "relu")
        # Of counts, the log of the inverse dispersion.
        self.log_theta = nn.Parameter(torch.zeros(size)) if kind == "counts" else None

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Codes ``(..., L)`` to a distribution of batch shape ``(...)``."""
        raw = self.net(z=z)
        if self.kind == "laplace":
            return dist.Laplace(raw.sigmoid(), self.scale).to_event(1)
        if self.kind == "normal":
            return dist.Normal(raw, self.scale).to_event(1)
        if self.kind == "bernoulli":
            return dist.Bernoulli(logits=raw).to_event(1)
        if self.log_theta is not None:  # the network gives log means
            logits = raw - self.log_theta
            return dist.NegativeBinomial(self.log_theta.exp(), logits=logits).to_event(1)
        return dist.Categorical(logits=raw.unflatten(-1, self.shape)).to_event(1)


class Modalities(nn.Module):
    """Experts and decoders of the modalities of a config.

    Attributes:
        names: The modalities.
        experts: q_m(z | x_m) of each, Normal factors, for a guide.
        decoders: p(x_m | z) of each, by name.
        kinds: Their likelihoods.
        shapes: Shapes of a row of each, of tokens (W, V).
    """

    def __init__(self, config: ModalitiesConfig) -> None:
        super().__init__()
        c, outputs = config, 2 * config.latent
        self.names = c.modalities
        experts, decoders = [], {}
        for name, kind, size, b in zip(c.modalities, c.kinds, c.sizes, c.scales, strict=True):
            net = Reader(name, kind, size, c.hidden, outputs, c.words)
            experts.append(guides.Normal(c.latent, {name: size}, net=net))
            decoders[name] = Decoder(kind, size, c.latent, c.hidden[::-1], b, c.words)
        self.experts: Sequence[guides.Normal] = nn.ModuleList(experts)  # type: ignore[assignment]
        self.decoders = nn.ModuleDict(decoders)
        self.kinds = dict(zip(c.modalities, c.kinds, strict=True))
        self.shapes = {
            name: (c.words, size) if self.kinds[name] == "tokens" else (size,)
            for name, size in zip(c.modalities, c.sizes, strict=True)
        }

    def sample(self, batch: Batch, z: Tensor) -> None:
        """prod_m p(x_m | z) over the modalities that each row has, in the rows' plate."""
        for name in modalities.told(batch, self.names):
            modalities.sample(batch, name, self.decoders[name](z), self.names)

    def told_by(self, card: Card) -> Card:
        """A card with these modalities as its data."""
        return dataclasses.replace(card, data={n: KINDS[k] for n, k in self.kinds.items()})


class PseudoInputs(nn.Module):
    """Learnt rows of a modality, whose codes are a mixture: a prior of what another one says.

    The encoder is the guide's own, and no part of this module.

    Args:
        parts: The modalities.
        site: Which of them.
        count: N, number of rows.
    """

    def __init__(self, parts: Modalities, site: str, count: int) -> None:
        super().__init__()
        self.site, self.kind = site, parts.kinds[site]
        self.expert = (parts.experts[parts.names.index(site)],)
        self.free = nn.Parameter(torch.rand(count, *parts.shapes[site]))

    def codes(self) -> dist.Normal:
        """q(z | u_i) of each, ``(N, L)``."""
        free: Tensor = self.free
        if self.kind == "tokens":
            free = free.softmax(-1)
        elif self.kind == "counts":
            free = F.softplus(free)
        found: dist.Normal = base_of(self.expert[0](**{self.site: free}))
        return found

    def begin(self, batch: Batch) -> None:
        """Take rows of a batch, for ``Stage(start=)``; where it has too few, several times."""
        there = modalities.has(batch, self.site)
        if there is False:
            return
        rows = batch[self.site]
        rows = rows[there] if isinstance(there, Tensor) else rows
        if not len(rows):
            return
        rows = rows[torch.arange(len(self.free), device=rows.device) % len(rows)]
        if self.kind == "tokens":
            rows = 5.0 * F.one_hot(rows, self.free.shape[-1])
        elif self.kind == "counts":
            rows = rows.clamp(min=0.05)
            rows = rows + (-(-rows).expm1()).log()  # the inverse of softplus
        self.free.copy_(rows)


def pseudo_prior(
    inputs: Iterable[PseudoInputs], has: Sequence[Tensor | bool]
) -> dist.TorchDistribution:
    """An even mixture of codes of learnt rows: of the modalities that a row lacks, else of all.

    Args:
        inputs: Learnt rows of each of the modalities.
        has: Which rows have each ``(B,)``, or whether all rows do.
    """
    each = [pseudo.codes() for pseudo in inputs]
    count = len(each[0].loc)
    loc, scale = (torch.cat([getattr(q, name) for q in each]) for name in ("loc", "scale"))
    rows = next((there for there in has if isinstance(there, Tensor)), None)
    if rows is None:
        lacks = torch.tensor([not there for there in has], device=loc.device)
    else:
        wide = [t if isinstance(t, Tensor) else torch.full_like(rows, t) for t in has]
        lacks = ~torch.stack(wide, -1)  # B x M
    lacks = lacks | ~lacks.any(-1, keepdim=True)
    counts = torch.repeat_interleave(lacks, count, -1)  # (B x) M N
    logits = torch.zeros_like(counts, dtype=loc.dtype).masked_fill(~counts, -math.inf)
    wide_loc, wide_scale = (v.expand(*counts.shape, v.shape[-1]) for v in (loc, scale))
    q = dist.Normal(wide_loc, wide_scale).to_event(1)
    return MixtureOfNormals(dist.Categorical(logits=logits), q)
