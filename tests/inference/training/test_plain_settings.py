"""Settings of other libraries' kinds, from the loader to the folder of a run and back."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import IWELBO, EnumeratedELBO
from ppl_models.inference.posterior import export


class Likelihood(enum.StrEnum):
    """Of pictures."""

    GREY = "soft_bernoulli"


ROWS = {"train": 60, "validation": 20, "test": 20, "labelled": 30}
KINDS = {
    "python": (int, float, bool, tuple),
    "numpy": (np.int64, np.float64, np.bool_, np.array),
    "small numpy": (np.int16, np.float32, np.bool_, np.array),
    "arrays": (np.array, np.array, np.array, np.array),
    "tensors": (torch.tensor, lambda v: torch.tensor(v, dtype=torch.float64), torch.tensor,
                torch.tensor),
}  # fmt: skip


def fitted(kind, folder, **options):
    whole, real, true, several = KINDS[kind]
    rows = data.load("digits", **{name: whole(count) for name, count in ROWS.items()})
    likelihood = Likelihood.GREY if kind != "python" else "soft_bernoulli"
    pair = zoo.build(
        "m2", rows, seed=whole(3), hidden=several((8,)), latent=whole(2), likelihood=likelihood
    )
    run = inference.fit(
        pair, rows, real(0.5) * EnumeratedELBO(whole(2)), seed=whole(1), epochs=whole(1),
        batch_size=several((30,)), learning_rate=real(0.125), compile=true(False), out=folder,
        progress=False, device="cpu", **options,
    )  # fmt: skip
    return run, rows


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_told_by_values_not_by_kinds(kind, tmp_path):
    run, rows = fitted(kind, tmp_path / "run")
    plain, _ = fitted("python", tmp_path / "plain")
    told, expected = (
        json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "plain")
    )
    assert told == expected
    assert type(run.seed) is int
    for name, value in plain.pair.state_dict().items():
        assert torch.equal(value, run.pair.state_dict()[name])
    # A plain run goes on from there.
    fitted("python", tmp_path / "run", resume=True)
    assert data.remake(told["data"]).recipe["digest"] == rows.recipe["digest"]
    path = tmp_path / "p.nc"
    whole = KINDS[kind][0]
    idata = run.posterior(
        rows.test, draws=whole(5), seed=whole(1), prior_draws=whole(3), path=path
    )
    assert int(idata.attrs["seed"]) == 1 and int(export.load(path).attrs["training_seed"]) == 1


def test_paths_and_texts_of_other_kinds_name_data(tmp_path):
    rows = data.load("digits", **ROWS)
    data.write(rows, tmp_path / "d.h5")
    for name in (tmp_path / "d.h5", np.str_(tmp_path / "d.h5")):
        found = data.load(name)
        json.dumps(found.recipe)
        assert found.recipe["digest"] == data.load(str(tmp_path / "d.h5")).recipe["digest"]
    assert isinstance(tmp_path, Path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"seed": np.float64(1)}, "seed is np.float64(1.0), expected a whole number"),
        ({"seed": "1"}, "seed is '1', expected a whole number"),
        ({"seed": None}, "seed is None, expected a whole number"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"freeze": "decoder"}, "freeze is 'decoder', expected a tuple such as ('decoder',)"),
        ({"epochs": "3"}, "epochs is '3', expected a whole number"),
        ({"epochs": np.float32(2)}, "epochs is 2.0, expected a whole number"),
        ({"precision": ["bf16", 3]}, "precision has 2 values, expected one or 1"),
        ({"learning_rate": np.datetime64("2020")}, "learning_rate is np.datetime64('2020'), "
         "expected a number"),
    ],
)  # fmt: skip
def test_settings_of_a_wrong_kind_are_refused_before_the_folder_is_taken(options, words, tmp_path):
    rows = data.load("digits", **ROWS)
    pair = zoo.build("m2", rows, hidden=(8,), latent=2)
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        inference.fit(pair, rows, IWELBO(2), out=tmp_path / "run", progress=False, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "x"}, "given is 'x', expected a tuple such as ('x',)"),
        ({"draws": 2.5}, "draws is 2.5, expected a whole number"),
        ({"prior_draws": "3"}, "prior_draws is '3', expected a whole number"),
    ],
)
def test_options_of_an_export_of_a_wrong_kind(options, words):
    rows = data.load("digits", **ROWS)
    pair = zoo.build("m2", rows, hidden=(8,), latent=2)
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        export.posterior(pair, rows.test, **options)
