"""What is hidden, paired and correlated: exact counts, seeds, recipes; and nothing leaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data import Table
from ppl_models.data.tables import hiding
from ppl_models.inference.posterior.groups import groups_of

N = 600


def factor_set(n=N, seed=0):
    """Vectors that tell their factors, and two modalities."""
    draw = np.random.default_rng(seed)
    shape, hue = draw.integers(0, 3, n), draw.integers(0, 5, n)
    size = draw.integers(0, 4, n)
    x = np.stack([shape, hue, size, np.arange(n)], 1).astype(np.float32)
    labels = {"shape": shape, "hue": hue, "size": size}
    return data.from_arrays(x, t=x[:, :2] / 2, **labels, splits=(0.8, 0.1, 0.1), seed=seed)


SET = factor_set()


def counts_of(table, site):
    return torch.bincount(table.where_observed(site).sites[site], minlength=table.sizes[site])


def remade(dataset):
    steps = json.loads(json.dumps(dataset.recipe["steps"]))
    again = data.repeat(SET, steps)
    assert again.recipe == dataset.recipe
    assert again.recipe["digest"] != SET.recipe["digest"]
    for site, value in dataset.train.sites.items():
        torch.testing.assert_close(again.train.sites[site], value, equal_nan=True)
    for part in ("validation", "test"):
        assert getattr(dataset, part) is getattr(SET, part)


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 60), st.floats(0, 1), st.integers(0, 4), st.integers(0, 1000))
def test_numbers_and_rates_by_factor_and_class(labelled, rate, few, seed):
    kept = {"hue": labelled, "shape": rate, "size": {"1": few, "3": rate}, "t": rate}
    d = data.supervise(SET, kept, seed)
    table, whole = d.train, SET.train
    hue = counts_of(table, "hue")
    assert int(hue.sum()) == labelled
    assert int(hue.max() - hue.min()) <= 1
    before = torch.bincount(whole.sites["shape"])
    seen = table.observed.get("shape", torch.ones(len(table), dtype=torch.bool))
    shown = torch.bincount(whole.sites["shape"][seen], minlength=3)
    assert shown.tolist() == [round(rate * n) for n in before.tolist()]
    size, all_sizes = counts_of(table, "size"), torch.bincount(whole.sites["size"])
    assert size[[0, 2]].tolist() == all_sizes[[0, 2]].tolist()
    assert size[1] == few
    assert size[3] == round(rate * int(all_sizes[3]))
    assert table.counts["t"] == round(rate * len(table))
    assert table.counts["x"] == len(table)
    remade(d)


def test_sites_are_hidden_independently_and_by_seed():
    n = len(SET.train)
    both = []
    for seed in range(300):
        mask = data.supervise(SET, {"x": 0.5, "t": 0.5}, seed).train.observed
        both.append(int((mask["x"] & mask["t"]).sum()))
    # hypergeometric: n/4 on average, standard deviation sqrt(n)/4
    assert abs(np.mean(both) - n / 4) < 4.5 * n**0.5 / 4 / 300**0.5
    assert abs(np.std(both) / (n**0.5 / 4) - 1) < 0.2
    assert len(set(both)) > 20


def test_hiding_twice_hides_more():
    once = data.supervise(SET, {"hue": 0.5}, 1)
    twice = data.supervise(once, {"hue": 0.5}, 2)
    assert [s["seed"] for s in twice.recipe["steps"]] == [1, 2]
    first, second = once.train.observed["hue"], twice.train.observed["hue"]
    assert not bool((second & ~first).any())
    assert abs(int(second.sum()) - int(first.sum()) / 2) <= 2.5
    remade(twice)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"hues": 5}, "unknown site 'hues': did you mean 'hue'"),
        ({"hue": {"9": 1}}, "'hue': unknown class '9'"),
        ({"hue": 1.5}, "got the rate 1.5, expected 0 to 1"),
        ({"hue": {"1": 500}}, "class '1' of 'hue': 500 rows asked for, but it is observed in"),
        ({"t": {"1": 5}}, "'t' has no classes, expected a number of rows or a rate"),
        ({"t": 481}, "'t': 481 rows asked for, but it is observed in 480"),
        ({"hue": 3}, "labelled is 3, expected at least one row per class"),
    ],
)
def test_impossible_wishes(kept, words):
    with pytest.raises(ValueError, match=words):
        data.supervise(SET, kept)


def test_loaders_take_numbers_rates_and_classes():
    d = data.load("digits", labelled={"y": {"3": 5, "4": 0.1}}, seed=2)
    whole = data.load("digits", seed=2)
    counts, all_of = counts_of(d.train, "y"), torch.bincount(whole.train.sites["y"])
    assert counts[3] == 5
    assert counts[4] == round(0.1 * int(all_of[4]))
    assert counts[5:].tolist() == all_of[5:].tolist()
    assert data.remake(json.loads(json.dumps(d.recipe))).recipe == d.recipe
    rated = data.load("digits", labelled=0.25)
    assert counts_of(rated.train, "y").tolist() == [
        round(0.25 * n) for n in torch.bincount(data.load("digits").train.sites["y"]).tolist()
    ]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.sampled_from([None, ["x"], ["t"], ["t", "x"]]), st.integers(0, 99))
def test_unpaired_rows_show_one_modality(paired, alone, seed):
    d = data.unpair(SET, ["x", "t"], paired, alone, seed)
    table = d.train
    full = torch.ones(len(table), dtype=torch.bool)
    x, t = (table.observed.get(site, full) for site in ("x", "t"))
    assert int((x & t).sum()) == round(paired * len(table))
    assert bool((x | t).all())
    only_x, only_t = int((x & ~t).sum()), int((t & ~x).sum())
    if alone == ["x"]:
        assert only_t == 0
    elif alone == ["t"]:
        assert only_x == 0
    else:
        assert abs(only_x - only_t) <= 1
    assert data.repeat(SET, d.recipe["steps"]).recipe == d.recipe


def test_correlated_training_rows_and_uncorrelated_test_rows():
    many = factor_set(40_000)
    sigma = 0.3
    d = data.correlate(many, [["hue", "size"]], sigma, seed=1)
    hue, size = (torch.linspace(0, 1, k, dtype=torch.float64) for k in (5, 4))
    weight = (-((hue[:, None] - size) ** 2) / (2 * sigma**2)).exp()
    before, after = (
        torch.bincount(t.sites["hue"] * 4 + t.sites["size"], minlength=20).double()
        for t in (many.train, d.train)
    )
    chance = weight.flatten()  # its largest is 1: equal ends of both
    expected, sd = before * chance, (before * chance * (1 - chance)).sqrt()
    assert ((after - expected).abs() <= 4.5 * sd + 1e-9).all()
    assert len(d.train.numbers.unique()) == len(d.train)
    assert d.test is many.test
    assert data.repeat(many, d.recipe["steps"]).recipe == d.recipe
    narrow = data.correlate(SET, [["hue", "size"], ["shape", "size"]], 1e-3)
    assert torch.equal(narrow.train.sites["hue"] * 3, narrow.train.sites["size"] * 4)
    assert torch.equal(narrow.train.sites["shape"] * 3, narrow.train.sites["size"] * 2)
    remade(narrow)


FACTORS = ["shape", "hue", "size"]


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_weak_pairs_agree_in_what_they_share(changed):
    d = data.weak_pairs(SET, FACTORS, changed, seed=3)
    t = d.train
    assert list(t.sites) == ["x", "t", "x_pair", "t_pair", "shared"]
    shared = t.sites["shared"].bool()
    assert (shared.sum(1) == 3 - changed).all()
    one, other = t.sites["x"][:, :3], t.sites["x_pair"][:, :3]
    assert ((one == other) | ~shared).all()
    assert torch.equal(t.sites["t_pair"], other[:, :2] / 2)
    assert torch.equal(t.numbers, SET.train.numbers)
    # each choice of factors as often, and partners beyond the row itself
    which = (shared.long() * torch.tensor([4, 2, 1])).sum(1).bincount()
    kinds = which[which > 0]
    assert len(kinds) == (1 if changed == 3 else 3)
    assert (kinds - 480 / len(kinds)).abs().max() < 4.5 * 10.4
    assert float((t.sites["x"] != t.sites["x_pair"]).any(1).double().mean()) > 0.8
    remade(d)


def test_partners_are_uniform():
    y = torch.tensor([0] * 6 + [1] * 2)
    x = torch.arange(8.0)[:, None]
    tables = [Table("p", {"x": x, "y": y, "z": torch.arange(8) % 2}) for _ in range(3)]
    recipe = {"name": "p", "options": {}, "seed": 0, "version": "0", "digest": ""}
    d = data.Dataset("p", *tables, recipe)
    met = torch.zeros(8, 8)
    shared_y = torch.zeros(8)
    for seed in range(2000):
        t = data.weak_pairs(d, ["y", "z"], 1, seed).train
        rows = t.sites["shared"][:, 0].bool()  # those that share y, not z
        met[rows.nonzero().flatten(), t.sites["x_pair"][rows, 0].long()] += 1
        shared_y += rows
    expected = shared_y[:, None] * (y[:, None] == y) / torch.where(y == 0, 6, 2)[:, None]
    sd = (expected * (1 - expected / shared_y[:, None])).sqrt()
    assert ((met - expected).abs() <= 4.5 * sd).all()


def test_steps_need_labels_that_are_there():
    hidden = data.supervise(SET, {"hue": 10})
    for step in (
        lambda: data.weak_pairs(hidden, FACTORS),
        lambda: data.correlate(hidden, [["hue", "size"]], 0.1),
    ):
        with pytest.raises(
            ValueError, match=r"'hue' of .* is hidden in some rows, expected in none"
        ):
            step()
    for step, words in (
        (lambda: data.weak_pairs(SET, FACTORS, 4), "changed is 4, expected 1 to 3"),
        (lambda: data.weak_pairs(SET, ["x"]), "unknown label site 'x'"),
        (lambda: data.correlate(SET, [["hue", "size"]], 0.0), "sigma is 0.0, expected more"),
        (lambda: data.unpair(SET, ["x", "t"], 1.1), "paired is 1.1, expected a share"),
        (lambda: data.unpair(SET, ["x", "t"], 0.5, ["u"]), "unknown modality 'u'"),
        (lambda: data.unpair(SET, ["x", "u"], 0.5), "unknown site 'u'"),
        (lambda: data.repeat(SET, [{"step": "pair"}]), "unknown step 'pair'"),
        (lambda: data.repeat(SET, [{"step": "unpair", "x": 1}]), "unknown option of unpair 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            step()


def poisoned(dataset, garbage):
    """The same data, with garbage in every label that is hidden."""
    t = dataset.train
    y = t.sites["y"].masked_fill(~t.observed["y"], garbage)
    train = Table(t.name, {**t.sites, "y": y}, t.observed, t.numbers, t.classes, t.shapes)
    return data.Dataset(dataset.name, train, dataset.validation, dataset.test, dataset.recipe)


@pytest.mark.parametrize("stored", [False, True])
def test_poison_in_hidden_labels_changes_no_loss_gradient_or_export(tmp_path, stored):
    clean = data.load("digits", labelled=100, seed=1)
    found = []
    for k, dataset in enumerate((clean, poisoned(clean, 7), poisoned(clean, -(10**9)))):
        if stored:
            dataset = data.open(data.write(dataset, tmp_path / f"{k}.h5"))
        assert hiding.keep(dataset.train, "y", 0.5, 3).sum() == 50
        pair = zoo.build("m2", dataset, hidden=(12,), seed=0)
        run = inference.fit(pair, dataset, epochs=1, progress=False, device="cpu")
        weights = {n: p.detach().clone() for n, p in pair.named_parameters()}
        loss = run.loss_per_row(dataset.train, inference.EnumeratedELBO())
        gradients = []
        for batch in data.Stream(dataset.train, 200, seed=5).step(2):
            pair.zero_grad()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                value = inference.EnumeratedELBO().differentiable_loss(
                    pair.model, pair.guide, batch
                )
            value.backward()
            gradients.append([p.grad.clone() for p in pair.parameters() if p.grad is not None])
        idata = run.posterior(dataset.train, rows=range(0, 200, 5), draws=4)
        found.append((weights, loss, gradients, idata, dataset.train.sites["y"]))
    for weights, loss, gradients, idata, y in found[1:]:
        assert torch.equal(y, found[0][4])
        assert all(torch.equal(w, found[0][0][name]) for name, w in weights.items())
        assert torch.equal(loss, found[0][1])
        for ours, theirs in zip(gradients, found[0][2], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        first = groups_of(found[0][3])
        for group, dataset in groups_of(idata).items():
            if group != "training":  # it has seconds
                assert dataset.equals(first[group]), group
