"""Feature networks as files, so that values of several days and machines are on one scale.

A file is an npz: weights as plain arrays, and a text that says what they are of. Nothing in it is
unpickled or run; the network is built here, and its digest must be that of the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_models.config import at_least
from ppl_models.data.readers import npz_stream, zip_members
from ppl_models.files import write_atomically
from ppl_models.inference.metrics.classifiers import CPU, ConvolutionalFeatures, channels_last
from ppl_models.inference.metrics.feature_networks import (
    FeatureNetwork,
    ProjectedPixels,
    of_module,
)
from ppl_models.quiet import quiet

ABOUT = "about"
LARGEST_SIDE, MOST_FEATURES = 1024, 1 << 16  # no text of a file makes larger networks than these
LABELS = ("classifier:", "random:", "pca:")


def save_features(network: FeatureNetwork, path: str | Path) -> None:
    """Write a network that was made here.

    Args:
        network: Of a classifier, random, or of principal components. One of your own stays in
            the file that you have it in.
        path: An ``.npz`` file; one that is there is replaced.

    Raises:
        ValueError: If it is a network of your own, or the name ends otherwise.
        OSError: If it cannot be written.
    """
    body, path = network.run, Path(path)
    if not isinstance(body, ConvolutionalFeatures | ProjectedPixels):
        raise ValueError(f"{network.label} is a network of your own, expected one made here")
    if path.suffix != ".npz":
        raise ValueError(f"{path} ends in {path.suffix!r}, expected .npz")
    about = {
        "label": network.label,
        "digest": network.digest,
        "layer": network.layer,
        "d": network.d,
        "shape": network.shape,
        "test_accuracy": network.test_accuracy,
        "activation": body.activation if isinstance(body, ConvolutionalFeatures) else None,
    }
    arrays: dict[str, Any] = {k: v.detach().numpy() for k, v in body.state_dict().items()}
    arrays[ABOUT] = np.array(json.dumps(about))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def load_features(path: str | Path) -> FeatureNetwork:
    """Read a network that :func:`save_features` wrote.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no file of a feature network, naming it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an .npz of a feature network")
    try:
        with zip_members.opened(path) as archive:
            names = npz_stream.names(archive)
            found = {name: npz_stream.array(archive, name) for name in names}
        about = json.loads(str(found.pop(ABOUT)))
        state = {name: torch.from_numpy(values.copy()) for name, values in found.items()}
        return _built(about, state)
    except Exception as error:  # a damaged archive fails anywhere inside zipfile and numpy
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is no whole feature network ({why})") from None


def _built(about: Mapping[str, Any], state: dict[str, Tensor]) -> FeatureNetwork:
    label, accuracy = str(about["label"]), about["test_accuracy"]
    if not label.startswith(LABELS):
        raise ValueError(f"its label is {label!r}")
    if accuracy is not None and not 0 <= float(accuracy) <= 1:
        raise ValueError(f"its accuracy is {accuracy}")
    (d,), shape = at_least(d=(about["d"], 1)), channels_last(about["shape"])
    if max(shape) > LARGEST_SIDE or d > MOST_FEATURES:
        raise ValueError(f"its {d} features are of images of shape {shape}")
    body: nn.Module
    if about["activation"] is None:
        body = ProjectedPixels(state["mean"], state["directions"])
    else:
        # Without memory until the shapes of all weights are known to be the file's.
        with quiet(CPU), torch.device("meta"):
            body = ConvolutionalFeatures(shape, d, str(about["activation"]))
    if isinstance(body, ProjectedPixels):
        size = math.prod(shape)
        wanted = {"mean": (size,), "directions": (d, size)}
    else:
        wanted = {name: tuple(value.shape) for name, value in body.state_dict().items()}
    dtype = torch.float64 if isinstance(body, ProjectedPixels) else torch.float32
    if wanted != {
        name: tuple(value.shape) for name, value in state.items() if value.dtype == dtype
    }:
        raise ValueError("its weights are of other names, shapes or types than it says")
    body.load_state_dict(state, assign=True)
    network = of_module(label, body, str(about["layer"]), d, shape, accuracy)
    if network.digest != about["digest"]:
        raise ValueError("its digest is another one than it says")
    return network
