"""A pair: one generative story and its guide, over the same batch."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import pyro
import pyro.distributions as dist
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from ppl_models import counterfactuals, interventions, pair_html
from ppl_models.batch import Batch
from ppl_models.config import Config as Settings, unknown
from ppl_models.covariates import NothingSaid
from ppl_models.data.tables.schema import Schema
from ppl_models.data.tables.table import Table
from ppl_models.elements import THERE
from ppl_models.guides.protocol import listed
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.classification import Classification
from ppl_models.inference.objectives.elbo import EnumeratedELBO
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.traces.global_posteriors import global_posterior

Density = Literal["data", "codes", "none"]
DENSITIES = get_args(Density)


@dataclass(frozen=True)
class Card:
    """What a reader wants to know of a paper before running it.

    Attributes:
        name: Name in the catalogue.
        title: Title of the paper.
        authors: Authors, as printed.
        year: Year of publication.
        arxiv: arXiv number, a DOI, or ``openreview:NUMBER``; empty of a story without a paper.
        task: The idea in a few words.
        data: Meaning of each site that comes from the data, by site name.
        latents: Meaning of each latent site, by site name.
        labels: Sites that are observed in some rows and latent in others.
        covariates: Meaning of each site that conditions the story and is never scored, such as
            batch or library size; every batch has them, and stories take them with
            ``batch["name"]``.
        density: What the density of a row is of: ``"data"``; ``"codes"``, where the story tells
            of embeddings alone and the data are covariates, as in contrastive learning; or
            ``"none"``, where data are made and not scored, as by an implicit generator. The
            evidence, k-hat and LOO of rows are of data, and left out, with the reason, of others.
        objectives: Objectives the pair was tried with; the paper's own first.
        departs: Where this pair departs from the paper, and why.
        limits: What it cannot do, and what data it does not fit.
        picture: What the picture on its docs page shows; none without.
        drawn: Settings of the pair in its plate diagram, where the default one has too many
            sites to be read; by name.
        causes: Sites that a user may set and whose effects the story tells: the variables of its
            structural causal model. Reports show counterfactuals of them.
        numbers: Sites of the data that are one number per row, without event dimension; they are
            taken so from data that have them as a column ``(N, 1)``, as files do.
    """

    name: str
    title: str
    authors: str
    year: int
    arxiv: str = ""
    task: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    latents: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("elbo",)
    departs: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    picture: str = ""
    drawn: Mapping[str, Any] = field(default_factory=dict)
    covariates: Mapping[str, str] = field(default_factory=dict)
    density: Density = "data"
    causes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown density, a covariate that is a site, and a cause that is none."""
        if self.density not in DENSITIES:
            raise ValueError(f"card {self.name!r}: {unknown('density', self.density, DENSITIES)}")
        for name in self.covariates:
            if name in self.data or name in self.latents or name in self.labels:
                raise ValueError(
                    f"card {self.name!r}: {name!r} is a covariate and a site that is scored, "
                    "expected one of the two"
                )
        sites = (*self.data, *self.latents, *self.labels)
        for what, names in (("cause", self.causes), ("number", self.numbers)):
            for name in names:
                if name not in sites:
                    raise ValueError(f"card {self.name!r}: {unknown(what, name, sites)}")

    @property
    def given(self) -> tuple[str, ...]:
        """Sites that a row comes with: the data's, then covariates; labels are not among them."""
        return (*self.data, *self.covariates)


class Pair(nn.Module):
    """A model and its guide; plain Pyro, with parameters in modules only.

    A subclass sets ``Config`` and ``card``, builds its networks and its ``guide`` in
    ``__init__`` and writes ``model(batch)``. The guide is a module called with the same
    batch, usually :class:`ppl_models.guides.Factored`. All row-wise sites stand in
    ``self.plate(batch)``.

    Attributes:
        config: The settings it was built with.
        source: The name it was built by.
        plate_nesting: Number of plate dimensions of its story, the data plate included: the
            default of every objective and algorithm.
        coordinates: Names along dimensions of an export, by dimension: those of the entries of a
            plate, or of a site's event, such as ``{"edge_dim_0": ("age", "sex")}``.
        supports: Of sites of the data that the story does not have, such as labels that a term
            of the objective reads as one number per row: what they may be, and for what, in
            words. Rows are compared with it before training, as others are with the story.
        may_lack: Sites of the data that a row may lack, and that story and guide take under marks
            (:mod:`ppl_models.modalities`): rows come in one batch whichever of them they have,
            and not in a batch for each combination.
        guide: The variational family, called with a batch.
        schema: What it was fitted on; every table that it is asked about is brought to it.
        fitted: Whether a training has moved its weights: another goes on from them.
    """

    Config: ClassVar[type[Settings]]
    plate_nesting: ClassVar[int] = 1
    coordinates: Mapping[str, Sequence[str]] = MappingProxyType({})
    supports: Mapping[str, tuple[Constraint, str]] = MappingProxyType({})
    card: Card  # of the class; an instance whose sites depend on its config has its own
    may_lack: tuple[str, ...] = ()
    fitted: bool = False
    guide: Any
    _repr_html_ = pair_html.of_pair

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.source = self.card.name
        self.schema: Schema | None = None

    def model(self, batch: Batch) -> Any:
        """The generative story, as Pyro sites inside ``self.plate(batch)``."""
        raise NotImplementedError(f"{type(self).__name__} needs a model(batch)")

    def objective(self, bound: Objective | None = None) -> Objective:
        """The objective that the paper trains with.

        Unless overridden it is the bound, and log q(label | ...) of labelled rows for each label
        that the guide has a factor of: in the bound a label that is observed is no factor of
        the guide, so that labelled rows would teach q(label | ...) nothing (Kingma et al. 2014,
        arXiv 1406.5298, eq. 9).

        Args:
            bound: In place of the paper's bound; the paper's other terms stay.
        """
        objective = bound or EnumeratedELBO()
        factors = listed(self.guide) or {}
        for label in (name for name in self.card.labels if name in factors):
            objective = objective + Classification(label)
        return objective

    def stages(self, bound: Objective | None = None) -> tuple[Stage, ...]:
        """The paper's training, as stages run in order; one unless overridden."""
        return (Stage(self.objective(bound)),)

    def plate(self, batch: Batch) -> AbstractContextManager[Any]:
        """The data plate; also hands the parameters to Pyro's SVI where it collects them.

        Parameters live in modules. Pyro's own ``SVI`` finds parameters by tracing
        ``pyro.param`` statements, so they are announced only while such a trace is open:
        training through :func:`ppl_models.inference.fit` never fills the global store.
        """
        if any(isinstance(h, TraceMessenger) and h.param_only for h in _PYRO_STACK):
            for name, parameter in self.named_parameters():
                if not parameter.is_contiguous():
                    # The store would keep a copy, and SVI would train that copy.
                    raise ValueError(f"parameter {name!r} is not contiguous, Pyro's SVI needs it")
            pyro.module(_store_name(self), self)
        plate: AbstractContextManager[Any] = batch.plate()
        return plate

    def intervene(
        self,
        batch: Batch,
        /,  # a site may be called batch, too
        mean: bool = True,
        codes: interventions.Codes = "draw",
        draws: int | None = None,
        **values: Any,
    ) -> dict[str, Tensor]:
        """What the rows would look like had some sites had other values.

        All sites are inferred by one draw of the guide; the named ones take their values; those
        that depend on them in the model are drawn anew, and all others stay as they were. A
        label set to another class thus redraws the code that hangs on it and the picture, and
        keeps the style.

        At ``codes="mean"`` nothing is drawn: what the guide samples takes the mean of its factor
        (given the means above it), a label its most probable class, and what depends on the
        named sites its mean under the model in the same way. A site that is set to the value
        that it has thus gives the reconstruction at the mean.

        Args:
            batch: The rows, with the labels that are known of them.
            mean: Give sites of the data as their mean, not as a draw; where that has no closed
                form, as the median of each number. A cause of the card that other sites depend
                on keeps the draw that they are made of.
            codes: ``"draw"`` or ``"mean"``, of all sites that are not of the data; at the means
                causes have theirs, too.
            draws: S independent draws at once, of the guide and of all that is drawn anew; what
                comes back has S as its first dimension. By default one, without it.
            values: By site of the model, a number, the name of a class of the data that the
                pair was fitted on, or a tensor that broadcasts to the site's shape ``(B, ...)``,
                with draws to ``(S, B, ...)``; a distribution, which is drawn from; or a callable,
                which makes another of the site's distribution at its parents. A site that is
                called as an option is goes to
                :func:`ppl_models.interventions.intervene`, which takes a mapping.

        Returns:
            Every site of the model by name, ``(B, ...)``, with draws ``(S, B, ...)``.

        Raises:
            ValueError: If a site is unknown, a value does not fit or is outside the site's
                support (no class of a label, say), a site that the guide does not sample
                decides over others that stay, or one has no mean that is to take it.
        """
        return interventions.intervene(self, batch, values, mean, codes, draws)

    def counterfactual(
        self, batch: Batch, /, draws: int | None = None, **do: Any
    ) -> dict[str, Tensor]:
        """What the rows would have been had some sites had other values.

        As :meth:`intervene`, but with the chance of the rows as they are: the guide, at the rows
        as they are, tells the unobserved sites; the model tells the noise behind every site from
        its value and its parents' (:func:`ppl_models.exogenous.noise_of`). The named sites take
        their values, what depends on them is made of the same noise at its new parents, and all
        others stay as they are, to the bit. Sites that are set to what they are thus give the
        rows back, but for data that are made and not scored (a Delta): these are made anew.

        What is told hangs on the mechanism: two that fit the rows equally well may differ here.

        Args:
            batch: The rows, with the labels that are known of them; others are the guide's.
            draws: S draws of the guide, and of noise that is known up to its posterior, such as
                that of a class; what comes back has S as its first dimension. By default one,
                without it.
            do: By site of the model, a number, the name of a class, or a tensor that broadcasts
                to the site's shape ``(B, ...)``, with draws to ``(S, B, ...)``; a distribution,
                which is drawn from; or a callable, which is given the site's distribution at its
                new parents and makes the one that carries the site's noise in its place. Sites
                called ``draws``: :func:`ppl_models.counterfactuals.counterfactual`.

        Returns:
            Every site of the model by name, ``(B, ...)``, with draws ``(S, B, ...)``; its plates
            within the rows stand left of the rows, as in the model.

        Raises:
            ValueError: If a site is unknown, a value does not fit or is outside the site's
                support, a site would move whose noise cannot be told, or one that is neither
                observed nor sampled by the guide decides over others.
        """
        return counterfactuals.counterfactual(self, batch, do, draws)

    def transfer(
        self,
        source: Batch,
        target: Batch,
        sites: Sequence[str],
        mean: bool = True,
        codes: interventions.Codes = "draw",
        draws: int | None = None,
    ) -> dict[str, Tensor]:
        """The target's rows with some sites as they are in the source's.

        Args:
            source: Rows whose sites are inferred as the target's are.
            target: As many rows, which keep all else; see :meth:`intervene`.
            sites: Names of the sites that go over.
            mean: As in :meth:`intervene`.
            codes: As in :meth:`intervene`, of source and target.
            draws: As in :meth:`intervene`, of source and target.

        Returns:
            As :meth:`intervene`.

        Raises:
            ValueError: As :meth:`intervene`, and if the numbers of rows differ.
        """
        return interventions.transfer(self, source, target, sites, mean, codes, draws)

    def global_posterior(self, name: str) -> dist.TorchDistribution:
        """The guide's posterior of a site outside the data plate, such as weights w: q(w).

        Args:
            name: The site; :func:`ppl_models.inference.global_posteriors` gives all of them.

        Returns:
            The distribution as it is now, with ``mean``, ``stddev`` and ``sample``.

        Raises:
            ValueError: If there is no such site, with the names of those there are.
        """
        return global_posterior(self, name)

    def schema_with(self, table: Table, roles: Mapping[str, str] | None = None) -> Schema:
        """What the pair was fitted on so far, and what a table adds to it.

        Args:
            table: The rows; sites that the card does not name are none of the pair's.
            roles: What a site is where it is no plain observation or label.

        Raises:
            ValueError: If the images of a site do not have the shape that the pair was built for.
        """
        card = self.card
        sites = {**card.data, **card.covariates, **dict.fromkeys(card.labels), **card.latents}
        known = {**dict.fromkeys(card.covariates, "covariate"), **(roles or {})}
        new = Schema.of(table, sites, known).of_numbers(card.numbers)
        for rules in dataclasses.fields(self.config):
            site = rules.metadata.get("shape_from")
            if site is not None and site in new.sites:
                shape = getattr(self.config, rules.name)
                new = new.of_images(table.name, site, shape, site + THERE in card.covariates)
        return new if self.schema is None else self.schema.filled(new)

    def class_names(self, site: str) -> tuple[str, ...]:
        """Names of the classes of a label or covariate, as far as the pair knows them.

        Args:
            site: Its name.
        """
        known = None if self.schema is None else self.schema.sites.get(site)
        return () if known is None else known.classes

    def structure(self) -> Mapping[str, tuple[tuple[str, ...], Tensor]]:
        """Parameters that all rows share and that are a result, such as which cause acts on what.

        They come out in the group ``structure`` of an export.

        Returns:
            By name, the names of the dimensions and the values; nothing unless overridden. A
            dimension that is called as a label or a covariate takes the names of its classes,
            others those of ``coordinates``.
        """
        return {}

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Values ``(rows, ...)`` that the covariates could have, where no data are at hand.

        A pair with covariates says it, for its diagram and for the contract's tests; what is
        drawn for a user takes the values of a table, or those that the user gives.

        Args:
            rows: Number of rows.

        Raises:
            ValueError: If the pair has covariates and says none.
        """
        if self.card.covariates:
            name = next(iter(self.card.covariates))
            raise NothingSaid(
                f"{type(self).__name__} has the covariate {name!r} and says no value that it "
                "could have; write some_covariates(self, rows)"
            )
        return {}

    def like(self) -> Tensor:
        """A tensor of the pair's device and floating type, for ``.new_zeros(...)``."""
        return next(self.parameters())


_numbers = itertools.count()
_names: weakref.WeakKeyDictionary[Pair, str] = weakref.WeakKeyDictionary()


def _store_name(pair: Pair) -> str:
    # One name per instance: under a shared name Pyro's global store would hand a second
    # pair of the same class the parameters of the first.
    return _names.setdefault(pair, f"{type(pair).__name__}.{next(_numbers)}")
