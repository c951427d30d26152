"""One run of a pair on one batch: traces and log weights that all terms of a step share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.guides.protocol import offering
from ppl_models.inference.traces.codes import Codes, codes_of
from ppl_models.inference.traces.drawn import (
    Ask,
    Draw,
    Drawn,
    Piece,
    Within,
    check_grid,
    trace_guide,
)
from ppl_models.inference.traces.dry_run import LargeGridError, Survey, evaluate_within, survey
from ppl_models.inference.traces.nesting import nesting_of
from ppl_models.inference.traces.sites import (
    UnhandledSite,
    check_differentiable,
    check_prior,
    is_enumerated,
    latent_sites,
    model_only,
    random_sites,
)
from ppl_models.inference.traces.weights import (
    Collector,
    Weights,
    closed_kl,
    log_q_of,
)
from ppl_models.sample_sites import COMBINATIONS

Made = TypeVar("Made")


class WholeBatch(Protocol):
    """Where the rows of a process stand in a batch that several processes share.

    Attributes:
        start: Place of its first row.
        of: Number of rows of the whole batch.
    """

    start: int
    of: int

    def __call__(self, value: Tensor, dim: int) -> Tensor:
        """A tensor of all rows, made of those of each process, with its gradient."""


class Lead(NamedTuple):
    """What the bound of a step has drawn, and where."""

    run: Evaluation
    weights: Weights


class Evaluation:
    """A pair on a batch whose rows share what is observed.

    Terms read what the bound that leads the step has drawn: :meth:`codes`,
    :meth:`likelihood`, and in full :attr:`drawn` and :attr:`lead`.

    Args:
        model: A model, called with the batch.
        guide: Its guide, called with the batch.
        batch: The batch.
        plate_nesting: Number of plate dimensions, the data plate (dimension -1) included; by
            default what the model's pair says.
        leads: Gives what the leading bound draws in a run, or None where it draws nothing that
            others may read. They then read one draw per row and label, with labels summed out.
        whole: The batch of which these are one process's rows; without, they are all rows.
    """

    def __init__(
        self,
        model: Callable[[Batch], Any],
        guide: Callable[[Batch], Any],
        batch: Batch,
        plate_nesting: int | None = None,
        leads: Callable[[Evaluation], Lead | None] | None = None,
        whole: WholeBatch | None = None,
    ) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.plate_nesting = nesting_of(model, plate_nesting)
        self.leads, self.whole = leads, whole
        self._made: dict[tuple[int, Hashable], tuple[object, Any]] = {}

    def like(
        self,
        model: Callable[[Batch], Any] | None = None,
        guide: Callable[[Batch], Any] | None = None,
        batch: Batch | None = None,
        leads: Callable[[Evaluation], Lead | None] | None = None,
    ) -> Evaluation:
        """A fresh run with another model, guide or batch of the same rows.

        Args:
            model: The model, if another.
            guide: The guide, if another.
            batch: The batch, if another.
            leads: What leads it, if anything: draws are not those of the run that it is like.
        """
        model = self.model if model is None else model
        guide = self.guide if guide is None else guide
        batch = self.batch if batch is None else batch
        return Evaluation(model, guide, batch, self.plate_nesting, leads, self.whole)

    @property
    def lead(self) -> Weights:
        """The bound's own run, with the model at the draws of the guide's trace.

        A term that reads the model's side takes this: any number of draws, labels that are
        missing summed out or not, KL terms in closed form or not. No draw is cut from the graph:
        beside a bound that cuts them, or runs the pair apart or in pieces, this is one more run.
        """
        run, w = self._lead()
        if w.as_drawn:
            return w
        # A bound may scale the gradient of the model's draws, or combine them in other ways; and
        # where none leads, only the guide has been run.
        return self.once("as drawn", lambda: run.collect(Drawn.of(w.guide, run.plate_nesting)))

    @property
    def drawn(self) -> Weights:
        """The bound's own run; a term that reads the guide's side alone takes this.

        As :attr:`lead`, but beside some bounds the model saw the draws in another form.
        """
        return self._lead().weights

    def codes(self, site: str) -> Codes:
        """A latent site in the bound's own run: the guide's distribution, draws and weights.

        Args:
            site: A site that the guide samples in these rows, one value for each.

        Raises:
            UnhandledSite: If it does not.
        """
        w = self.drawn
        return self.once(("codes", site), lambda: codes_of(w, site, self.batch.count))

    def likelihood(self, site: str) -> dist.TorchDistribution:
        """The model's distribution of a site at the draws of the bound's own run.

        Args:
            site: A site of the model, observed or latent.

        Returns:
            Batch shape ``(E..., K, B)``, any of the first of size 1.

        Raises:
            UnhandledSite: If the model has no such site.
        """
        nodes = dict(random_sites(self.lead.model))
        if site not in nodes:
            raise UnhandledSite(f"the model has no site {site!r}; it has {list(nodes)}")
        found: dist.TorchDistribution = nodes[site]["fn"]
        return found

    def every_row(self, value: Tensor, dim: int = -1) -> Tensor:
        """A tensor of the rows of the whole batch, those of other processes included.

        Gradients flow to the rows of all processes, so that the sum of what these make of it
        has the gradient that one process would have. Every process has to call it alike.

        Args:
            value: Of the rows here.
            dim: The dimension of the rows.
        """
        return value if self.whole is None else self.whole(value, dim)

    @property
    def first_row(self) -> int:
        """Place of the first row here in :meth:`every_row`."""
        return 0 if self.whole is None else self.whole.start

    def _lead(self) -> Lead:
        return self.once("lead", self._led)

    def _led(self) -> Lead:
        found = None if self.leads is None else self.leads(self)
        if found is not None and not found.weights.terms["cut"]:
            return found
        if (id(None), Ask()) in self._made:  # a run that is there anyway, and can be read
            return Lead(self, self.weights())
        try:
            return Lead(self, self.guide_alone(self.draw_guide(Ask(), COMBINATIONS)))
        except LargeGridError:
            return Lead(self, self.weights())

    def guide_alone(self, drawn: Drawn) -> Weights:
        """The guide's side of a run, which the model has not seen yet."""
        terms = Collector(self.batch.scale, self.plate_nesting, drawn.labels, {})
        for name, site in drawn.labels.items():
            terms.add("labels", name, site, site["fn"].log_prob(site["value"]))
        return terms.weights(drawn.ask.cap, drawn.trace, poutine.Trace())

    def once(self, what: Hashable, make: Callable[[], Made], owner: object = None) -> Made:
        """What is made of this run, the first time that it is asked for.

        Args:
            what: What for.
            make: Makes it.
            owner: Who asks, where others do not share it: draws of an objective's own, or what
                changes with its progress. Owners are told apart as objects, however equal.

        Returns:
            The same object each time; it goes with the run.
        """
        key = (id(owner), what)
        if key not in self._made:
            self._made[key] = (owner, make())  # the owner stays alive: its id is not given again
        return cast(Made, self._made[key][1])

    def factor(self, name: str) -> dist.TorchDistribution:
        """The guide's factor for a site on this batch, outside any trace.

        Raises:
            TypeError: If the guide cannot hand out factors.
        """
        return self.once(("factor", name), lambda: self._factor(name))

    def _factor(self, name: str) -> dist.TorchDistribution:
        return offering(self.guide, name).factor(name, self.batch)

    def weights(
        self,
        particles: int = 1,
        *,
        enumerate_labels: bool = True,
        analytic_kl: bool = False,
        path: bool = False,
        bridge: bool = False,
        cut: Literal["none", "discrete", "all"] = "none",
        cap: int = COMBINATIONS,
    ) -> Weights:
        """Trace guide and model once; the same request is answered from the first run.

        Args:
            particles: Draws K per row and label.
            enumerate_labels: Sum out discrete sites in parallel.
            analytic_kl: Replace log q - log p of each reparameterised site by the closed
                form of its KL divergence.
            path: Leave out of the gradient of log q its direct dependence on the guide's
                parameters, so that only the path through the draws remains.
            bridge: Hand the model copies of the draws, expanded over all labels, whose
                gradient can be scaled apart from the draws' own.
            cut: Which drawn sites may carry no gradient through their values: by default none
                (a site that can be neither enumerated nor reparameterised is an error);
                ``"discrete"``, those that cannot be reparameterised, for score-function
                gradients; ``"all"``, whose draws are detached, for wake-sleep.
            cap: Largest number of combinations of labels in one tensor. Vectors of discrete
                values with at most so many are listed too, unless ``cut`` lets them be drawn.

        Raises:
            UnhandledSite: Naming the discrete site that nobody sums out or relaxes, the
                latent site without a counterpart, or the labels with too many combinations.
        """
        return self.weights_for(
            Ask(particles, enumerate_labels, analytic_kl, path, bridge, cut, cap)
        )

    def weights_for(self, ask: Ask) -> Weights:
        """The same from one record of what is asked for."""
        return self.once(ask, lambda: self.weights_anew(ask))

    def weights_anew(
        self,
        ask: Ask,
        piece: Piece | None = None,
        moved: Callable[[Drawn], Mapping[str, int]] | None = None,
    ) -> Weights:
        """Trace guide and model anew.

        Args:
            ask: What for.
            piece: Enumerate only a part of the values of one site.
            moved: Says which sites' draws move to a dimension of their own; see
                :meth:`collect`. A function with a name of its own, by which what is found out
                about the guide is kept.
        """
        part = piece and (piece.site, piece.values[1] - piece.values[0])
        key = self._key(ask, part, moved)
        device = self.batch.rows.device

        def go(limit: float, looks: bool) -> Weights:
            # Two draws show what depends on them: a survey counts K^n, and never forms it.
            few = dataclasses.replace(ask, particles=min(2, ask.particles)) if looks else ask
            drawn = dataclasses.replace(self.draw_guide(few, limit, piece), ask=ask)
            dims = moved(drawn) if moved else {}
            if dims:
                check_grid(drawn.summed(dims, self.plate_nesting), limit)
            return self.collect(drawn, dims)

        return evaluate_within(self.model, self.guide, key, ask.cap, device, go)

    def survey(self, ask: Ask) -> Survey:
        """What a run would form, found out without values or random numbers."""
        key = self._key(ask, "survey")
        return survey(self.model, self.guide, key, lambda: self.collect(self.draw_guide(ask)))

    def _key(self, *what: Hashable) -> Hashable:
        return (frozenset(self.batch), self.plate_nesting, *what)

    def draw_guide(self, ask: Ask, limit: float = math.inf, piece: Piece | None = None) -> Drawn:
        """Run the guide alone: labels listed, other sites drawn.

        Args:
            ask: What for.
            limit: Number of combinations of labels from which on LargeGridError is raised.
            piece: Enumerate only a part of the values of one site.

        Raises:
            UnhandledSite: Naming the site that can be neither summed out nor differentiated
                through, unless ``ask.cut`` lets it be.
        """
        dim = -1 - self.plate_nesting
        marked = Draw(ask, dim, limit)(self.guide)
        listed = EnumMessenger(first_available_dim=dim - 1)(marked)
        trace = trace_guide(listed, self.batch, piece, detach=ask.cut == "all")
        sites = dict(latent_sites(trace))
        for name, site in sites.items():
            if ask.cut == "none":
                check_differentiable(name, site, ask.enumerate_labels, ask.cap)
        labels = {name: site for name, site in sites.items() if is_enumerated(site)}
        return Drawn(ask, limit, dim, trace, sites, labels)

    def collect(self, drawn: Drawn, moved: Mapping[str, int] | None = None) -> Weights:
        """Run the model on the guide's draws, and collect the log densities of both.

        Args:
            drawn: The guide's draws.
            moved: By site, a dimension of its own for its draws, left of the labels'. They are
                then combined with the other sites' draws in every way, and averaged over; where
                a draw depends on earlier ones, its density is the mixture over these.

        Raises:
            UnhandledSite: If model and guide do not fit each other, or what is asked for.
            ValueError: If draws are moved where bridges or an analytic KL are asked for.
        """
        ask, moved = drawn.ask, moved or {}
        if moved and (ask.bridge or ask.analytic_kl):
            raise ValueError("draws in dimensions of their own take no bridge and no analytic KL")
        replayed, bridges, shared = drawn.bridged() if ask.bridge else (drawn.moved(moved), [], ())
        mark = Draw(dataclasses.replace(ask, particles=1), drawn.dim, drawn.limit)
        grid = drawn.summed(moved, self.plate_nesting) if moved else []
        listed = EnumMessenger(first_available_dim=min(moved.values()) - 1 if moved else None)
        within = Within(grid, ask.cap)  # a survey ends before its tensors have too many entries
        run = listed(poutine.replay(within(mark(self.model)), trace=replayed))
        model = poutine.trace(run).get_trace(self.batch)
        summed = model_only(model, drawn.sites)

        terms = Collector(self.batch.scale, self.plate_nesting, drawn.labels, summed)
        terms.sum_over(variable for variable in grid if variable.drawn)
        score = self._score(drawn) if ask.path and not ask.analytic_kl else None
        for name, site in drawn.sites.items():
            if name in drawn.labels:
                terms.add("labels", name, site, site["fn"].log_prob(site["value"]))
            elif name in moved:
                log_q = drawn.log_mixture(name, replayed.nodes[name]["value"], moved[name])
                terms.add("q", name, site, log_q + math.log(ask.particles))
            elif not ask.analytic_kl:
                log_q = log_q_of(site, score and score.nodes[name])
                terms.add("q", name, site, log_q)
                if ask.cut == "all" or not site["fn"].has_rsample:
                    terms.add("cut", name, site, log_q)
        for name, site in random_sites(model):
            if ask.analytic_kl and name in drawn.sites and name not in drawn.labels:
                q = drawn.sites[name]
                kl = closed_kl(name, q["fn"], site["fn"], q["value"])
                check_prior(name, kl, summed)
                terms.add("q", name, site, kl)
            else:
                terms.add("p", name, site, site["fn"].log_prob(site["value"]))
        return terms.weights(ask.cap, drawn.trace, model, bridges, shared)

    def _score(self, drawn: Drawn) -> poutine.Trace:
        # The guide at the same values cut from the graph: what is left of the gradient of
        # its log density is the direct dependence on the parameters.
        cut = drawn.trace.copy()
        for name, site in drawn.sites.items():
            if name not in drawn.labels:
                cut.nodes[name] = {**site, "value": site["value"].detach()}
        mark = Draw(drawn.ask, drawn.dim, drawn.limit)
        return poutine.trace(poutine.replay(mark(self.guide), trace=cut)).get_trace(self.batch)
