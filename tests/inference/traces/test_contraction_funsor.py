"""Contraction by funsor's named dimensions against plain tensors, and both against Pyro."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from worlds.enumerated import Bits, Chain, batch_of, same, world
from worlds.linear import linear

from ppl_models.batch import Batch
from ppl_models.inference import IWELBO, EnumeratedELBO, Evaluation

WORLDS = [
    pytest.param(Chain, (), 1, id="chain"),
    pytest.param(Chain, ("a",), 1, id="chain-a-in-model"),
    pytest.param(Bits, (), 2, id="bits"),
    pytest.param(Bits, ("b",), 2, id="bits-in-model"),
    pytest.param(Bits, ("y", "b"), 2, id="label-and-bits-in-model"),
]


@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EnumeratedELBO, {"particles": 2}),
        (EnumeratedELBO, {"kl": "analytic"}),
        (IWELBO, {"particles": 3, "lam": 0.0}),
        (IWELBO, {"particles": 1, "lam": 0.5}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v),
)
@pytest.mark.parametrize(("world_kind", "model_only", "nesting"), WORLDS)
def test_backends_agree(world_kind, model_only, nesting, kind, options, labelled):
    pair = world(world_kind, model_only)
    run = Evaluation(pair.model, pair.guide, batch_of(pair, labelled=labelled), nesting)
    torch_rows, funsor_rows = (
        kind(**options, plate_nesting=nesting, backend=backend).rows(run)
        for backend in ("torch", "funsor")
    )
    same(funsor_rows, torch_rows, pair)


@pytest.mark.parametrize("beta", [1.0, {"y": 0.3, "z": 2.0}])
def test_one_label_and_weighted_kl_terms(beta):
    pair = linear()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = Evaluation(pair.model, pair.guide, Batch({"x": x}))
    rows = [EnumeratedELBO(3, beta=beta, backend=b).rows(run) for b in ("torch", "funsor")]
    same(rows[1], rows[0], pair)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("backend", ["torch", "funsor"])
@pytest.mark.parametrize(("world_kind", "model_only", "nesting"), WORLDS)
def test_values_are_those_of_pyros_enumeration(world_kind, model_only, nesting, backend, scale):
    pair = world(world_kind, model_only)
    batch = batch_of(pair, scale)
    torch.manual_seed(0)
    ours = EnumeratedELBO(plate_nesting=nesting, backend=backend).loss(
        pair.model, pair.guide, batch
    )
    torch.manual_seed(0)
    pyros = TraceEnum_ELBO(max_plate_nesting=nesting).loss(
        config_enumerate(pair.model), config_enumerate(pair.guide), batch
    )
    assert ours == pytest.approx(pyros, rel=1e-10)


def test_what_funsor_does_not_do_is_refused():
    with pytest.raises(ValueError, match="backend is 'jax', expected one of torch, funsor"):
        EnumeratedELBO(backend="jax")
    for options in ({"grad": "dreg"}, {"particles": 2, "lam": 0.5}):
        with pytest.raises(ValueError, match="particles=1 or lam=0"):
            IWELBO(backend="funsor", **options)
