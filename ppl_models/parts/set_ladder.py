"""Contexts of a set and codes of its elements, sampled by turns from the top down."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
from torch import Tensor, nn

from ppl_models import elements
from ppl_models.batch import Batch
from ppl_models.networks import Net
from ppl_models.parts.set_contexts import ContextOf, NormalOf


@dataclass(frozen=True)
class Rungs:
    """Which sites a ladder has, and the networks between them.

    Attributes:
        layers: Layers of codes, L.
        contexts: ``"each"`` layer has one, the ``"top"`` one, or ``"none"``.
        latent: Size of a code.
        context: Size of a context.
        hidden: Units.
        pool: As :class:`ppl_models.guides.Pool` has it.
        heads: Likewise.
        film: Pools with which contexts scale the codes' features beside shifting them: that of
            this name, ``"all"`` or ``"none"``.
    """

    layers: int
    contexts: str
    latent: int
    context: int
    hidden: int
    pool: str
    heads: int
    film: str


class Ladder(nn.Module):
    """The sites c_L, z_L, c_L-1, ..., z_1: of the story, or given features h of the guide.

    Args:
        r: Its rungs.
        h: Size of the features of each element; 0 for the story, which has none.
        uses_z: Whether a context sees the codes above it.
    """

    def __init__(self, r: Rungs, h: int = 0, uses_z: bool = True) -> None:
        super().__init__()
        self.contexts, self.codes = nn.ModuleDict(), nn.ModuleDict()
        given = {"h": h} if h else {}
        for layer in [str(layer) for layer in range(r.layers, 0, -1)]:
            above = {"z": r.latent} if self.codes else {}
            if r.contexts == "each" or (r.contexts == "top" and not self.codes):
                wide = {**given, **(above if uses_z else {})}
                if self.contexts:
                    wide["c"] = r.context
                self.contexts[layer] = (
                    ContextOf(wide, r.hidden, r.context, r.pool, r.heads)
                    if wide.keys() & {"h", "z"}
                    else NormalOf(wide, r.hidden, r.context)
                )
            wide = {**given, **above, **({"c": r.context} if self.contexts else {})}
            film = r.film in ("all", r.pool)
            self.codes[layer] = NormalOf(wide, r.hidden, r.latent, film)

    def forward(
        self, there: Tensor, element: elements.plate, **given: Tensor
    ) -> dict[str, Tensor]:
        """Sample within the rows' plate.

        Args:
            there: Which elements there are ``(B, M)``.
            element: The plate of the elements.
            given: The features ``h`` ``(M, B, H)``, where it has them.

        Returns:
            All sites by name, contexts ``(B, C)`` and codes ``(M, B, Z)``; draws on the left.
        """
        found = {}
        for layer, code in self.codes.items():
            if layer in self.contexts:
                fn = self.contexts[layer](there=there, **given)
                found[f"c_{layer}"] = given["c"] = pyro.sample(f"c_{layer}", fn)
            with element:
                fn = code(there=there, **given)
                found[f"z_{layer}"] = given["z"] = pyro.sample(f"z_{layer}", fn)
        return found


class LadderGuide(nn.Module):
    """The same turns, given features of the elements.

    Args:
        r: The rungs.
        data_dim: Size D of an element.
        most: Elements of a row of which nothing is known.
    """

    def __init__(self, r: Rungs, data_dim: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.element = Net({"x": data_dim}, (r.hidden,), r.hidden, "silu")
        self.ladder = Ladder(r, r.hidden)

    def forward(self, batch: Batch) -> None:
        """Sample contexts and codes."""
        there = elements.present(batch, "x", self.most, batch.count)
        h = elements.inside(self.element(x=elements.filled(batch["x"], there)))  # M x B x H
        with batch.plate():
            self.ladder(there, elements.plate("element", there), h=h)
