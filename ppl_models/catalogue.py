"""The catalogue: which papers there are, imported only when one is asked for."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ppl_models.config import Config, check_seed, native, unknown
from ppl_models.data.straight import is_straight, training_data
from ppl_models.data.tables.class_frequencies import class_frequencies
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.pair import Pair

FROM_FILE = "ppl_models_user_"  # begins the names of modules that are a user's file
# Name -> module:class. A test keeps it equal to the papers' folders.
PAPERS: dict[str, str] = {
    "vae": "ppl_models.autoencoders.vae:VAE",
    "cr_vae": "ppl_models.autoencoders.cr_vae:CRVAE",
    "s_vae": "ppl_models.autoencoders.s_vae:SVAE",
    "m1": "ppl_models.semisupervised.m1:M1",
    "m2": "ppl_models.semisupervised.m2:M2",
    "m1m2": "ppl_models.semisupervised.m1m2:M1M2",
    "partially_specified": "ppl_models.semisupervised.partially_specified:PartiallySpecified",
    "faces": "ppl_models.semisupervised.faces:Faces",
    "multi_digits": "ppl_models.semisupervised.multi_digits:MultiDigits",
    "mmdgm": "ppl_models.semisupervised.mmdgm:MMDGM",
    "mmdcgm": "ppl_models.semisupervised.mmdcgm:MMDCGM",
    "chroma_vae": "ppl_models.semisupervised.chroma_vae:ChromaVAE",
    "bayesian_ssl": "ppl_models.semisupervised.bayesian_ssl:BayesianSSL",
    "clsvae": "ppl_models.semisupervised.clsvae:CLSVAE",
    "p3vae": "ppl_models.semisupervised.p3vae:P3VAE",
    "ccvae": "ppl_models.semisupervised.ccvae:CCVAE",
    "deepscm": "ppl_models.causal.deepscm:DeepSCM",
    "imagecfgen": "ppl_models.causal.imagecfgen:ImageCFGen",
    "dear": "ppl_models.causal.dear:DEAR",
    "svae_plus": "ppl_models.bio.svae_plus:SVAEPlus",
    "citris_nf": "ppl_models.causal.citris_nf:CitrisNF",
    "citris_vae": "ppl_models.causal.citris_vae:CitrisVAE",
    "cmi": "ppl_models.disentangled.cmi:CMI",
    "cluster_ica": "ppl_models.disentangled.cluster_ica:ClusterICA",
    "beta_vae": "ppl_models.disentangled.beta_vae:BetaVAE",
    "factor_vae": "ppl_models.disentangled.factor_vae:FactorVAE",
    "beta_tcvae": "ppl_models.disentangled.beta_tcvae:BetaTCVAE",
    "annealed_vae": "ppl_models.disentangled.annealed_vae:AnnealedVAE",
    "dip_vae": "ppl_models.disentangled.dip_vae:DIPVAE",
    "hfs": "ppl_models.disentangled.hfs:HFS",
    "overlap_vae": "ppl_models.disentangled.overlap_vae:OverlapVAE",
    "nashae": "ppl_models.disentangled.nashae:NashAE",
    "guided_vae": "ppl_models.disentangled.guided_vae:GuidedVAE",
    "mvae": "ppl_models.multimodal.mvae:MVAE",
    "mmvae": "ppl_models.multimodal.mmvae:MMVAE",
    "mopoe": "ppl_models.multimodal.mopoe:MoPoE",
    "meme": "ppl_models.multimodal.meme:MEME",
    "hfsgm": "ppl_models.hierarchical.hfsgm:HFSGM",
    "scha_vae": "ppl_models.hierarchical.scha_vae:SCHAVAE",
    "vlae": "ppl_models.hierarchical.vlae:VLAE",
    "ladder_vae": "ppl_models.hierarchical.ladder_vae:LadderVAE",
}
REPORT = "ppl_models.pages.report:of_run"  # what writes the page of a run

PairClass = TypeVar("PairClass", bound=type[Pair])


class Sized(Protocol):
    """What :func:`build` needs of a data set."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size of each site: number of classes of a label, last dimension of a vector."""
        ...


_own: dict[str, type[Pair]] = {}


def names() -> list[str]:
    """Names of all pairs: the package's papers and those registered by the user."""
    return sorted({*PAPERS, *_own})


def register(name: str) -> Callable[[PairClass], PairClass]:
    """Class decorator that puts a pair of your own into the catalogue.

    Raises:
        ValueError: If the name is one of the package's papers.
    """
    if name in PAPERS:
        raise ValueError(f"the name {name!r} is taken by {PAPERS[name]}, choose another")

    def add(cls: PairClass) -> PairClass:
        _own[name] = cls
        return cls

    return add


def get(name: str) -> type[Pair]:
    """The class of a pair.

    Args:
        name: A name in the catalogue, ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: If there is no such pair, naming the nearest.
    """
    if name in _own:
        return _own[name]
    if name not in PAPERS and ":" not in name:
        raise ValueError(unknown("paper", name, names()))
    found = loaded(PAPERS.get(name, name), "pair")
    if not (isinstance(found, type) and issubclass(found, Pair)):
        raise ValueError(f"{name!r} is no Pair, expected a subclass of ppl_models.Pair")
    return found


def loaded(name: str, what: str) -> Any:
    """What a user names as ``package.module:Name`` or ``path/to/file.py:Name``; it is executed.

    Args:
        name: Where it is.
        what: What an error calls it.

    Raises:
        ValueError: If there is none.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else _import(where)
        return getattr(module, attribute)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise ValueError(f"cannot load the {what} {name!r}: {error}") from error


def published(name: object) -> type[Pair] | None:
    """The class of a name that comes from a folder or a file; None if it is no known one.

    Such a name is looked up among the papers, and the pairs that this process has registered
    itself, and nowhere else: nothing is imported or executed on a file's word.

    Args:
        name: Whatever stands there.
    """
    return get(name) if isinstance(name, str) and (name in PAPERS or name in _own) else None


def build(name: str, data: Sized | None = None, *, seed: int = 0, **settings: Any) -> Pair:
    """A pair sized to the data, with reproducible initial weights.

    Args:
        name: See :func:`get`.
        data: Data set that decides the sizes and shapes the config takes from it, and the prior
            of labels that is their frequencies in its labelled training rows; the config then
            holds these numbers. Without, sizes are the paper's, and such a prior is uniform.
        seed: Seed of the initial weights. The global random state is left as it was.
        settings: Fields of the paper's config.

    Raises:
        ValueError: If a setting does not exist or is out of range, the data lack a site or do
            not tell the shape of its images, or frequencies are asked for that they do not have.
    """
    seed = check_seed(seed)
    cls = get(name)
    if is_straight(data):
        data = training_data(data, None, (*cls.card.labels, *cls.card.covariates))
    fields = {f.name: f for f in dataclasses.fields(cls.Config)}
    for key in settings:
        if key not in fields:
            raise ValueError(unknown(f"setting of {name}", key, fields))
    if data is not None:
        for key, field in fields.items():
            site = field.metadata.get("from_data")
            if site is None or key in settings:
                continue
            sites, several = _listed(site, fields, settings), site in fields
            for wanted in sites:
                if wanted not in data.sizes:
                    raise ValueError(
                        f"{name} needs the site {wanted!r}, but the data have {sorted(data.sizes)}"
                    )
            sizes = tuple(data.sizes[wanted] for wanted in sites)
            settings[key] = sizes if several else sizes[0]
        settings |= _shapes(name, fields, settings, data)
    settings |= _counted(name, fields, settings, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = cls(_config(cls, settings, data))
    pair.source = name
    if isinstance(data, Dataset):
        pair.schema = pair.schema_with(data.train, data.roles)
    return pair


def _listed(site: str, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The site, or those that the field of this name lists."""
    return tuple(settings.get(site, fields[site].default)) if site in fields else (site,)


def _shapes(
    name: str, fields: Mapping[str, Any], settings: Mapping[str, Any], data: Sized
) -> dict[str, tuple[int, ...]]:
    """Shapes of images that the config takes from the data."""
    found: dict[str, tuple[int, ...]] = {}
    for key, field in fields.items():
        site = field.metadata.get("shape_from")
        if site is None or key in settings:
            continue
        of = f"the site {site!r}"
        if site not in data.sizes:
            raise ValueError(f"{name} needs {of}, but the data have {sorted(data.sizes)}")
        known = getattr(data, "shapes", {}).get(site)
        if known is None:
            raise ValueError(
                f"{name} needs images at {of}, but the data have vectors of {data.sizes[site]} "
                f"there; say shapes={{{site!r}: (H, W, C)}} of the data, or {key}=(H, W, C)"
            )
        image = with_channels(known)
        if image is None:
            raise ValueError(
                f"{name} needs images (H, W) or (H, W, C) at {of}, but the data have {known}; "
                f"say {key}=(H, W, C) if one image it is"
            )
        found[key] = image
    return found


def _counted(
    name: str, fields: Mapping[str, Any], settings: Mapping[str, Any], data: Sized | None
) -> dict[str, Any]:
    """Priors over labels that are to be frequencies, as the numbers that these come to."""
    table = data.train if isinstance(data, Dataset) else data
    found: dict[str, Any] = {}
    for key, field in fields.items():
        of, value = field.metadata.get("prior_of"), native(settings.get(key, field.default))
        if of is None or not isinstance(value, str) or value != "frequencies":
            continue
        others = "expected 'uniform', 'learnt' or a number per class"
        if isinstance(table, Table):
            sites = _listed(of, fields, settings)
            try:
                shares = [class_frequencies(table, site) for site in sites]
            except ValueError as error:
                raise ValueError(f"{key} is to be frequencies, but {error}; {others}") from None
            found[key] = sum(shares, ())
        elif key in settings:
            raise ValueError(
                f"{key} is to be frequencies, but {name} is built without rows to count; {others}"
            )
        else:
            found[key] = "uniform"
    return found


def _config(cls: type[Pair], settings: Mapping[str, Any], data: Sized | None) -> Config:
    """The settings; where numbers were given for labels, the message says so."""
    try:
        return cls.Config(**settings)
    except ValueError as error:
        if not isinstance(data, Dataset):
            raise
        for site in cls.card.labels:
            values = data.train.sites.get(site)
            if values is not None and values.is_floating_point():
                raise ValueError(
                    f"{error}; site {site!r} of {data.name} holds vectors: give labels as whole "
                    f"numbers or text, or say classes={{{site!r}: C}}"
                ) from None
        raise


def _import(module: str) -> Any:
    return importlib.import_module(module)


def _import_file(path: Path) -> Any:
    name = f"{FROM_FILE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is executed
    spec.loader.exec_module(module)
    for cls in vars(module).values():
        if isinstance(cls, type) and issubclass(cls, Pair) and cls.__module__ == name:
            cls.__reduce_ex__ = _by_its_file  # type: ignore[method-assign, assignment]
    return module


def _by_its_file(pair: Pair, protocol: Any) -> Any:
    """How a pair of a file is pickled: no other process can import its class by name."""
    reduced: Any = object.__reduce_ex__(pair, protocol)
    (make, given, *rest), cls = reduced, type(pair)
    if cls.__module__.startswith(FROM_FILE):
        path = sys.modules[cls.__module__].__file__
        make, given = _empty_pair, (path, cls.__module__, cls.__qualname__)
    return make, given, *rest


def _empty_pair(path: str, module: str, name: str) -> Pair:
    there = sys.modules.get(module) or _import_file(Path(path))
    cls: Any = functools.reduce(getattr, name.split("."), there)
    made: Pair = cls.__new__(cls)
    return made
