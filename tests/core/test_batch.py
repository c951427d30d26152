"""Batches, configs and pairs: what they hold, refuse, and show to Pyro."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from worlds.linear import LinearConfig, linear

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.files import write_atomically
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Pair

B, D = 4, 3
X, Y = torch.arange(B * D, dtype=torch.float32).reshape(B, D), torch.arange(B)


def batch(**options):
    return Batch({"x": X, "y": Y}, torch.tensor([7, 3, 9, 1]), **options)


# ---- batch -------------------------------------------------------------------------------


def test_a_batch_is_a_mapping_of_what_is_observed():
    b = batch(size=40, total=100, observed={"x": 100, "y": 40})
    assert dict(b) == {"x": b["x"], "y": b["y"]}
    assert (len(b), b.count, b.scale, b.size, b.total) == (2, B, 10.0, 40, 100)
    assert b.get("z") is None
    assert "z" not in b
    assert repr(b) == "Batch(x (4, 3), y (4,); 4 of 40 rows)"
    assert repr(Batch({}, torch.arange(2))) == "Batch(nothing observed; 2 of 2 rows)"


def test_what_is_left_out_takes_the_rows_at_hand():
    b = Batch({"x": X})
    assert b.rows.tolist() == list(range(B))
    assert (b.size, b.total, b.scale, b.observed) == (B, B, 1.0, {"x": B})
    assert Batch({"x": X}, size=40).observed == {"x": 40}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda b: b.only("x"), {"x"}),
        (lambda b: b.only("x", "nothing"), {"x"}),
        (lambda b: b.without("x"), {"y"}),
        (lambda b: b.replace({}), set()),
        (lambda b: b.to(torch.float64), {"x", "y"}),
    ],
    ids=["only", "only what is there", "without", "replace", "to"],
)
def test_changed_batches_stand_for_the_same_rows(change, left):
    b = batch(size=40, total=100, observed={"x": 100, "y": 40})
    changed = change(b)
    assert set(changed) == left
    assert torch.equal(changed.rows, b.rows)
    for name in ("size", "total", "observed"):
        assert getattr(changed, name) == getattr(b, name)
    assert set(b) == {"x", "y"}


def test_casting_leaves_labels_and_rows_as_integers():
    b = batch().to(torch.float64)
    assert (b["x"].dtype, b["y"].dtype, b.rows.dtype) == (torch.float64, torch.int64, torch.int64)
    assert batch().to("cpu", torch.float16)["x"].dtype == torch.float16


def test_batches_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"'y' has shape \(3,\), expected 4 rows"):
        Batch({"x": X, "y": Y[:3]})
    with pytest.raises(ValueError, match=r"'x' has shape \(4, 3\), expected 2 rows"):
        Batch({"x": X}, torch.arange(2))
    with pytest.raises(ValueError, match="an empty batch needs rows="):
        Batch({})


def test_the_plate_has_the_rows_own_numbers_and_scale():
    with batch(size=40).plate() as rows:
        value = pyro.sample("a", dist.Normal(0.0, 1.0))
    assert rows.tolist() == [7, 3, 9, 1]
    assert value.shape == (B,)

    def story():
        with batch(size=40).plate():
            pyro.sample("a", dist.Normal(0.0, 1.0), obs=torch.zeros(B))

    site = poutine.trace(story).get_trace().nodes["a"]
    (frame,) = site["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size) == ("data", -1, B)
    assert site["scale"] == 10.0


# ---- config ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings(Config):
    size: int = setting(3, "n", minimum=1)
    hidden: tuple[int, ...] = setting((5, 5), "h", minimum=2)
    kind: str = setting("linear", "f", choices=("linear", "deep"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size is 0, expected at least 1"),
        ({"size": float("nan")}, "size is nan, expected a whole number"),
        ({"hidden": (5, 1)}, "hidden is 1, expected at least 2"),
        ({"kind": "liner"}, "unknown kind 'liner': did you mean 'linear'\\? expected one of deep"),
        ({"kind": "zzz"}, "unknown kind 'zzz': expected one of deep, linear"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        Settings(**settings)


def test_settings_are_frozen_and_documented():
    settings = Settings(hidden=())
    assert settings == Settings(3, (), "linear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.size = 4
    field = dataclasses.fields(Settings)[0]
    assert field.metadata == {"doc": "n", "from_data": None, "choices": None, "minimum": 1}


# ---- pair --------------------------------------------------------------------------------


def test_a_pair_without_a_story_says_so():
    class Blank(Pair):
        Config, card = LinearConfig, linear().card

    with pytest.raises(NotImplementedError, match=r"Blank needs a model\(batch\)"):
        Blank(LinearConfig()).model(batch())


def test_parameters_enter_pyros_store_only_under_svi():
    pair = linear(dtype=torch.float32)
    seen = Batch({"x": X, "y": Y})
    with pyro.get_param_store().scope():
        poutine.trace(pair.model).get_trace(seen)
        zoo.inference.EnumeratedELBO().loss(pair.model, pair.guide, seen)
        assert not list(pyro.get_param_store().keys())
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(seen)
        stored = {n.split("$$$")[1] for n in pyro.get_param_store().keys()}  # noqa: SIM118
        assert stored == {n for n, _ in pair.named_parameters()}


def test_two_pairs_of_a_class_keep_their_own_parameters_under_svi():
    first, second = linear(seed=0, dtype=torch.float32), linear(seed=1, dtype=torch.float32)
    seen = Batch({"x": X, "y": Y})
    before = second.A.detach().clone()
    with pyro.get_param_store().scope():
        for pair in (first, second):
            SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-6}), Trace_ELBO()).step(seen)
    torch.testing.assert_close(second.A.detach(), before, rtol=0, atol=1e-5)


def test_a_parameter_that_svi_would_copy_is_an_error():
    pair = linear(dtype=torch.float32)
    pair.A.data = pair.A.data.T.contiguous().T
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pyro.get_param_store().scope(), pytest.raises(ValueError, match="'A' is not contiguous"):
        svi.step(Batch({"x": X, "y": Y}))


# ---- likelihoods and files ---------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_are_densities_over_vectors(name):
    likelihood = LIKELIHOODS[name]
    torch.manual_seed(0)
    raw = torch.randn(B, likelihood.outputs, dtype=torch.float64)
    p = likelihood(raw)
    assert (p.batch_shape, p.event_shape) == ((B,), (1,))
    assert bool(p.support.check(p.sample()).all())
    if name.endswith("bernoulli") and not name.startswith("continuous"):
        grid, width = torch.tensor([0.0, 1.0]), 1.0
    else:
        low, high = (0.0, 1.0) if name.startswith("continuous") else (-30.0, 30.0)
        width = (high - low) / 20_000
        grid = torch.linspace(low + width / 2, high - width / 2, 20_000, dtype=torch.float64)
    mass = p.log_prob(grid.double().reshape(-1, 1, 1).expand(-1, B, 1)).exp().sum(0) * width
    torch.testing.assert_close(mass, torch.ones(B).double(), rtol=0, atol=1e-6)


def test_grey_values_count_as_cross_entropy():
    raw = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    x = torch.tensor([[0.25, 0.9]], dtype=torch.float64)
    p = raw.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(LIKELIHOODS["soft_bernoulli"](raw).log_prob(x), expected)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda p: p.write_text("first"))

    def fail(p):
        p.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*a\.txt: No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
