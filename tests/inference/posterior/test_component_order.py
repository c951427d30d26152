"""Components in one order: a mixture's draws whose order was taken from them, and given back."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest

from ppl_models import inference
from ppl_models.inference.diagnostics.verdict import verdict
from ppl_models.inference.posterior.groups import as_inference_data, groups_of

CHAINS, DRAWS, K, ROWS = 4, 300, 3, 5


def mixture(data_dim=2):
    """Draws of a mixture in the order of its means, and the same with chains, draws relabelled."""
    random = np.random.default_rng(0)
    shape = (CHAINS, DRAWS)
    means = random.normal(size=(*shape, K, data_dim)) * 0.1
    means[..., 0] += [-2.0, 0.0, 3.0]
    weights = random.dirichlet([20.0, 30.0, 50.0], shape)
    probs = random.dirichlet([1.0] * K, (*shape, ROWS))
    y = (probs.cumsum(-1) < random.random((*shape, ROWS, 1))).sum(-1)
    scale = random.gamma(5.0, size=shape)

    def of(order):
        """The draws, the new order's place k held by component ``order[..., k]``."""
        new = np.take_along_axis
        return {
            "means": new(means, order[..., None], 2), "weights": new(weights, order, 2),
            "y": new(np.argsort(order, -1), y.reshape(*shape, -1), 2).reshape(y.shape),
            "y_probs": new(probs, order[:, :, None], 3), "scale": scale,
        }  # fmt: skip

    plain = np.broadcast_to(np.arange(K), (*shape, K))
    # Chains begin in orders of their own, and swap two components half-way.
    mixed = np.array([random.permutation(K) for _ in range(CHAINS)])[:, None].repeat(DRAWS, 1)
    mixed[:, DRAWS // 2 :] = mixed[:, DRAWS // 2 :][..., [1, 0, 2]]
    return idata(of(plain)), idata(of(mixed))


def idata(posterior, **groups):
    dims = {
        "means": ["means_dim_0", "means_dim_1"], "weights": ["weights_dim"], "y": ["datum"],
        "y_probs": ["datum", "y_class"],
    }  # fmt: skip
    found = az.from_dict(posterior, dims={**dims, "z": ["datum", "z_dim"]}, **groups)
    return as_inference_data(groups_of(found), {"inference_method": "nuts"})


def test_relabelled_draws_are_those_in_the_order_that_was_lost():
    wanted, mixed = mixture()
    assert float(az.rhat(mixed)["means"].max()) > 1.5
    failed = {check.name: check.sentence for check in verdict(mixed).failed}
    assert 'inference.relabelled(idata, by="means", coordinate=0)' in failed["label switching"]
    found = inference.relabelled(mixed, by="means", coordinate=0)
    for name, values in wanted.posterior.data_vars.items():
        np.testing.assert_array_equal(found.posterior[name].values, values.values)
        assert found.posterior[name].dims == values.dims
    assert float(az.rhat(found).to_dataarray().max()) < 1.02
    # Only what is named moves, besides what runs over the dimension itself.
    few = inference.relabelled(mixed, by="means", coordinate=0, along="y").posterior
    np.testing.assert_array_equal(few["weights"], mixed.posterior["weights"])
    np.testing.assert_array_equal(few["y_probs"], wanted.posterior["y_probs"])


def test_what_sizes_cannot_tell_must_be_named():
    wanted, mixed = mixture(data_dim=K)
    for data, site in ((mixed, "'means' has 3"), (with_code(mixed), "'means', 'z' have 3")):
        with pytest.raises(ValueError, match=site) as caught:
            inference.relabelled(data, by="means", coordinate=0)
        assert "along=(...)" in str(caught.value) and "\n" not in str(caught.value)
    found = inference.relabelled(mixed, by="means", coordinate=0, along=("weights", "y"))
    np.testing.assert_array_equal(found.posterior["means"], wanted.posterior["means"])
    np.testing.assert_array_equal(found.posterior["y"], wanted.posterior["y"])


def with_code(data):
    code = np.zeros((CHAINS, DRAWS, ROWS, K))
    return idata({**{n: v.values for n, v in data.posterior.data_vars.items()}, "z": code})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "mean"}, "variable of posterior 'mean': did you mean 'means'"),
        ({"by": "y"}, "'y' runs over chain, draw, datum, expected chain, draw and components"),
        ({"by": "means"}, r"means_dim_1 \(2\); expected in coordinate= a place in each"),
        ({"by": "means", "coordinate": 2}, "coordinate 2 is outside means_dim_1, expected 0 to 1"),
        ({"by": "means", "coordinate": 0, "along": "scale"}, "'scale' has 0 dimensions of 3"),
        ({"by": "means", "coordinate": 0, "components": "k"}, "unknown dimension of 'means' 'k'"),
    ],
)
def test_bad_options_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        inference.relabelled(mixture()[1], **options)
    assert "\n" not in str(caught.value)
