"""A classifier of images: probabilities by label, and how often it is right."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.pages import run_page

from ppl_models.data import Table
from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement.generativeness import Classify

SHAPE = (5, 4, 3)
KINDS = {"row": tuple("abcde"), "column": tuple("wxyz")}


def lines(count=60, seed=0, side=1):
    """Images with a bright row and a bright column, and which these are; each pixel several."""
    x = 0.3 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    at = torch.arange(count) + seed
    row, column = at % 5, at // 5 % 4
    x[torch.arange(count), row] += 0.7
    x[torch.arange(count), :, column] += 0.7
    wide = x.clamp(0, 1).repeat_interleave(side, 1).repeat_interleave(side, 2)
    sites = {"x": wide.flatten(1), "row": row, "column": column}
    return Table("lines", sites, shapes={"x": tuple(wide.shape[1:])}, classes=KINDS)


@pytest.mark.parametrize("side", [1, 9])  # 5 x 4 pixels, and 45 x 36: networks of two kinds
def test_each_label_has_a_softmax_of_its_own(side):
    train, test = lines(side=side), lines(23, 1, side)
    state = torch.random.get_rng_state()
    fitted = metrics.image_classifier(
        train, ("column", "row"), test, d=8, steps=3, batch_size=7, seed=2
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (fitted.sizes, fitted.shape) == ({"column": 4, "row": 5}, (5 * side, 4 * side, 3))
    flat = test.sites["x"]
    images = flat.reshape(-1, *fitted.shape)
    found = fitted(flat)
    with torch.no_grad():
        scores = fitted.head(fitted.body(images)).double()
    for name, part in (("column", scores[:, :4]), ("row", scores[:, 4:])):
        p = part.exp() / part.exp().sum(1, keepdim=True)
        assert_close(found[name], p, rtol=1e-12, atol=1e-12)
        assert_close(fitted(images)[name], found[name], rtol=0, atol=0)
        right = sum(int(p[k].argmax()) == int(test.sites[name][k]) for k in range(23)) / 23
        assert fitted.test_accuracy[name] == pytest.approx(right, abs=1e-12)
    again = metrics.image_classifier(train, ("column", "row"), d=8, steps=3, batch_size=7, seed=2)
    assert again.test_accuracy == {}
    assert_close(again(flat)["row"], found["row"], rtol=1e-5, atol=1e-6)
    other = metrics.image_classifier(train, ("column", "row"), d=8, steps=3, batch_size=7, seed=3)
    assert (other(flat)["row"] - found["row"]).abs().max() > 1e-3


def test_its_accuracy_stands_beside_generativeness():
    train = lines()
    classify: Classify = metrics.image_classifier(train, "row", lines(20, 1), d=4, steps=2)
    codes = metrics.encode(lambda batch: batch["x"][:, :6], train, factors=("row", "column"))
    sets = torch.eye(6, dtype=torch.bool)[:2].numpy()

    def decode(z):
        return torch.cat([z, z.new_zeros(len(z), 54)], 1)

    with pytest.raises(ValueError, match=r"nothing of the factor 'column' but of \['row'\]"):
        metrics.counterfactual_generativeness(codes, sets, decode, classify)
    table = codes.with_factors([0])
    for of, name in (
        (metrics.counterfactual_generativeness, "counterfactual"),
        (metrics.donor_generativeness, "donor"),
    ):
        found = of(table, sets[:1], decode, classify)
        told = found[f"{name}_classifier_accuracy_per_factor"]
        assert told.values.tolist() == [classify.test_accuracy["row"]]


def test_a_batch_has_images():
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        metrics.image_classifier(lines(), "row", batch_size=0)


def test_the_page_of_causal_metrics_runs():
    scope = run_page("metrics/causal")
    cg = scope["cg"]
    assert cg.attrs["pair"] == "vae"
    assert cg.counterfactual_generativeness.attrs["decoded_from"] == "z"
    assert set(scope["classify"].test_accuracy) == {"column", "row"}
    uc = metrics.unconfoundedness(scope["table"], (1, 2))
    assert uc.unconfoundedness.values.tolist() == [1, 0]
