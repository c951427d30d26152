"""Counts of genes in cells: a network that reads them, and one that says how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.networks import Net

EMPTY = 1e-6  # library of a cell without a count


class LogCounts(nn.Module):
    """A network of log(1 + x), as counts are of any size, about its mean of each gene.

    Not centred, what all cells have in common outweighs what they differ by: of 40 molecules a
    gene more than half of the first units would be on, or off, for every cell.

    Args:
        given: Sizes by name; ``x`` are the counts.
        hidden: Units of each hidden layer.
        outputs: Size of the output.

    Attributes:
        centre: The means ``(G,)``, 0 until they are counted; see :meth:`count`.
    """

    centre: Tensor

    def __init__(self, given: Mapping[str, int], hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.net = Net(given, hidden, outputs, "relu")
        self.register_buffer("centre", torch.zeros(given["x"]))

    def count(self, batch: Batch) -> None:
        """Take the means from some rows, for ``Stage(start=)``; once, as weights hang on them."""
        if not bool(self.centre.any()):
            self.centre.copy_(batch["x"].log1p().mean(0))

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """``(..., outputs)``."""
        out: Tensor = self.net(x=x.log1p() - self.centre, **values)
        return out


class NegativeBinomial(nn.Module):
    """NB(library softmax(f(...)), theta) of each gene, theta its inverse dispersion.

    Lopez et al. 2018 (scVI). The mean is the gene's share of the library, the variance mean +
    mean^2 / theta; log theta starts at N(0, 1).

    Args:
        given: Sizes by name of what the network f is given.
        hidden: Units of each hidden layer.
        genes: G.
    """

    def __init__(self, given: Mapping[str, int], hidden: Sequence[int], genes: int) -> None:
        super().__init__()
        self.net = Net(given, hidden, genes, "relu")
        self.log_theta = nn.Parameter(torch.randn(genes))

    def forward(self, library: Tensor, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(G,)``.

        Args:
            library: All counts of the cell ``(..., 1)``; a cell of none counts as one of next to
                none, to which no count is certain.
            values: What the network is given.
        """
        log_mean = library.clamp_min(EMPTY).log() + self.net(**values).log_softmax(-1)
        logits = log_mean - self.log_theta
        return dist.NegativeBinomial(self.log_theta.exp(), logits=logits).to_event(1)
