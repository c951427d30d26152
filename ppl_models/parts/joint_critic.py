"""A critic of pairs (x, z) that looks at x, at z and at both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ppl_models.networks import Net, activation_layer


class JointCritic(nn.Module):
    """The mean of three heads: of what a network reads off x, of the codes, and of both.

    Shen et al. (2022, JMLR 23, arXiv 2010.02637, appendix) judge encoded and generated points so.

    Args:
        reader: Reads ``x`` alone; gives ``(B, features)``.
        features: Their number.
        codes: Sizes of the codes by name, as networks take them.
        hidden: Units of the hidden layers of the heads.
        activation: Name of the activation.
    """

    def __init__(
        self,
        reader: nn.Module,
        features: int,
        codes: Mapping[str, int],
        hidden: Sequence[int],
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.given = ("x", *codes)
        self.reader = nn.ModuleList([reader, activation_layer(activation)])
        seen = {"x": features}
        self.of_x = Net(seen, hidden[-1:], 1, activation)
        self.of_z = Net(codes, hidden, 1, activation)
        self.of_both = Net({**seen, **codes}, hidden, 1, activation)

    def forward(self, **values: Tensor) -> Tensor:
        """Log ratio ``(B, 1)`` at ``x`` and codes ``(B, ...)``."""
        x, codes = values["x"], {n: values[n] for n in self.given[1:]}
        reader, bend = self.reader
        seen = bend(reader(x=x))
        heads = self.of_x(x=seen), self.of_z(**codes), self.of_both(x=seen, **codes)
        mean: Tensor = sum(heads[1:], heads[0]) / 3
        return mean
