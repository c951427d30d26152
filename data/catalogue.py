"""The catalogue of data sets: which there are, imported only when one is asked for."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppl_models.config import native, unknown
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.store.h5_store import is_stored
from ppl_models.data.tables.supervision import repeat
from ppl_models.data.tables.table import Dataset

log = logging.getLogger(__name__)

LOADERS = {
    "ball_in_boxes": "ppl_models.data.render.ball_in_boxes:load",
    "beamsynthesis": "ppl_models.data.render.beamsynthesis:load",
    "blob": "ppl_models.data.render.squares:load_blob",
    "boxhead": "ppl_models.data.render.boxhead:load",
    "bright_digits": "ppl_models.data.render.bright_digits:load",
    "candle": "ppl_models.data.readers.candle:load",
    "candle_like": "ppl_models.data.render.candle:load",
    "captions": "ppl_models.data.render.paired:load_captions",
    "cars3d": "ppl_models.data.readers.views:load_cars3d",
    "cifar10": "ppl_models.data.readers.cifar:load",
    "circle": "ppl_models.data.render.circle:load",
    "color_dsprites": "ppl_models.data.render.dsprites:load_color",
    "concepts": "ppl_models.data.render.concepts:load",
    "correlated_digits": "ppl_models.data.render.correlated_digits:load",
    "digits": "ppl_models.data.readers.digits:load",
    "dsprites": "ppl_models.data.render.dsprites:load_dsprites",
    "dsprites_official": "ppl_models.data.readers.factor_grids:load_dsprites",
    "entangled_vectors": "ppl_models.data.render.entangled_vectors:load",
    "faces": "ppl_models.data.render.faces:load_faces",
    "few_shot": "ppl_models.data.render.fewshot:load",
    "glyphs": "ppl_models.data.render.glyphs:load",
    "ica_segments": "ppl_models.data.render.ica_segments:load",
    "interventional_pong": "ppl_models.data.render.interventional_pong:load",
    "microarray": "ppl_models.data.readers.arrays_h5:load_microarray",
    "mini_dsprites": "ppl_models.data.render.dsprites:load_mini",
    "mnist": "ppl_models.data.readers.mnist:load",
    "moons": "ppl_models.data.render.moons:load",
    "morpho_mnist": "ppl_models.data.render.morpho:load",
    "mpi3d": "ppl_models.data.readers.factor_grids:load_mpi3d",
    "multi_digits": "ppl_models.data.render.faces:load_multi_digits",
    "noisy_dsprites": "ppl_models.data.render.dsprites:load_noisy",
    "noisy_images": "ppl_models.data.render.noisy:load",
    "omniglot": "ppl_models.data.readers.omniglot:load",
    "outliers": "ppl_models.data.render.outliers:load",
    "paired_digits": "ppl_models.data.render.paired:load_digits",
    "patch_digits": "ppl_models.data.render.patch_digits:load",
    "pendulum": "ppl_models.data.render.pendulum:load",
    "pendulum_dear": "ppl_models.data.render.pendulum:load_dear",
    "pendulum_vectors": "ppl_models.data.render.pendulum:load_vectors",
    "perturb_sim": "ppl_models.data.render.perturb_sim:load",
    "shapes3d": "ppl_models.data.readers.factor_grids:load_shapes3d",
    "shapes3d_like": "ppl_models.data.render.shapes3d:load",
    "smallnorb": "ppl_models.data.readers.views:load_smallnorb",
    "spectra": "ppl_models.data.render.spectra:load",
    "stroke_digits": "ppl_models.data.render.strokes:load",
    "textured_dsprites": "ppl_models.data.render.dsprites:load_textured",
    "xyobject": "ppl_models.data.render.squares:load_xyobject",
    "xysquare": "ppl_models.data.render.squares:load_xysquare",
    "xysquares": "ppl_models.data.render.squares:load_xysquares",
}


SOURCES = {  # of the sets that are read from files, or made of what is
    "bright_digits": "ppl_models.data.render.handwriting:files",
    "candle": "ppl_models.data.readers.candle:candle_files",
    "cars3d": "ppl_models.data.readers.views:cars3d_files",
    "cifar10": "ppl_models.data.readers.cifar:files",
    "concepts": "ppl_models.data.render.concepts:files",
    "correlated_digits": "ppl_models.data.render.handwriting:files",
    "dsprites_official": "ppl_models.data.readers.factor_grids:dsprites_files",
    "few_shot": "ppl_models.data.render.fewshot:files",
    "microarray": "ppl_models.data.readers.arrays_h5:microarray_files",
    "mnist": "ppl_models.data.readers.mnist:files",
    "morpho_mnist": "ppl_models.data.render.handwriting:files",
    "mpi3d": "ppl_models.data.readers.factor_grids:mpi3d_files",
    "multi_digits": "ppl_models.data.render.handwriting:files",
    "omniglot": "ppl_models.data.readers.omniglot:files",
    "shapes3d": "ppl_models.data.readers.factor_grids:shapes3d_files",
    "smallnorb": "ppl_models.data.readers.views:smallnorb_files",
}

FILES = {  # by the ending of a path
    ".h5": "ppl_models.data.readers.arrays_h5:load_file",
    ".h5ad": "ppl_models.data.readers.anndata:load_file",
    ".h5mu": "ppl_models.data.readers.modalities:load_file",
    ".npz": "ppl_models.data.readers.npz_file:load_file",
}
STORED = "ppl_models.data.store.h5_store:load_file"


def names() -> list[str]:
    """Names of the data sets; any path of a file of :func:`is_file` is one too."""
    return sorted(LOADERS)


def is_file(name: str | Path) -> bool:
    """Whether a name is the path of a file: ``.h5``, ``.h5ad``, ``.h5mu`` or ``.npz``."""
    return Path(name).suffix in FILES


def loader(name: str | Path) -> Callable[..., Dataset]:
    """The function that loads a data set; its signature says which options there are.

    Args:
        name: One of :func:`names`, or the path of a file.

    Raises:
        ValueError: If there is no such data set, naming the nearest.
    """
    name = str(native(name))  # a path
    if is_file(name):
        ending = Path(name).suffix
        place = STORED if ending == ".h5" and is_stored(name) else FILES[ending]
        # Its recipe then leads to it from every folder.
        return _of_file(_function(place), os.path.abspath(name))
    if name not in LOADERS:
        raise ValueError(
            f"{unknown('data set', name, LOADERS)}, or the path of an {', '.join(FILES)} file"
        )
    return _function(LOADERS[name])


def _of_file(reader: Callable[..., Dataset], path: str) -> Callable[..., Dataset]:
    """A reader of one file: ``help`` and ``inspect.signature`` show its options."""
    signature = inspect.signature(reader)
    options = list(signature.parameters.values())[1:]

    # Not functools.wraps, whose __wrapped__ stands for factors here.
    def load(*args: Any, **options: Any) -> Dataset:
        return reader(path, *args, **options)

    load.__name__, load.__qualname__ = reader.__name__, reader.__qualname__
    load.__module__, load.__doc__ = reader.__module__, reader.__doc__
    load.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return load


def sources(name: str | Path, **options: Any) -> list[Path]:
    """The files that a data set is read from; none if it is drawn.

    Args:
        name: As :func:`load` takes it.
        options: What it is loaded with; what does not matter here is passed over.

    Raises:
        FileNotFoundError: If files that it needs are not there, saying which ones to put where.
    """
    if is_file(name):
        beside = options.get("beside") or {}
        return [path for path in map(Path, (name, *beside.values())) if path.is_file()]
    if str(name) not in SOURCES:
        return []
    function = _function(SOURCES[str(name)])
    known = inspect.signature(function).parameters
    found: list[Path] = function(**{n: v for n, v in options.items() if n in known})
    return found


def _function(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def load(name: str | Path, **options: Any) -> Dataset:
    """Load a data set.

    Args:
        name: One of :func:`names`, or the path of a file: an ``.h5`` of :func:`write`, an
            ``.h5`` or ``.npz`` with an array per site, an ``.h5ad`` of AnnData, or an ``.h5mu``
            of MuData.
        options: See the loader, ``help(data.loader(name))``.

    Raises:
        FileNotFoundError: If its files are not there, saying which ones to put where.
        ValueError: If there is no such data set or option, naming the nearest.
    """
    function = loader(name)
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    if isinstance(root := options.get("root"), str | Path):
        options["root"] = os.path.abspath(root)
    found: Dataset = function(**native(options))
    sizes = (len(part) for part in (found.train, found.validation, found.test))
    log.info("read %s: %d training, %d validation and %d test rows", name, *sizes)
    return found


def remake(recipe: Mapping[str, Any]) -> Dataset:
    """Make a data set again from its recipe, with the steps taken since it was loaded.

    Args:
        recipe: ``dataset.recipe``; whether its ``digest`` comes out is the caller's to see.

    Raises:
        FileNotFoundError: If its files are not there.
        ValueError: If the set, an option or a step is unknown.
    """
    steps = [
        {**step, "second": remake(step["second"])} if "second" in step else step
        for step in recipe.get("steps", ())
    ]
    return repeat(load(recipe["name"], **recipe["options"]), steps)


def factor_data(name: str, **options: Any) -> FactorData:
    """The factors behind a data set, for rendering on demand and for metrics.

    Args:
        name: A name of :func:`ppl_models.data.names` that has factors.
        options: What it is made with, such as ``spacing`` of ``xysquares``.

    Raises:
        ValueError: If there is no such data set or option, or it has no factors.
    """
    make = _factors_maker(name)
    for option in options:
        if option not in (known := inspect.signature(make).parameters):
            raise ValueError(unknown(f"option of {name}", option, known))
    return make(**options)


def factors_of(recipe: Mapping[str, Any]) -> FactorData:
    """The factors behind the rows of a data set, made as these were.

    Args:
        recipe: ``dataset.recipe``.

    Raises:
        ValueError: If the set has no factors.
    """
    make = _factors_maker(recipe["name"])
    known = inspect.signature(make).parameters
    return make(**{n: v for n, v in recipe.get("options", {}).items() if n in known})


def _factors_maker(name: str) -> Callable[..., FactorData]:
    make: Callable[..., FactorData] | None = getattr(loader(name), "__wrapped__", None)
    if make is None:
        raise ValueError(f"{name} has no factors, expected a set that is made from them")
    return make
