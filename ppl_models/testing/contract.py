"""The contract that every pair keeps, as tests; pairs of your own take them with one import.

    from ppl_models.testing import PairContract

    class TestMine(PairContract):
        pair = "mine.py:Mine"

The pair is built small: sizes that come from the data, and every other integer of its config,
are cut to a few units; ``settings`` overrides them. Rows are drawn from the pair's own story.
Needs pytest (``pip install 'ppl-models[test]'``).
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyro
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.poutine.enum_messenger import EnumMessenger
from torch.testing import assert_close

from ppl_models import catalogue
from ppl_models.data import Table
from ppl_models.inference import EnumeratedELBO, Progress
from ppl_models.inference.objectives.by_name import parse_objective
from ppl_models.inference.training.sides import trained
from ppl_models.pages.describe import describe
from ppl_models.pair import Pair
from ppl_models.prior_rows import draw_rows, some_rows
from ppl_models.sample_sites import is_local
from ppl_models.testing.cases import (
    COMPANIES,
    ROWS,
    Case,
    cases,
    depends_on_itself,
    enumerated,
    foreign,
    full_shape,
    gradients_by_row,
    kinds,
    label_priors,
    numbers,
    pick,
    plate_sizes,
    sampled,
    small_settings,
    subset,
    to_single,
)
from ppl_models.testing.loops import bound_by_loop
from ppl_models.testing.settled import settled

MAX_LINES = 120


class PairContract:
    """What every pair promises. Subclass it and set ``pair``.

    Attributes:
        pair: The pair's name as :func:`ppl_models.build` takes it, or its class.
        settings: Settings of the small pair that differ from :func:`small_settings`.
    """

    pair: ClassVar[str | type[Pair]]
    settings: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def entry(self) -> str | type[Pair]:
        """The pair under test; override to run over several."""
        return self.pair

    @pytest.fixture
    def name(self, entry: str | type[Pair]) -> str:
        """The name that the pair is built by."""
        return entry if isinstance(entry, str) else f"{entry.__module__}:{entry.__name__}"

    @pytest.fixture
    def small(self, name: str) -> dict[str, Any]:
        """The settings of the small pair."""
        return {**small_settings(catalogue.get(name)), **self.settings}

    @pytest.fixture
    def subject(self, name: str, small: dict[str, Any]) -> Pair:
        """The small pair, in float64."""
        return catalogue.build(name, **small).double()

    @pytest.fixture(autouse=True)
    def _alone(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
            torch.manual_seed(0)
            yield

    # ---- the file, the card and the config ------------------------------------------------

    def test_file_is_short_and_tells_only_the_story(self, subject: Pair) -> None:
        """At most 120 lines; no flags, loops, plots, downloads, devices or global state."""
        path = Path(inspect.getfile(type(subject)))
        text = path.read_text()
        lines, found = len(text.splitlines()), foreign(text)
        assert lines <= MAX_LINES, f"{path} has {lines} lines, expected at most {MAX_LINES}"
        assert not found, f"{path} uses {sorted(found)}, which belong elsewhere"

    def test_docstring_reads_story_guide_paper_shapes(self, subject: Pair) -> None:
        """The module says in this order what it is."""
        text = sys.modules[type(subject).__module__].__doc__ or ""
        heads = re.findall(r"^(Story|Guide|Paper|Shapes) ", text, re.MULTILINE)
        expected = ["Story", "Guide", "Paper", "Shapes"]
        assert heads == expected, f"the module's docstring has {heads}, expected {expected}"

    def test_card_is_complete(self, subject: Pair, name: str) -> None:
        """Every entry is filled in, and objectives exist."""
        card = subject.card
        for key in ("name", "title", "authors", "task", "given", "latents", "objectives"):
            assert getattr(card, key), f"the card's {key} is empty"
        assert 1900 < card.year < 2100, f"the card's year is {card.year}"
        own = name not in catalogue.PAPERS  # which may have no number
        number = r"\d{4}\.\d{4,5}|10\.\d{4,}/\S+|openreview:[\w-]+" + "|" * own
        told = f"{card.arxiv!r} is neither an arXiv number nor a DOI nor openreview:NUMBER"
        assert re.fullmatch(number, card.arxiv), told
        strange = set(card.labels) - set(card.latents)
        assert not strange, f"the card's labels {sorted(strange)} are no latents"
        assert own or name == card.name, f"{name} calls itself {card.name}"
        json.dumps(describe(name))
        for objective in card.objectives:
            parse_objective(objective)

    def test_config_explains_itself(self, subject: Pair) -> None:
        """A frozen dataclass with a line of documentation per field."""
        for field in dataclasses.fields(subject.Config):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(subject.config, field.name, field.default)
            assert field.metadata.get("doc"), f"setting {field.name!r} has no documentation"

    def test_building_is_reproducible_and_leaves_no_trace(
        self, name: str, small: dict[str, Any]
    ) -> None:
        """Same seed, same weights; global random state and parameter store untouched."""
        before = torch.get_rng_state()
        first, again, other = (catalogue.build(name, seed=s, **small) for s in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert not list(pyro.get_param_store().keys())
        weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    # ---- sites and shapes -----------------------------------------------------------------

    def test_sites_are_those_of_the_card(self, subject: Pair) -> None:
        """Model and guide sample what the card names; the guide leaves out what is observed."""
        card = subject.card
        named = {*card.data, *card.latents}
        model = poutine.trace(subject.model).get_trace(some_rows(subject, ROWS))
        found = set(sampled(model))
        assert found == named, f"the model samples {sorted(found)}, the card names {sorted(named)}"
        for batch in kinds(subject, ROWS):
            guide = sampled(poutine.trace(subject.guide).get_trace(batch))
            extra = set(guide) - (set(card.latents) - set(batch))
            assert not extra, f"the guide samples {sorted(extra)} on {batch}"
            left = set(card.latents) - set(batch) - set(guide)
            continuous = {n for n in left if not model.nodes[n]["fn"].has_enumerate_support}
            assert not continuous, f"the guide samples no {sorted(continuous)}"

    @pytest.mark.parametrize("rows", [1, 2, 7])
    def test_shapes(self, subject: Pair, rows: int) -> None:
        """Rows stand rightmost, enumeration leftmost, whatever the number of rows."""
        prior = sampled(poutine.trace(subject.model).get_trace(some_rows(subject, rows)))
        more = sampled(poutine.trace(subject.model).get_trace(some_rows(subject, ROWS)))
        events = {name: site["fn"].event_shape for name, site in more.items()}
        for name, site in prior.items():
            shape = (*plate_sizes(site), rows) if is_local(site) else more[name]["fn"].batch_shape
            assert site["fn"].batch_shape == shape, name
            assert site["value"].shape == (*shape, *events[name]), name
        left = -1 - subject.plate_nesting
        for batch, depth in itertools.product(kinds(subject, rows), (left, left - 1)):
            guide = poutine.trace(EnumMessenger(depth)(subject.guide)).get_trace(batch)
            model = poutine.trace(
                EnumMessenger()(poutine.replay(subject.model, trace=guide))
            ).get_trace(batch)
            full = full_shape(rows, more, enumerated(guide) | enumerated(model))
            for name, site in [*sampled(guide).items(), *sampled(model).items()]:
                assert site["fn"].event_shape == events[name], name
                if not is_local(site):
                    continue
                (frame,) = (f for f in site["cond_indep_stack"] if f.name == "data")
                assert (frame.dim, frame.size) == (-1, batch.count), name
                assert site["scale"] == batch.scale, name
                log_prob = site["fn"].log_prob(site["value"])
                assert log_prob.shape[-1] == rows, name
                log_prob.expand(full)  # raises where a dimension is in the wrong place

    def test_prior_draws_have_the_datas_shape_and_support(
        self, name: str, small: dict[str, Any]
    ) -> None:
        """So they do under every choice of the config; the loss is then finite, too."""
        cls = catalogue.get(name)
        fields = [f for f in dataclasses.fields(cls.Config) if not f.metadata.get("prior_of")]
        choices = [{f.name: c} for f in fields for c in f.metadata.get("choices") or ()]
        for choice in choices or [{}]:
            pair = catalogue.build(name, **{**small, **choice})
            prior = poutine.trace(pair.model).get_trace(some_rows(pair, ROWS))
            for field in fields:
                site = field.metadata.get("from_data") or field.metadata.get("shape_from")
                if site in cls.card.data:
                    node = prior.nodes[site]
                    shape = (*plate_sizes(node), ROWS, *node["fn"].event_shape)
                    assert node["value"].shape == shape
                    assert not shape[1:] or shape[-1] == numbers(getattr(pair.config, field.name))
            for site in cls.card.data:
                fn, value = prior.nodes[site]["fn"], prior.nodes[site]["value"]
                assert bool(fn.support.check(value).all()), (choice, site)
            for case in cases(pair):
                assert bool(case.fresh_loss().isfinite().all()), choice

    # ---- the loss -------------------------------------------------------------------------

    def test_loss_per_row_depends_on_no_other_row(self, subject: Pair) -> None:
        """Not on their number, nor on their order; on this alone where rows look at each other."""
        for case in settled(cases(subject)):
            trace = case.draws()
            whole = case.loss(case.batch, pick(trace))
            assert whole.shape == (ROWS,)
            for rows in COMPANIES[: 1 if case.objective.across_rows else None]:
                part = case.loss(subset(case.batch, rows), pick(trace, rows))
                assert_close(part, whole[torch.tensor(rows)], rtol=1e-9, atol=1e-10)

    def test_every_parameter_gets_a_gradient(self, subject: Pair) -> None:
        """In some stage, on some kind of rows, at some moment of training."""
        missing = {id(p): n for n, p in subject.named_parameters()}
        trained = [(case, pick(case.draws())) for case in cases(subject)]
        for share in (0.0, 0.5, 1.0):
            for case, draws in trained:
                case.objective.at(Progress(share, 1e6 * share))
                parameters = dict(case.pair.named_parameters())
                loss = case.total(draws)
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
                    assert grad is None or bool(grad.isfinite().all()), name
                    if grad is not None and bool(grad.any()):
                        missing.pop(id(parameter), None)
        assert not missing, f"no gradient in {sorted(missing.values())}"

    def test_stages_freeze_parameters_that_exist(self, subject: Pair) -> None:
        """A stage names what it freezes by prefix, and something is left to train."""
        for stage in subject.stages():
            own, _ = trained(subject, stage)
            assert own, f"stage {stage.name!r} trains nothing"

    def test_every_objective_of_the_card_trains(self, subject: Pair) -> None:
        """Its loss and gradient are finite on every kind of rows."""
        for objective in subject.card.objectives:
            for case in cases(subject, bound=parse_objective(objective)):
                loss = case.fresh_loss().sum()
                grads = torch.autograd.grad(loss, list(case.pair.parameters()), allow_unused=True)
                for value in (loss, *(g for g in grads if g is not None)):
                    assert bool(value.isfinite().all()), objective

    def test_enumeration_is_the_loop_over_labels(self, subject: Pair) -> None:
        """Summing labels out in parallel equals putting each one into the batch in turn."""
        summed = False
        for batch in kinds(subject, ROWS):
            case = Case(subject, EnumeratedELBO(), batch)
            trace = case.draws()
            if enumerated(trace):
                summed = True
                bound = bound_by_loop(case, trace)
                assert_close(-case.loss(batch, pick(trace)), bound, rtol=1e-9, atol=1e-10)
        if not summed:
            pytest.skip("the guide has no discrete site")

    def test_label_priors_are_what_they_are_set_to(self, name: str, small: dict[str, Any]) -> None:
        """Of every class, whether uniform, counted, learnt or given; labels are summed out yet."""
        for kind, pair, wanted in label_priors(name, small):
            rows = torch.arange(max(map(len, wanted.values())))
            labels = {site: rows % len(shares) for site, shares in wanted.items()}
            nothing = some_rows(pair, len(rows))
            seen = nothing.replace({**nothing, **labels})
            trace = poutine.trace(pair.model).get_trace(seen)
            for site, shares in wanted.items():
                found = trace.nodes[site]["fn"].log_prob(seen[site])
                told, exact = f"p({site}), {kind}", found.new_tensor(shares).log()[seen[site]]
                assert_close(found, exact, rtol=1e-12, atol=1e-12, msg=told)
                assert found.requires_grad == (kind == "learnt"), told
            if kind == "given":
                self.test_enumeration_is_the_loop_over_labels(pair)

    def test_hidden_labels_are_never_seen(self, subject: Pair) -> None:
        """Whatever stands under the mask, loss and gradient stay the same to the bit."""
        card = subject.card
        if not card.labels:
            pytest.skip("no site is observed in some rows only")
        full = draw_rows(subject, ROWS)
        mask = torch.arange(ROWS) % 3 == 0
        results = []
        for garbage in (-1, 0, 1):
            sites = dict(full)
            for label in card.labels:
                hidden = ~mask.reshape(-1, *[1] * (sites[label].dim() - 1))
                sites[label] = sites[label].masked_fill(hidden, garbage)
            table = Table("contract", sites, observed=dict.fromkeys(card.labels, mask))
            torch.manual_seed(0)
            total = torch.cat([c.fresh_loss() for c in cases(subject, table.batches())]).sum()
            grads = torch.autograd.grad(total, list(subject.parameters()))
            results.append([total.detach(), *grads])
        for other in results[1:]:
            assert_close(other, results[0], rtol=0, atol=0)

    def test_single_precision_agrees_with_double(self, subject: Pair) -> None:
        """At the same weights and draws."""
        double = [(c, pick(c.draws())) for c in settled(cases(subject))]
        exact = [c.loss(c.batch, draws).detach() for c, draws in double]
        to_single(subject, [case for case, _ in double])
        for (case, draws), expected in zip(double, exact, strict=True):
            single = {n: v.float() if v.is_floating_point() else v for n, v in draws.items()}
            loss = case.float().loss(case.batch.to(torch.float32), single)
            assert loss.dtype == torch.float32, f"the loss is {loss.dtype} at torch.float32"
            assert_close(loss, expected.float(), rtol=1e-4, atol=1e-4)

    def test_saved_and_loaded_weights_give_the_same_loss(
        self, subject: Pair, name: str, small: dict[str, Any]
    ) -> None:
        """Through a file that holds tensors only."""
        file = io.BytesIO()
        torch.save(subject.state_dict(), file)
        file.seek(0)
        other = catalogue.build(name, seed=1, **small).double()
        other.load_state_dict(torch.load(file, weights_only=True))
        losses = []
        for pair in (subject, other):
            torch.manual_seed(1)
            losses.append([case.fresh_loss().detach() for case in cases(pair)])
        assert_close(losses[0], losses[1], rtol=0, atol=0)

    # ---- others' tools --------------------------------------------------------------------

    def test_gradients_per_row_by_vmap_are_those_of_a_loop(self, subject: Pair) -> None:
        """``vmap(grad(...))`` over rows, at the same draws; with fresh draws it runs, too."""
        for case in (c for c in cases(subject) if not c.objective.across_rows):
            trace = case.draws()
            fresh = gradients_by_row(case, trace, {})
            (case,) = settled([case])
            grads = gradients_by_row(case, trace, draws := pick(trace))
            rows = case.loss(case.batch, draws)
            names, parameters = zip(*case.pair.named_parameters(), strict=True)
            how: Any = {"retain_graph": True, "allow_unused": True}
            loop = zip(*(torch.autograd.grad(row, parameters, **how) for row in rows), strict=True)
            for name, parameter, found in zip(names, parameters, loop, strict=True):
                zero = torch.zeros_like(parameter)
                expected = torch.stack([zero if grad is None else grad for grad in found])
                assert_close(grads[name], expected, rtol=1e-9, atol=1e-10)
                unused = torch.tensor([grad is None for grad in found])
                assert not bool(grads[name][unused].any()), name
                assert fresh[name].shape == grads[name].shape
                assert bool(fresh[name].isfinite().all()), name

    def test_pyros_svi_trains_every_parameter(self, subject: Pair) -> None:
        """Plain Pyro, with its own objective and optimiser."""
        before = {n: p.detach().clone() for n, p in subject.named_parameters()}
        nesting = subject.plate_nesting
        loss = TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
        svi = SVI(subject.model, subject.guide, pyro.optim.Adam({"lr": 0.01}), loss=loss)
        for batch in kinds(subject, ROWS):
            # Pyro's checks refuse an enumerated label whose prior hangs on a code that was
            # inferred from it; its arithmetic is right.
            with pyro.validation_enabled(not depends_on_itself(subject, batch)):
                assert math.isfinite(svi.step(batch))
        still = [n for n, p in subject.named_parameters() if torch.equal(p, before[n])]
        made = subject.card.density == "none"  # no bound trains what makes the data
        assert all(made and "guide" not in n for n in still), f"not trained: {still}"

    def test_pyros_predictive_draws_every_site(self, subject: Pair) -> None:
        """From the prior, on rows of which nothing is observed."""
        batch = some_rows(subject, ROWS)
        draws = Predictive(subject.model, num_samples=3)(batch)
        for name, site in sampled(poutine.trace(subject.model).get_trace(batch)).items():
            wide = [1] * (subject.plate_nesting - len(site["fn"].batch_shape))
            assert draws[name].shape == (3, *wide, *site["value"].shape), name

    def test_pyros_trace_formats_shapes(self, subject: Pair) -> None:
        """Every site has its line."""
        batch = draw_rows(subject, ROWS)
        (trace := poutine.trace(subject.model).get_trace(batch)).compute_log_prob()
        text = trace.format_shapes()
        for name, site in sampled(trace).items():
            rows = [*map(str, plate_sizes(site)), rf"{ROWS}\b"] if is_local(site) else [r"\|"]
            assert re.search(rf"^\s*{name} dist\s+" + r"\s+".join(rows), text, re.MULTILINE), text
