"""A small convolutional classifier of images with labels: what it sees, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.config import at_least, check_seed, unknown
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.seeds import generator
from ppl_models.data.tables.table import Table
from ppl_models.image_networks import SMALL, conv_encoder
from ppl_models.networks import activation_layer
from ppl_models.quiet import quiet

BLOCK = 512  # images that a network takes at once
RATE = 1e-3  # of Adam
SMALL_SIDE = 32  # up to which two halvings are enough
LARGE, KERNELS = (16, 32, 64), (5, 3, 3)  # maps and kernels above
CPU = torch.device("cpu")

Shape = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True, eq=False)
class ImageClassifier:
    """Probabilities of the classes of one label or several in images.

    Attributes:
        body: Images ``(n, H, W, C)`` to features ``(n, d)``.
        head: Features to scores of all classes of all labels.
        sizes: Number of classes by label.
        shape: ``(H, W, C)`` of its images.
        test_accuracy: By label, on test rows; empty if there were none.
    """

    body: ConvolutionalFeatures
    head: nn.Linear
    sizes: Mapping[str, int]
    shape: Shape
    test_accuracy: Mapping[str, float]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Probabilities ``(n, C)`` by label, in double precision, on the CPU.

        Args:
            images: ``(n, H * W * C)`` as in a table, or ``(n, H, W)`` or ``(n, H, W, C)``.

        Raises:
            ValueError: If images have another shape, there are none, or one is not finite.
        """
        blocks = in_shape(images, self.shape).split(BLOCK)
        scores = torch.cat([self.head(self.body(block)) for block in blocks])
        parts = scores.double().split(list(self.sizes.values()), 1)
        return {name: part.softmax(1) for name, part in zip(self.sizes, parts, strict=True)}


def image_classifier(
    train: Table,
    labels: str | Sequence[str] = "y",
    test: Table | None = None,
    site: str = "x",
    d: int = 64,
    activation: str = "relu",
    steps: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
) -> ImageClassifier:
    """A classifier of images, trained here: a softmax for each label on features they share.

    Halving convolutions (two up to 32 pixels a side, else three) and a dense layer of d features;
    Adam at 1e-3 on the sum of the labels' cross-entropies.

    Args:
        train: Rows to learn from, never those that are reported on; rows in which a label is
            hidden are left out.
        labels: Label sites: of one class, or the factors of a set that has several.
        test: Rows that the accuracy is told of.
        site: The site of the images.
        d: Number of features.
        activation: ``"relu"``, or a smooth one of ``networks.ACTIVATIONS``.
        steps: Steps of training.
        batch_size: Images in a step.
        seed: Of weights and order. Equal rows and seeds give an equal classifier on one machine
            at one number of threads.

    Raises:
        ValueError: If a site is missing, is no image or no label, no row has all labels, or a
            label has one class.
    """
    d, steps, batch_size = at_least(d=(d, 1), steps=(steps, 1), batch_size=(batch_size, 1))
    seed, names = check_seed(seed), (labels,) if isinstance(labels, str) else tuple(labels)
    if not names:
        raise ValueError("labels are (), expected one label site or several")
    shape = _image_shape(train, site)
    images, classes = _labelled(train, site, names)
    known = None if test is None else _tested(train, test, site, names)
    sizes = {name: len(train.classes[name]) for name in names}
    for name, column in zip(names, classes.T, strict=True):
        if len(kinds := column.unique()) < 2:
            raise ValueError(
                f"label {name!r} of {train.name} is {int(kinds[0])} in all rows, expected two "
                "classes or more"
            )
    with quiet(CPU, seed), torch.enable_grad():
        body = ConvolutionalFeatures(shape, d, activation)
        head = nn.Linear(d, sum(sizes.values()))
        net, parts = nn.Sequential(body, head), list(sizes.values())
        optimiser, draw = torch.optim.Adam(net.parameters(), lr=RATE), generator(seed)
        order = torch.empty(0, dtype=torch.long)
        batch = min(batch_size, len(images))
        for _ in range(steps):
            if len(order) < batch:
                order = torch.randperm(len(images), generator=draw)
            index, order = order[:batch], order[batch:]
            scores = net(images[index]).split(parts, 1)
            losses = [F.cross_entropy(s, y) for s, y in zip(scores, classes[index].T, strict=True)]
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()
            optimiser.step()
    net.eval().requires_grad_(False)
    fitted = ImageClassifier(body, head, sizes, shape, {})
    if known is None:
        return fitted
    told = fitted(known[0])
    right = {n: told[n].argmax(1) == column for n, column in zip(names, known[1].T, strict=True)}
    accuracy = {name: float(hit.double().mean()) for name, hit in right.items()}
    return ImageClassifier(body, head, sizes, shape, accuracy)


class ConvolutionalFeatures(nn.Module):
    """Images ``(n, H, W, C)`` to features ``(n, d)``."""

    def __init__(self, shape: Shape, d: int, activation: str) -> None:
        super().__init__()
        small = max(shape[:2]) <= SMALL_SIDE
        sizes = {"channels": SMALL} if small else {"channels": LARGE, "kernels": KERNELS}
        self.encoder = conv_encoder(shape, d, hidden=(), activation=activation, **sizes)
        self.activation = activation
        self.last = activation_layer(activation)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, H, W, C)``; features ``(n, d)``, float32."""
        found: Tensor = self.last(self.encoder(x=images.float().flatten(1)))
        return found


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
    return in_shape(table.sites[site][:], _image_shape(table, site)), classes


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


def in_shape(images: Tensor, shape: Shape) -> Tensor:
    """Images ``(n, H, W, C)``, on the CPU.

    Args:
        images: ``(n, H * W * C)``, ``(n, H, W)`` or ``(n, H, W, C)``.
        shape: ``(H, W, C)``.

    Raises:
        ValueError: If they have another shape, there are none, or one is not finite.
    """
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
