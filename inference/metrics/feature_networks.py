"""Networks whose features images are compared in, each with a name and a digest of its weights.

A Frechet distance is "FID" in the features of one Inception network alone. These need no
download, and their numbers compare models with each other under the same digest only. Never take
the encoder of a model that is judged: it sees what its decoder makes as it likes it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.config import at_least, check_seed, unknown
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.seeds import generator
from ppl_models.data.tables.table import Table
from ppl_models.image_networks import SMALL, STUDY, conv_encoder
from ppl_models.networks import activation_layer
from ppl_models.quiet import quiet

BLOCK = 512  # images that a network takes at once
RATE, BATCH = 1e-3, 128  # of a classifier's training
SMALL_SIDE = 32  # up to which two halvings are enough
CPU = torch.device("cpu")

Shape = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """Features of images, and what has to be known of them to compare two numbers.

    Attributes:
        label: Name, such as ``"classifier:digits"``.
        digest: SHA-256 of architecture and weights, in hexadecimal. Numbers of two digests are of
            two scales.
        layer: Which layer it is, in words.
        d: Number of features.
        shape: ``(H, W, C)`` of its images.
        test_accuracy: Of a classifier on test rows, mean over its labels; None where there is
            none, or nobody has asked.
        comparable_to_inception_fid: Whether values stand beside published FIDs.
    """

    label: str
    digest: str
    layer: str
    d: int
    shape: Shape
    run: Callable[[Tensor], Tensor] = field(repr=False)  # (n, H, W, C) to (n, d)
    test_accuracy: float | None = None
    comparable_to_inception_fid: bool = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: ``(n, H * W * C)`` as in a table, or ``(n, H, W)`` or ``(n, H, W, C)``.

        Returns:
            ``(n, d)``, float64, on the CPU.

        Raises:
            ValueError: If images have another shape, there are none, or one is not finite.
        """
        shaped = _shaped(images, self.shape)
        with quiet(CPU):  # whatever a network of the user's draws, nobody else's draws change
            found = torch.cat([self.run(block).detach().cpu() for block in shaped.split(BLOCK)])
        if found.shape != (len(shaped), self.d):
            raise ValueError(
                f"{self.label} gives shape {tuple(found.shape)} for {len(shaped)} images, "
                f"expected ({len(shaped)}, {self.d})"
            )
        return found.double()


def classifier_features(
    train: Table,
    labels: str | Sequence[str] = "y",
    test: Table | None = None,
    site: str = "x",
    d: int = 64,
    activation: str = "relu",
    steps: int = 1000,
    seed: int = 0,
) -> FeatureNetwork:
    """The last hidden layer of a small convolutional classifier, trained here.

    Convolutions of the disentanglement study (two layers up to 32 pixels a side, else four), a
    dense layer of d features and a softmax for each label; Adam at 1e-3, batches of 128.

    Args:
        train: Rows to learn from, never those that are reported on; rows in which a label is
            hidden are left out.
        labels: Label sites: of one class, or the factors of a set that has several.
        test: Rows that the accuracy is told of.
        site: The site of the images.
        d: Number of features.
        activation: ``"relu"``, or a smooth one of ``networks.ACTIVATIONS``.
        steps: Steps of training.
        seed: Of weights and order.

    Returns:
        ``classifier:`` and the data set's name. Equal rows and seeds give an equal network on
        one machine at one number of threads, as its digest tells.

    Raises:
        ValueError: If a site is missing, is no image or no label, no row has all labels, or a
            label has one class.
    """
    d, steps = at_least(d=(d, 1), steps=(steps, 1))
    seed, names = check_seed(seed), (labels,) if isinstance(labels, str) else tuple(labels)
    if not names:
        raise ValueError("labels are (), expected one label site or several")
    shape = _image_shape(train, site)
    images, classes = _labelled(train, site, names)
    known = None if test is None else _tested(train, test, site, names)
    sizes = [len(train.classes[name]) for name in names]
    for name, column in zip(names, classes.T, strict=True):
        if len(kinds := column.unique()) < 2:
            raise ValueError(
                f"label {name!r} of {train.name} is {int(kinds[0])} in all rows, expected two "
                "classes or more"
            )
    with quiet(CPU, seed), torch.enable_grad():
        body = ConvolutionalFeatures(shape, d, activation)
        head = nn.Linear(d, sum(sizes))
        _train(nn.Sequential(body, head), images, classes, sizes, steps, generator(seed))
    accuracy = None
    if known is not None:
        with torch.no_grad():
            scores = [head(body(v)) for v in known[0].split(BLOCK)]
            told = [part.argmax(1) for part in torch.cat(scores).split(sizes, 1)]
        accuracy = float((torch.stack(told, 1) == known[1]).double().mean())
    name = train.name.partition("/")[0]
    return of_module(f"classifier:{name}", body, "last hidden layer", d, shape, accuracy)


def random_features(shape: Sequence[int], d: int = 64, seed: int = 0) -> FeatureNetwork:
    """A convolutional network with weights as they are drawn: weak, and partial to no model.

    Args:
        shape: ``(H, W)`` or ``(H, W, C)`` of the images.
        d: Number of features.
        seed: Of the weights.

    Raises:
        ValueError: If the shape is none of an image.
    """
    (d,), seed, shape = at_least(d=(d, 1)), check_seed(seed), channels_last(shape)
    with quiet(CPU, seed):
        body = ConvolutionalFeatures(shape, d, "relu")
    return of_module(f"random:{seed}", body, "last layer, untrained", d, shape, None)


def pca_features(images: Tensor, k: int, shape: Sequence[int] | None = None) -> FeatureNetwork:
    """Pixels projected on the first principal components of real images: a check, blind to shape.

    Args:
        images: Real images ``(n, H, W)`` or ``(n, H, W, C)``, or flat ``(n, D)`` with ``shape``.
        k: Number of components.
        shape: ``(H, W)`` or ``(H, W, C)``, if they are flat.

    Raises:
        ValueError: If k is no number of components that the images have.
    """
    shape = channels_last(tuple(images.shape[1:]) if shape is None else shape)
    pixels = _shaped(images, shape).double().flatten(1)
    most = min(len(pixels) - 1, pixels.shape[1])
    (k,) = at_least(k=(k, 1))
    if k > most:
        raise ValueError(f"k is {k}, expected at most {most}, the components of the images")
    mean = pixels.mean(0)
    centred = pixels - mean
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)[:k]
    body = ProjectedPixels(mean, directions.contiguous())
    return of_module(f"pca:{k}", body, "principal components", k, shape, None)


# ---- classifiers ----------------------------------------------------------------------------


class ConvolutionalFeatures(nn.Module):
    """Images ``(n, H, W, C)`` to features ``(n, d)``."""

    def __init__(self, shape: Shape, d: int, activation: str) -> None:
        super().__init__()
        channels = SMALL if max(shape[:2]) <= SMALL_SIDE else STUDY
        self.encoder = conv_encoder(shape, d, channels=channels, hidden=(), activation=activation)
        self.activation = activation
        self.last = activation_layer(activation)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, H, W, C)``; features ``(n, d)``, float32."""
        found: Tensor = self.last(self.encoder(x=images.float().flatten(1)))
        return found


class ProjectedPixels(nn.Module):
    """Images ``(n, H, W, C)`` to their places along directions ``(n, k)``."""

    mean: Tensor
    directions: Tensor

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, H, W, C)``; features ``(n, k)``, float64."""
        return (images.double().flatten(1) - self.mean) @ self.directions.T


def _train(
    net: nn.Module,
    images: Tensor,
    classes: Tensor,
    sizes: Sequence[int],
    steps: int,
    draw: torch.Generator,
) -> None:
    """Cross-entropies of all labels in sum, on batches from passes in random order."""
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    order = torch.empty(0, dtype=torch.long)
    batch = min(BATCH, len(images))
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=draw)
        index, order = order[:batch], order[batch:]
        scores = net(images[index]).split(list(sizes), 1)
        losses = [F.cross_entropy(s, y) for s, y in zip(scores, classes[index].T, strict=True)]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()


def _labelled(table: Table, site: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Images ``(n, H, W, C)`` and classes ``(n, L)`` of the rows that have all labels."""
    for name in (site, *names):
        if name not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', name, table.sites)}")
    for name in names:
        if name not in table.classes or table.sites[name].dim() != 1:
            raise ValueError(f"site {name!r} of {table.name} is no label, expected classes (N,)")
    for name in (site, *names):
        table = table.where_observed(name)
    table.check_rows()
    classes = torch.stack([table.sites[name][:].cpu() for name in names], 1)
    return _shaped(table.sites[site][:], _image_shape(table, site)), classes


def _tested(train: Table, test: Table, site: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """As :func:`_labelled` of rows of the same classes and images as those of the training."""
    found = _labelled(test, site, names)
    if (shape := _image_shape(test, site)) != (own := _image_shape(train, site)):
        raise ValueError(
            f"images of {test.name} have shape {shape}, expected that of training, {own}"
        )
    for name in names:
        if test.classes[name] != train.classes[name]:
            raise ValueError(
                f"label {name!r} of {test.name} has other classes than {train.name}, expected "
                "the same in the same order"
            )
    return found


# ---- shapes and digests ---------------------------------------------------------------------


def _image_shape(table: Table, site: str) -> Shape:
    if site not in table.sites:
        raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
    if site not in table.shapes:
        raise ValueError(
            f"site {site!r} of {table.name} has no shape of images, expected one "
            "(table.known_by(shapes={...}))"
        )
    return channels_last(table.shapes[site])


def channels_last(shape: Sequence[int]) -> Shape:
    """A shape of images as ``(H, W, C)``.

    Args:
        shape: ``(H, W)`` or ``(H, W, C)``.

    Raises:
        ValueError: If it is none of an image.
    """
    found = with_channels(tuple(shape))
    if found is None or min(found) < 1:
        raise ValueError(f"shape is {tuple(shape)}, expected (H, W) or (H, W, C) of an image")
    return found


def _shaped(images: Tensor, shape: Shape) -> Tensor:
    """Images ``(n, H, W, C)``, on the CPU."""
    values = torch.as_tensor(images).detach().cpu()
    fits = values.dim() > 1 and tuple(values.shape[1:]) in (
        (math.prod(shape),),
        shape,
        *([shape[:2]] if shape[2] == 1 else []),
    )
    if not fits or not len(values) or not values.is_floating_point():
        raise ValueError(
            f"images have shape {tuple(values.shape)} and type {values.dtype}, expected floating "
            f"(n, {math.prod(shape)}) or (n, {', '.join(map(str, shape))}), n at least 1"
        )
    if not bool((good := values.flatten(1).isfinite().all(1)).all()):
        raise ValueError(f"image {int((~good).nonzero()[0])} has a number that is not finite")
    return values.reshape(-1, *shape)


def of_module(
    label: str, body: nn.Module, layer: str, d: int, shape: Shape, accuracy: float | None
) -> FeatureNetwork:
    """A network of this module, in evaluation mode from here on."""
    body.eval().requires_grad_(False)
    digest = digest_of({"network": repr(body), "shape": shape}, body.state_dict())
    return FeatureNetwork(label, digest, layer, d, shape, body, accuracy)


def digest_of(told: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """SHA-256 of what is told of a network and of all its weights, in hexadecimal.

    Args:
        told: Plain values.
        state: Its state, as ``state_dict`` gives it.
    """
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, value in state.items():
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            found.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
            found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:  # a module's own further state
            found.update(f"{name} {value!r} ".encode())
    return found.hexdigest()
