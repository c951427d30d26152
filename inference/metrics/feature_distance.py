"""Distances of images from real ones, each with all that it takes to compare it with another.

What is published as FID is the distance in the features of one network, from one reference, at one
number of images. A value here says all of that, is called by its network, and two that differ in
any of it are refused in one table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.inference.metrics.disentanglement.results import VERSIONS
from ppl_models.inference.metrics.feature_networks import FeatureNetwork
from ppl_models.inference.metrics.frechet import (
    Moments,
    as_features,
    extrapolated_distance,
    frechet_bias,
    frechet_distance,
    kernel_distance,
)

NUMBERS = ("value", "error", "bias")  # of one model; all else is of the comparison


@dataclass(frozen=True)
class FeatureDistance:
    """A distance in features, with its label.

    Attributes:
        metric: ``"fd"``, ``"fd_infinity"`` or ``"kid"``.
        value: The distance.
        error: Of ``fd_infinity`` the fit's residual, of ``kid`` its standard error; NaN of others.
        bias: Of ``fd``, what two samples of one Gaussian with the reference's covariance and
            these numbers of rows have on average
            (:func:`~ppl_models.inference.metrics.frechet.frechet_bias`); NaN where one has
            no more rows than features, and of the others, which have none of order 1/n.
        network: The label of the feature network.
        digest: Its SHA-256.
        layer: Its layer.
        d: Its number of features.
        test_accuracy: Of a classifier; NaN where none is known.
        n_real: Rows of the reference.
        n_fake: Rows compared with it.
        split: Which rows the reference is.
        images: What was compared with it, such as ``"samples, mean"``.
        seed: Of subsets; -1 where nothing was drawn.
        comparable_to_inception_fid: Whether it stands beside published FIDs.
    """

    metric: str
    value: float
    error: float
    bias: float
    network: str
    digest: str
    layer: str
    d: int
    test_accuracy: float
    n_real: int
    n_fake: int
    split: str
    images: str
    seed: int
    comparable_to_inception_fid: bool

    @property
    def key(self) -> str:
        """Its name, such as ``"fd[classifier:digits]"``."""
        return f"{self.metric}[{self.network}]"

    def __str__(self) -> str:
        """E.g. ``fd[pca:8] = 4.16 (bias 3.9; 298 of 'samples' against 298 of 'train')``."""
        part = {"fd": f"bias {self.bias:.3g}"}.get(self.metric, f"error {self.error:.2g}")
        return (
            f"{self.key} = {self.value:.4g} ({part}; {self.n_fake} of {self.images!r} against "
            f"{self.n_real} of {self.split!r})"
        )

    def dataset(self) -> xr.Dataset:
        """The value as a variable called by :attr:`key`, everything else as its attributes."""
        return _dataset({"": self}, None)


class FrechetDistance:
    """Distances of images from a reference, in the features of one network.

    Images come in any number of parts; their features are kept (``8 n d`` bytes), as subsets are
    drawn of them. Everything is float64.

    Args:
        features: The network.
        reference: Real images, as the network takes them: by the published convention training
            rows.
        split: Which rows they are, in words; it travels with every value.
        images: What is compared with them, in words, such as ``"samples, mean"``,
            ``"samples, drawn"`` or ``"reconstructions of test, mean"``; likewise.

    Raises:
        ValueError: If there are fewer than two real images, or they do not fit the network.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        reference: Tensor,
        split: str = "train",
        images: str = "samples",
    ) -> None:
        self.features, self.split, self.images = features, split, images
        self._real = as_features("features of the reference", features(reference), 2)
        self._moments = Moments.of(self._real)
        self._fake: list[Tensor] = []

    def update(self, images: Tensor) -> None:
        """Add images ``(n, ...)``, as the network takes them.

        Raises:
            ValueError: If they do not fit the network.
        """
        self._fake.append(self.features(images))

    def reset(self) -> None:
        """Forget the images that were added; the reference stays."""
        self._fake.clear()

    def compute(self) -> FeatureDistance:
        """The plain distance. Compare models at equal numbers of images: it falls as they grow.

        Raises:
            ValueError: If there are fewer than two images.
        """
        fake = self._added(2)
        bias = math.nan
        if min(len(fake), len(self._real)) > self.features.d:
            spectrum = torch.linalg.eigvalsh(self._moments.covariance).clamp(min=0)
            bias = sum(frechet_bias(spectrum, len(rows)) for rows in (fake, self._real))
        return self._value("fd", self._distance(fake), bias=bias)

    def extrapolate(self, seed: int = 0) -> FeatureDistance:
        """The distance of infinitely many images, by a line through those of subsets.

        See :func:`~ppl_models.inference.metrics.frechet.extrapolated_distance`. The bias of the
        reference stays, which is the same for all models.

        Args:
            seed: Of the subsets.

        Raises:
            ValueError: If there are fewer than 20 images.
        """
        found = extrapolated_distance(self._distance, self._added(20), seed)
        return self._value("fd_infinity", found.value, error=found.residual, seed=seed)

    def kid(self, seed: int = 0) -> FeatureDistance:
        """The kernel distance, without bias at any number of images; it may be negative.

        To be preferred where there are fewer images than about ten times the features. See
        :func:`~ppl_models.inference.metrics.frechet.kernel_distance`.

        Args:
            seed: Of the parts that its standard error comes from.

        Raises:
            ValueError: If there are fewer than 20 images, or of the reference.
        """
        found = kernel_distance(self._real, self._added(20), seed)
        return self._value("kid", found.value, error=found.error, seed=seed)

    def _distance(self, fake: Tensor) -> float:
        few = min(len(fake), len(self._real)) < self.features.d
        return frechet_distance(self._real if few else self._moments, fake)

    def _added(self, least: int) -> Tensor:
        count = sum(map(len, self._fake))
        if count < least:
            raise ValueError(f"{count} images were added, expected at least {least}")
        return torch.cat(self._fake)

    def _value(
        self,
        metric: str,
        value: float,
        error: float = math.nan,
        bias: float = math.nan,
        seed: int = -1,
    ) -> FeatureDistance:
        net = self.features
        accuracy = math.nan if net.test_accuracy is None else net.test_accuracy
        return FeatureDistance(
            metric, value, error, bias, net.label, net.digest, net.layer, net.d, accuracy,
            len(self._real), sum(map(len, self._fake)), self.split, self.images, seed,
            net.comparable_to_inception_fid,
        )  # fmt: skip


def distance_table(values: Mapping[str, FeatureDistance], dim: str = "model") -> xr.Dataset:
    """Values of several models in one table, if they are comparable.

    Args:
        values: By model.
        dim: Name of the dimension of models.

    Returns:
        A variable called as the values are, such as ``fd[classifier:digits]``, over the models,
        with what they have in common as attributes; beside it their bias or error.

    Raises:
        ValueError: If there are none, or two are of other metrics, networks, references, numbers
            of rows or kinds of images, naming both and what differs.
    """
    if not values:
        raise ValueError("no values were given, expected at least one")
    first, *others = values
    for other in others:
        for name in (f.name for f in fields(FeatureDistance)):
            one, two = (getattr(values[m], name) for m in (first, other))
            if name not in (*NUMBERS, "test_accuracy") and one != two:
                raise ValueError(
                    f"{first!r} has {name} {one!r} and {other!r} {two!r}: such values are not "
                    "comparable, expected one table for each"
                )
    return _dataset(values, dim)


def _dataset(values: Mapping[str, FeatureDistance], dim: str | None) -> xr.Dataset:
    some = next(iter(values.values()))
    told = {k: v for k, v in asdict(some).items() if k not in NUMBERS}
    # Files of netCDF hold no truth values.
    told["comparable_to_inception_fid"] = int(some.comparable_to_inception_fid)
    found = {}
    for number in NUMBERS:
        of_models = np.array([getattr(v, number) for v in values.values()])
        if number == "value" or not np.isnan(of_models).all():
            name = some.key if number == "value" else f"{some.metric}_{number}[{some.network}]"
            data = of_models[0] if dim is None else of_models
            found[name] = (() if dim is None else (dim,), data, told)
    # A coordinate and no attribute: xarray looks at no attributes where it merges or stacks.
    coords = {
        f"digest[{some.network}]": some.digest,
        **({} if dim is None else {dim: list(values)}),
    }
    return xr.Dataset(found, coords, {**VERSIONS, "version_torch": str(torch.__version__)})
