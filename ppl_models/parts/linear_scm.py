"""A structural causal model that is linear but for an increasing function of each variable.

    u = eps (I - A)^-1,    z_j = f_j(u_j)

Rows are row vectors: A[i, j] is the effect of variable i on variable j. The mask says which
entries there may be; they are learnt from 0, and so are the functions (Shen et al. 2022, JMLR 23,
arXiv 2010.02637, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ppl_models.config import unknown
from ppl_models.networks import Scalar
from ppl_models.parts.mechanisms import Line, Mechanism, vector_of
from ppl_models.parts.scm import SCM

Mask = Mapping[str, Sequence[str]] | Sequence[Sequence[float]] | Tensor | None


class LinearSCM(SCM):
    """Variables of one number each, in an order in which causes stand before their effects.

    Args:
        names: Of the m variables.
        mask: Where A may differ from 0: parents by variable, or a matrix ``(m, m)``; by default
            every arrow from an earlier variable to a later one.
        outer: Called once for each variable, for its increasing function: a module that is
            called with nothing for a transform, such as :class:`Line`, :class:`Curve`, or
            ``lambda: Between(0.0, 1.0)``.

    Attributes:
        weights: A ``(m, m)`` before it is masked.
        mask: ``(m, m)``.

    Raises:
        ValueError: If the mask has another shape, or an arrow that is none from an earlier
            variable to a later one.
    """

    mask: Tensor

    def __init__(
        self,
        names: Sequence[str],
        mask: Mask = None,
        outer: Callable[[], nn.Module] = Line,
    ) -> None:
        names = tuple(names)
        allowed = _mask(names, mask)
        parents = {
            name: {cause: Scalar() for cause in names if allowed[names.index(cause), place]}
            for place, name in enumerate(names)
        }
        super().__init__(**{n: Mechanism(parents[n], outer=(outer(),)) for n in names})
        self.names = names
        self.weights = nn.Parameter(torch.zeros(len(names), len(names)))
        self.register_buffer("mask", allowed.to(self.weights.dtype))

    @property
    def adjacency(self) -> Tensor:
        """A ``(m, m)``; what is masked is exactly 0."""
        return self.weights * self.mask

    def given(self, name: str, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """A variable's distribution at the values of others, its parents among them."""
        mechanism: Any = self.mechanisms[name]
        into = self.adjacency[:, self.names.index(name)]
        loc = mechanism.zero.squeeze(-1)
        for cause, value in self.inner(values, mechanism.given).items():
            loc = loc + into[self.names.index(cause)] * value
        noise = dist.Normal(torch.zeros_like(loc).unsqueeze(-1), 1.0).to_event(1)
        shift = dist.transforms.AffineTransform(loc.unsqueeze(-1), 1.0, event_dim=1)
        scalar = dist.transforms.ReshapeTransform((1,), ())
        outer = [step() for step in mechanism.outer]
        return dist.TransformedDistribution(noise, [shift, scalar, *outer])

    def joint(self) -> dist.TransformedDistribution:
        """All variables together; see :meth:`SCM.joint`."""
        every: Any = self.mechanisms
        outer = [mechanism.outer[0]() for mechanism in every.values()]
        steps: list[Transform] = [_Linear(self.adjacency), _EachItsOwn(outer)]
        return dist.TransformedDistribution(self._noise(), steps)


def _mask(names: Sequence[str], mask: Mask) -> Tensor:
    """Where A may differ from 0, ``(m, m)``."""
    size = len(names)
    if mask is None:
        return torch.ones(size, size).triu(1).bool()
    if isinstance(mask, Mapping):
        found = torch.zeros(size, size).bool()
        for name, causes in mask.items():
            for each in (name, *causes):
                if each not in names:
                    raise ValueError(f"mask: {unknown('variable', each, names)}")
            for cause in causes:
                found[names.index(cause), names.index(name)] = True
    else:
        found = torch.as_tensor(mask).detach().cpu() != 0
    if found.shape != (size, size):
        raise ValueError(f"mask has shape {tuple(found.shape)}, expected {(size, size)}")
    against = found.tril().nonzero().tolist()
    if against:
        cause, effect = (names[place] for place in against[0])
        raise ValueError(
            f"mask has an arrow from {cause!r} to {effect!r}, expected arrows from earlier to "
            f"later ones of {', '.join(names)}"
        )
    return found


class _Linear(Transform):
    """eps -> eps (I - A)^-1, where A has entries above its diagonal only."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.left = torch.eye(len(adjacency)).to(adjacency) - adjacency

    def _call(self, x: Tensor) -> Tensor:
        one = torch.eye(len(self.left)).to(self.left)
        solved: Tensor = torch.linalg.solve_triangular(
            self.left, one, upper=True, unitriangular=True
        )
        return x @ solved

    def _inverse(self, y: Tensor) -> Tensor:
        return y @ self.left

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """0 ``(...)``."""
        return x.new_zeros(x.shape[:-1])


class _EachItsOwn(Transform):
    """A transform of one number for each entry of a vector."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, steps: Sequence[Transform]) -> None:
        super().__init__()
        self.codomain = vector_of([step.codomain for step in steps], [1] * len(steps))
        self.steps = steps

    def _call(self, x: Tensor) -> Tensor:
        return torch.stack([f(u) for f, u in zip(self.steps, x.unbind(-1), strict=True)], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.stack([f.inv(v) for f, v in zip(self.steps, y.unbind(-1), strict=True)], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``(...)``."""
        pairs = zip(self.steps, x.unbind(-1), y.unbind(-1), strict=True)
        return torch.stack([f.log_abs_det_jacobian(u, v) for f, u, v in pairs], -1).sum(-1)
