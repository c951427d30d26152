"""Networks whose features images are compared in, each with a name and a digest of its weights.

A Frechet distance is "FID" in the features of one Inception network alone. These need no
download, and their numbers compare models with each other under the same digest only. Never take
the encoder of a model that is judged: it sees what its decoder makes as it likes it.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.config import at_least, check_seed
from ppl_models.data.tables.table import Table
from ppl_models.inference.metrics.classifiers import (
    BLOCK,
    CPU,
    ConvolutionalFeatures,
    Shape,
    channels_last,
    image_classifier,
    in_shape,
)
from ppl_models.quiet import quiet


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
        shaped = in_shape(images, self.shape)
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
    """The last hidden layer of an :func:`image_classifier`, trained here in batches of 128.

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
    fitted = image_classifier(train, labels, test, site, d, activation, steps, seed=seed)
    accuracy = [*fitted.test_accuracy.values()]
    return of_module(
        f"classifier:{train.name.partition('/')[0]}",
        fitted.body,
        "last hidden layer",
        d,
        fitted.shape,
        statistics.fmean(accuracy) if accuracy else None,
    )


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
    pixels = in_shape(images, shape).double().flatten(1)
    most = min(len(pixels) - 1, pixels.shape[1])
    (k,) = at_least(k=(k, 1))
    if k > most:
        raise ValueError(f"k is {k}, expected at most {most}, the components of the images")
    mean = pixels.mean(0)
    centred = pixels - mean
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)[:k]
    body = ProjectedPixels(mean, directions.contiguous())
    return of_module(f"pca:{k}", body, "principal components", k, shape, None)


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
