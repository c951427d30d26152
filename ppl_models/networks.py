"""Networks over several named inputs that broadcast late."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.config import unknown

SQUARINGS = 4  # of W W^T: as many steps of the power method as 2^4


class LeakyTanh(nn.Module):
    """tanh(x) + 0.1 x, which no input saturates (Khemakhem et al. 2020, arXiv 1907.04809)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.tanh() + 0.1 * x


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),  # the slope that critics have
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "leaky_tanh": LeakyTanh,
    "selu": nn.SELU,
}


def activation_layer(name: str) -> nn.Module:
    """The layer of a name of ``ACTIVATIONS``.

    Raises:
        ValueError: In one line, if there is no such name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()


class Label(int):
    """Declares an input as an integer label in ``0 .. C-1`` (or its one-hot relaxation)."""


class Scalar(int):
    """Declares an input as one number per row, with no event dimension: ``Scalar()``."""

    def __new__(cls) -> Scalar:  # noqa: D102 - no argument, unlike an int
        return super().__new__(cls, 1)

    def __getnewargs__(self) -> tuple[()]:  # type: ignore[override]
        """No argument for a copy, either."""
        return ()


class Entries(int):
    """Declares an input as all entries of a matrix or larger array: ``Entries((K, D))``."""

    shape: tuple[int, ...]

    def __new__(cls, shape: Sequence[int]) -> Entries:  # noqa: D102
        size = super().__new__(cls, math.prod(shape))
        size.shape = tuple(shape)
        return size

    def __getnewargs__(self) -> tuple[tuple[int, ...]]:  # type: ignore[override]
        """The shape, for a copy."""
        return (self.shape,)


class SumLinear(nn.Module):
    r"""A linear layer over several inputs: :math:`b + \sum_i W_i v_i`.

    Equal to a linear layer on the concatenated inputs (labels as one-hot vectors), but each
    product is formed at the shape of its own input and only the sums broadcast. An
    enumerated label of shape ``(C, 1, 1)`` beside ``x`` of shape ``(B, D)`` therefore costs
    ``B`` products with ``x``, not ``C B``, and ``x`` is never copied per label.

    Args:
        given: Size by input name; a plain integer is the size of a vector's last dimension,
            ``Label(C)`` an integer label, ``Scalar()`` a number without event dimension,
            ``Entries((K, D))`` all entries of a matrix. A name that ends in a question mark may be
            left out of a call: its product is then 0, and so is the vector that marks it as there.
        units: Size of the output.
    """

    def __init__(self, given: Mapping[str, int], units: int) -> None:
        super().__init__()
        if not given:
            raise ValueError("SumLinear needs at least one input")
        optional = [name[:-1] for name in given if name.endswith("?")]
        given = {name.removesuffix("?"): size for name, size in given.items()}
        self.given = given
        self.weights = nn.ParameterDict()
        for name, size in given.items():
            shape = (size, units) if isinstance(size, Label) else (units, size)
            self.weights[name] = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(units))
        self.there = nn.ParameterDict({n: nn.Parameter(torch.empty(units)) for n in optional})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as :class:`torch.nn.Linear` does on the concatenated inputs.

        What is added where an optional input is there begins at 0.
        """
        bound = 1.0 / math.sqrt(sum(self.given.values()))
        with torch.no_grad():
            for parameter in (*(self.weights[name] for name in self.given), self.bias):
                parameter.uniform_(-bound, bound)
            for parameter in self.there.values():
                parameter.zero_()

    def forward(self, **values: Tensor) -> Tensor:
        """Inputs of shape ``(..., size)``, labels ``(...)``; output ``(..., units)``."""
        bias: Tensor | None = self.bias
        total: Tensor | None = None
        for name, size in self.given.items():
            if name in self.there:
                if name not in values:
                    continue
                total = self.there[name] if total is None else total + self.there[name]
            value, weight = values[name], self.weights[name]
            if isinstance(size, Label):
                relaxed = value.is_floating_point()
                part = value @ weight if relaxed else F.embedding(value, weight)
            else:
                if isinstance(size, Scalar):
                    value = value.unsqueeze(-1)
                elif isinstance(size, Entries):
                    value = value.flatten(-len(size.shape))
                # The bias rides on the first product, which saves a pass over the sum.
                try:
                    part = F.linear(value, weight, bias)
                except RuntimeError:
                    if value.dim() and value.shape[-1] == size:
                        raise
                    raise ValueError(
                        f"input {name!r} of a network has shape {tuple(value.shape)}, expected "
                        f"(..., {size})"
                    ) from None
                bias = None
            total = part if total is None else total + part
        if total is None:  # nothing is there
            return self.bias
        return total if bias is None else total + bias


class Net(nn.Module):
    """A perceptron over named inputs whose first layer broadcasts late.

    Args:
        given: Size by input name, as in :class:`SumLinear`.
        hidden: Units of each hidden layer; empty for a linear map.
        outputs: Size of the output.
        activation: One of ``ACTIVATIONS``.

    Raises:
        ValueError: In one line, if ``hidden`` is a number or there is no such activation.
    """

    def __init__(
        self,
        given: Mapping[str, int],
        hidden: Sequence[int],
        outputs: int,
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise ValueError(f"hidden is {hidden}, expected the units of each layer, ({hidden},)")
        sizes = [*hidden, outputs]
        self.first = SumLinear(given, sizes[0])
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [activation_layer(activation), nn.Linear(before, after)]
        self.rest = nn.Sequential(*layers)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.first.given)

    @property
    def optional(self) -> frozenset[str]:
        """Names of the inputs that may be left out of a call."""
        return frozenset(self.first.there.keys())

    def forward(self, **values: Tensor) -> Tensor:
        """Inputs of shape ``(..., size)``, labels ``(...)``; output ``(..., outputs)``."""
        out: Tensor = self.rest(self.first(**values))
        return out


def lecun_normal(net: nn.Module) -> None:
    """Draw the weights of dense layers anew: Normal of variance 1 / inputs; biases stay.

    Kaiming's initialisation with a linear gain, with which layers of SELU keep mean and variance
    of what passes through them (Klambauer et al. 2017, arXiv 1706.02515).

    Args:
        net: A network of :class:`SumLinear` and :class:`torch.nn.Linear`; others stay as they are.
    """
    for module in net.modules():
        if isinstance(module, SumLinear):
            inputs, weights = sum(module.given.values()), list(module.weights.values())
        elif isinstance(module, nn.Linear):
            inputs, weights = module.in_features, [module.weight]
        else:
            continue
        for weight in weights:
            nn.init.normal_(weight, std=1 / math.sqrt(inputs))


class Weightless(nn.Module):
    """A network that is given its weights at each call: for weights that are a site.

    Args:
        net: The network; its weights' shapes are kept, their values are not.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # In a tuple it is no part of this module, and so has no parameters to train.
        self._net = (copy.deepcopy(net).to("meta"),)
        self.shapes = {name: p.shape for name, p in net.named_parameters()}

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(shape.numel() for shape in self.shapes.values())

    def forward(self, weights: Tensor, **values: Tensor) -> Tensor:
        """The network's output.

        Args:
            weights: ``(size,)``, in the order of ``parameters_to_vector``.
            values: Its inputs.
        """
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        out: Tensor = torch.func.functional_call(self._net[0], named, (), values)
        return out


class Part(nn.Module):
    """One of several outputs that stand side by side in that of a shared network.

    Args:
        first: Its first number.
        size: How many numbers it takes.
    """

    def __init__(self, first: int, size: int) -> None:
        super().__init__()
        self.own = slice(first, first + size)

    def forward(self, **values: Tensor) -> Tensor:
        """The one value ``(..., all)`` to ``(..., size)``."""
        (value,) = values.values()
        return value[..., self.own]


class SpectrallyNormalised(nn.Module):
    """A network every matrix of whose weights is divided by its largest singular value.

    No layer then stretches what it is given, so that a critic stays smooth: it cannot tell points
    apart with certainty, and what it teaches does not vanish (Miyato et al. 2018, arXiv
    1802.05957). A kernel of convolutions is a matrix of its outputs, and each input of a
    :class:`SumLinear` has one of its own. Singular values are found anew in each call, by sixteen
    steps of the power method, from below and to some hundredths: nothing is kept from one call to
    the next, as torch's own does, so that a loss is a function of its arguments.

    Args:
        net: Called by keyword; its parameters stay as they are.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.given: tuple[str, ...] = tuple(getattr(net, "given", ("x",)))

    def forward(self, **values: Tensor) -> Tensor:
        """The network's output with weights that are divided."""
        weights = {
            name: weight / _largest_singular_value(weight.flatten(1))
            for name, weight in self.net.named_parameters()
            if weight.dim() > 1
        }
        out: Tensor = torch.func.functional_call(self.net, weights, (), values)
        return out


def _largest_singular_value(matrix: Tensor) -> Tensor:
    """With the gradient of a singular value, at vectors that are constant."""
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    with torch.no_grad():
        power = matrix @ matrix.T
        for _ in range(SQUARINGS):
            power = power / power.trace()
            power = power @ power
        # Cosines of whole numbers are orthogonal to nothing that weights are likely to have.
        start = torch.arange(len(matrix), device=matrix.device).cos().to(matrix.dtype)
        left = F.normalize(power @ start, dim=0)
        right = F.normalize(left @ matrix, dim=0)
    return left @ matrix @ right
