"""Networks of stories of sets: Normals of codes and contexts, given what is above them.

Shapes: B rows, M elements; features and codes of elements ``(..., M, B, size)``, contexts
``(B, C)`` or, with draws, ``(..., 1, B, C)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.guides.pooling import Pool
from ppl_models.networks import Net, SumLinear


class Modulated(Net):
    """A perceptron whose context ``c`` scales and shifts the features of the other inputs (FiLM).

    ``(1 + A c + a) * (b + sum of W_i v_i) + B c`` in the first layer, in place of a sum over all
    (Perez et al. 2018, arXiv 1709.07871). Giannone and Winther's code has it in the nets of z of
    the variants with attention. A scale of 1 is the sum.

    Args:
        given: Size by input name, ``c`` and others.
        hidden: As :class:`ppl_models.networks.Net` has it.
        outputs: Likewise.
        activation: Likewise.
    """

    def __init__(
        self, given: Mapping[str, int], hidden: Sequence[int], outputs: int, activation: str
    ) -> None:
        others = {name: size for name, size in given.items() if name != "c"}
        super().__init__(others, hidden, outputs, activation)
        self.scale = nn.Linear(given["c"], hidden[0])
        self.shift = nn.Linear(given["c"], hidden[0], bias=False)

    def forward(self, *, c: Tensor, **values: Tensor) -> Tensor:  # type: ignore[override]
        """Features ``(..., M, B, size)``, the context ``(B, C)`` or ``(..., 1, B, C)``."""
        out: Tensor = self.rest((1 + self.scale(c)) * self.first(**values) + self.shift(c))
        return out


class NormalOf(nn.Module):
    """A Normal given some vectors, those of its elements or of its set; N(0, I) of none.

    Args:
        given: Size by input name.
        hidden: Units.
        size: Size of the vector.
        film: Whether a context ``c`` beside other inputs scales and shifts their features.
    """

    zero: Tensor

    def __init__(
        self, given: Mapping[str, int], hidden: int, size: int, film: bool = False
    ) -> None:
        super().__init__()
        self.given = tuple(given)
        kind = Modulated if film and "c" in given and len(given) > 1 else Net
        self.net = kind(given, (hidden,), 2 * size, "silu") if given else None
        self.register_buffer("zero", torch.zeros(size), persistent=False)

    def forward(self, there: Tensor, **values: Tensor) -> dist.TorchDistribution:
        """The distribution; of the inputs those count that it was made for."""
        if self.net is None:
            return dist.Normal(self.zero, 1.0).to_event(1)
        return normal(self.net(**{name: values[name] for name in self.given}))


class ContextOf(nn.Module):
    """The Normal of a context given features of each element, pooled.

    What is known of an element, and of the set from above as ``c``, goes through a layer and a
    residual block and is pooled; the context above counts once more, after the pool (Giannone
    and Winther 2021, arXiv 2110.12279, as their code has it).

    Args:
        given: Size by input name.
        hidden: Units.
        size: Size C of the context.
        pool: As :class:`ppl_models.guides.Pool` has it.
        heads: Likewise.
    """

    def __init__(
        self,
        given: Mapping[str, int],
        hidden: int,
        size: int,
        pool: str = "attention",
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.given = tuple(given)
        self.first, self.act = SumLinear(given, hidden), nn.SiLU()
        self.block = Net({"e": hidden}, (hidden,), hidden, "silu")
        self.pool = Pool(pool, hidden, heads)
        above = {"c": given["c"]} if "c" in given else {}
        self.moments = Net({"pooled": self.pool.size, **above}, (hidden,), 2 * size, "silu")

    def forward(self, there: Tensor, **values: Tensor) -> dist.TorchDistribution:
        """The distribution, whatever the order of the elements.

        Args:
            there: Which elements there are ``(B, M)``.
            values: By name; those count that it was made for.
        """
        e = self.act(self.first(**{name: values[name] for name in self.given}))
        values = {**values, "pooled": self.pool(e + self.block(e=e), there)}
        return normal(self.moments(**{name: values[name] for name in self.moments.given}))


def normal(moments: Tensor) -> dist.TorchDistribution:
    """A Normal of moments ``(..., 2 size)``; scales are at least 1e-3."""
    loc, raw = moments.chunk(2, -1)
    return dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1)


@torch.no_grad()
def begin(pair: nn.Module) -> None:
    """Draw the weights of all linear maps with variance 1 / inputs, and biases 0 (LeCun 1998).

    At torch's own third of that variance signals die out in stories as deep as ladders: for a
    long time decoders say the same of all codes, which the bound then pulls to their prior. So do
    the top codes where contexts scale at random from the start: scales begin at 1.
    """
    for module in pair.modules():
        if isinstance(module, nn.Linear | SumLinear):
            module.reset_parameters()
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(3**0.5)
                else:
                    parameter.zero_()
    for module in pair.modules():
        if isinstance(module, Modulated):
            module.scale.weight.zero_()
            # What is added has the gain of one map of all inputs, too.
            maps = {"c": module.shift.weight, **module.first.weights}
            width = sum(weight.shape[1] for weight in maps.values())
            for name, weight in maps.items():
                own = weight.shape[1] if name == "c" else width - maps["c"].shape[1]
                weight.mul_((own / width) ** 0.5)
