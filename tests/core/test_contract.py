"""Every paper of the catalogue keeps the contract, and the contract catches broken pairs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from ppl_models import catalogue
from ppl_models.inference import Penalty, TotalCorrelation
from ppl_models.parts.label_prior import LabelPrior
from ppl_models.semisupervised.m2 import M2
from ppl_models.testing import PairContract
from ppl_models.testing.cases import DATA_SIZE, ROWS, small_settings

RUNS = 136  # of M2's model, in all that the contract asks


class TestCatalogue(PairContract):
    @pytest.fixture(params=sorted(catalogue.PAPERS))
    def entry(self, request):
        return request.param


class TestOneClass(PairContract):
    """A class in place of a name, and sizes of one's own."""

    pair = M2
    settings = {"latent": 1, "likelihood": "normal"}  # noqa: RUF012


class TestExampleOfTheGuide(PairContract):
    """The file printed in CONTRIBUTING.md."""

    @pytest.fixture
    def entry(self, tmp_path):
        text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
        (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Pair):" in c)
        (tmp_path / "mixture.py").write_text(code)
        return f"{tmp_path / 'mixture.py'}:Mixture"


# ---- broken pairs ------------------------------------------------------------------------


class Mixing(M2):
    """q(y | x) looks at the other rows."""

    def __init__(self, config):
        super().__init__(config)
        self.guide.factors["y"].net.first.register_forward_pre_hook(
            lambda _, args, values: (args, {**values, "x": values["x"] - values["x"].mean(0)}),
            with_kwargs=True,
        )


class Coupled(M2):
    """Rows that look at each other, and an objective that says so."""

    def objective(self, bound=None):
        return super().objective(bound) + TotalCorrelation("z")


class Silent(M2):
    """Rows that look at each other, and an objective that does not say so."""

    def objective(self, bound=None):
        apart = Penalty("means", lambda run: run.factor("y").probs.mean(0).square().sum())
        return super().objective(bound) + apart


class Ordered(M2):
    """Rows that look at each other and at their places in the batch."""

    def objective(self, bound=None):
        def by_place(run):
            return run.factor("y").probs[0].square().sum() * torch.arange(run.batch.count)

        return super().objective(bound) + Penalty("places", by_place, across_rows=True)


class Unused(M2):
    """A parameter that nothing depends on."""

    def __init__(self, config):
        super().__init__(config)
        self.spare = nn.Parameter(torch.zeros(()))


class TwoStories(M2):
    """Labelled rows follow another story than unlabelled ones."""

    def model(self, batch):
        plain = self.decoder.forward
        self.decoder.forward = lambda **v: plain(**v) * (2.0 if "y" in batch else 1.0)
        super().model(batch)
        self.decoder.forward = plain


class Outside(M2):
    """A site that the card does not name, one value per row but outside their plate."""

    def model(self, batch):
        super().model(batch)
        pyro.sample("w", dist.Normal(self.like().new_zeros(batch.count), 1.0).to_event(1))


class Even(M2):
    """A prior of its own, whatever the setting says."""

    def __init__(self, config):
        super().__init__(config)
        self.label_prior = LabelPrior("uniform", {"y": config.classes})


class Double(M2):
    """A network whose output is always double."""

    def __init__(self, config):
        super().__init__(config)
        self.guide.factors["y"].net.register_forward_hook(lambda _, args, out: out.double())


class Unsaved(M2):
    """Weights that are not in the state."""

    def __init__(self, config):
        super().__init__(config)
        shift = torch.randn(DATA_SIZE, dtype=torch.float64)
        self.decoder.register_forward_hook(lambda _, args, out: out + shift)


@pytest.mark.parametrize(
    ("cls", "test", "words"),
    [
        (Mixing, "test_loss_per_row_depends_on_no_other_row", "not close"),
        (Silent, "test_loss_per_row_depends_on_no_other_row", "not close"),
        (Silent, "test_gradients_per_row_by_vmap_are_those_of_a_loop", "not close"),
        (Ordered, "test_loss_per_row_depends_on_no_other_row", "not close"),
        (Unused, "test_every_parameter_gets_a_gradient", "spare"),
        (Unused, "test_pyros_svi_trains_every_parameter", "spare"),
        (TwoStories, "test_enumeration_is_the_loop_over_labels", "not close"),
        (Outside, "test_sites_are_those_of_the_card", "'w'"),
        (Outside, "test_shapes", "^w$"),
        (Even, "test_label_priors_are_what_they_are_set_to", r"p\(y\), learnt"),
        (Double, "test_single_precision_agrees_with_double", "float64"),
        (Unsaved, "test_saved_and_loaded_weights_give_the_same_loss", "not equal"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_pairs_are_caught(cls, test, words):
    name, small = f"{__name__}:{cls.__name__}", small_settings(cls)
    inputs = {"name": name, "small": small, "rows": 2}
    inputs["subject"] = catalogue.build(name, **small).double()
    asked = inspect.signature(getattr(PairContract, test)).parameters
    with (
        torch.random.fork_rng(),
        pyro.get_param_store().scope(),
        pytest.raises((AssertionError, RuntimeError), match=words),
    ):
        getattr(PairContract(), test)(**{n: v for n, v in inputs.items() if n in asked})


@pytest.mark.parametrize(
    "test",
    [
        "test_loss_per_row_depends_on_no_other_row",
        "test_gradients_per_row_by_vmap_are_those_of_a_loop",
        "test_every_parameter_gets_a_gradient",
        "test_hidden_labels_are_never_seen",
        "test_single_precision_agrees_with_double",
    ],
)
def test_rows_that_look_at_each_other_keep_the_contract(test):
    subject = catalogue.build(f"{__name__}:Coupled", **small_settings(Coupled)).double()
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        getattr(PairContract(), test)(subject)


def test_what_the_contract_costs(monkeypatch):
    """Runs of M2's model, which two kinds of rows train: what a new paper adds to the suite."""
    runs, model = [], M2.model
    monkeypatch.setattr(M2, "model", lambda pair, batch: (runs.append(1), model(pair, batch))[1])
    small = small_settings(M2)
    for name, test in inspect.getmembers(PairContract, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        asked = inspect.signature(test).parameters
        for rows in (1, 2, 7) if "rows" in asked else (None,):
            given = {"name": "m2", "small": small, "rows": rows}
            with torch.random.fork_rng(), pyro.get_param_store().scope():
                if "subject" in asked:
                    given["subject"] = catalogue.build("m2", **small).double()
                test(PairContract(), **{n: v for n, v in given.items() if n in asked})
    # The figure is CONTRIBUTING.md's.
    assert len(runs) <= RUNS
    assert (
        f"{RUNS} runs of its model" in (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    )


def test_rows_of_small_pairs_tell_sizes_apart():
    settings = small_settings(M2)
    assert settings == {
        "data_dim": 9,
        "classes": 3,
        "latent": 4,
        "hidden": (5,),
    }
    assert len({*settings.values(), ROWS}) == 5
