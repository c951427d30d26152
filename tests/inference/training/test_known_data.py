"""A pair knows what it was fitted on, whatever is asked of it afterwards."""

import re
from typing import ClassVar

import pytest
import torch

from ppl_models import build, data, inference
from ppl_models.data import Table
from ppl_models.inference import metrics
from ppl_models.inference.diagnostics.debug import debug
from ppl_models.inference.metrics.disentanglement.results import result
from ppl_models.inference.posterior.support import check_data
from ppl_models.inference.training import run_description

CLASSES, GENES = ("cat", "dog", "elk", "fox"), ("g0", "g1", "g2", "g3", "g4")
QUICK = {"epochs": 3, "batch_size": 50, "progress": False}


def rows(count=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    x = (torch.rand(count, 5, generator=draw) < 0.2 + 0.15 * y[:, None]).float()
    return x, y


def table(x, y, classes=CLASSES, genes=GENES, **more):
    return Table("cells", {"x": x, "y": y}, classes={"y": classes}, columns={"x": genes}, **more)


@pytest.fixture(scope="module")
def fitted():
    x, y = rows(200, 1)
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    return inference.fit(pair, table(x, y, observed={"y": torch.arange(200) < 100}), **QUICK)


class Sizes:
    sizes: ClassVar = {"x": 5, "y": 4}


def moved():
    """The same rows with columns and classes in another order."""
    x, y = rows()
    order = [3, 1, 4, 0, 2]
    return table(
        x[:, order], 3 - y, CLASSES[::-1], [GENES[at] for at in order], row_names=list(map(str, y))
    )


def encoded(codes):
    """Codes and factors of a table, as a metric gives them."""
    values = {"codes": (("row", "code"), codes.codes), "y": (("row", "factor"), codes.factors)}
    return result(codes, values)


FEW = range(4)
# Everything that takes a pair and a table, as (name, what it gives).
ASKED = {
    "label_probabilities": lambda r, t: r.label_probabilities(t),
    "label_probabilities of the model": lambda r, t: r.label_probabilities(t, particles=3),
    "label_probabilities over draws": lambda r, t: r.label_probabilities(t, draws=3),
    "error": lambda r, t: r.error(t),
    "errors": lambda r, t: r.errors(t)["y"],
    "loss_per_row": lambda r, t: r.loss_per_row(t, inference.EnumeratedELBO()),
    "bound_per_row": lambda r, t: r.bound_per_row(t, inference.EnumeratedELBO()),
    "check": lambda r, t: r.check(t, draws=30),
    "posterior": lambda r, t: r.posterior(t, draws=30),
    "chains of restarts": lambda r, t: r.posterior(t, draws=30, restarts=[r]),
    "importance": lambda r, t: inference.importance(r.pair, t, FEW, draws=30),
    "sir": lambda r, t: inference.sir(r.pair, t, FEW, draws=5, proposals=30),
    "nuts": lambda r, t: inference.nuts(r.pair, t, [3], draws=3, warmup=3, progress=False),
    "hmc": lambda r, t: inference.hmc(r.pair, t, [3], draws=3, warmup=3, progress=False),
    "map": lambda r, t: inference.map(r.pair, t, FEW, iterations=500),
    "log_evidence": lambda r, t: inference.log_evidence(r.pair, t, FEW, method="iw"),
    "held_out": lambda r, t: inference.held_out(r.pair, t, FEW, method="iw"),
    "refine": lambda r, t: inference.refine(r.pair, t, FEW, draws=50, steps=3),
    "bad_rows": lambda r, t: inference.bad_rows(r.pair, t, draws=50),
    "amortisation_gap": lambda r, t: inference.amortisation_gap(
        r.pair, t, FEW, draws=30, steps=3, temperatures=5
    ),
    "against_nuts": lambda r, t: inference.against_nuts(r.pair, t, [3], draws=20, warmup=3),
    "active_units": lambda r, t: inference.active_units(r.pair, t),
    "aggregate_posterior": lambda r, t: inference.aggregate_posterior(r.pair, t),
    "agreement": lambda r, t: inference.agreement([r, r], t, draws=8),
    "label_calibration": lambda r, t: inference.label_calibration(r.pair, t, simulations=20),
    "gibbs_predict": lambda r, t: inference.gibbs_predict(r.pair, t, weights=2, steps=2),
    "gibbs_posterior": lambda r, t: inference.gibbs_posterior(r.pair, t, weights=2, steps=2),
    "cross_coherence": lambda r, t: metrics.cross_coherence(
        r.pair, t, lambda x: x[:, 1:3].sum(1) + x[:, 4].long() > 1, "x", "x", mean=False
    ),
    "influence": lambda r, t: metrics.influence(
        r.pair, t, t, [metrics.Checkpoint(r.pair.state_dict(), 0.1, 3)], draws=2
    ).drop_vars(("train_name", "test_name"), errors="ignore"),
    "denoise": lambda r, t: metrics.denoise(r.pair, t).images[
        :, [t.columns["x"].index(gene) for gene in GENES]
    ],  # in the table's own order
    "encode": lambda r, t: encoded(metrics.encode(r.pair, t)),
    "kl_decomposition": lambda r, t: metrics.kl_decomposition(r.pair, t, draws=2),
    "decoder": lambda r, t: metrics.decoder(r.pair, t)(torch.ones(40, 2), slice(0, 40)),
    "reconstruct_images": lambda r, t: metrics.reconstruct_images(r.pair, t),
    "debug": lambda r, t: debug(r.pair, t),
}


def plain(found):
    """What came out, as arrays by name."""
    if isinstance(found, torch.Tensor):
        return {"": found.numpy()}
    if hasattr(found, "groups"):
        return {
            f"{group}.{name}": values.values
            for group in found.groups()
            for name, values in found[group].variables.items()
            if name != "datum_name"
        }
    if hasattr(found, "variables"):
        return {name: values.values for name, values in found.variables.items()}
    return {"": found if isinstance(found, float) else str(found)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ASKED)
def test_an_order_of_classes_and_columns_changes_nothing(fitted, what):
    ask = ASKED[what]
    as_it_was, other = plain(ask(fitted, table(*rows()))), plain(ask(fitted, moved()))
    assert as_it_was.keys() == other.keys()
    for name, values in as_it_was.items():
        if isinstance(values, str | float):
            assert values == other[name]
        else:
            same = values == other[name]
            both_nan = (values != values) & (other[name] != other[name])
            assert (same | both_nan).all(), name


@pytest.mark.parametrize("what", [name for name in ASKED if name != "debug"])
def test_every_entry_names_what_does_not_fit(fitted, what):
    x, y = rows()
    beyond = x.clone()
    beyond[3, 1] = 2.0
    wrong = {
        "unknown class 'emu'": table(x, y, ("cat", "dog", "emu", "fox")),
        "lacks the column 'g4'": table(x, y, genes=("g0", "g1", "g2", "g3", "h")),
        "site 'x' of cells has rows of shape (4,), but the pair was fitted on (5,)": Table(
            "cells", {"x": x[:, :4], "y": y}, classes={"y": CLASSES}
        ),
        "site 'x', row 3 of cells, column 1 ('g1'): the value 2 is outside": table(beyond, y),
    }
    for line, given in wrong.items():
        with pytest.raises(ValueError, match=re.escape(line)) as error:
            ASKED[what](fitted, given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_named_though_the_table_let_them_through(fitted, value):
    x, y = rows()
    given = table(x, y)
    given.sites["x"] = x.clone()
    given.sites["x"][7, 2] = value
    for ask in (fitted.error, fitted.label_probabilities, fitted.posterior):
        with pytest.raises(
            ValueError, match=r"site 'x', row 7 of cells, column 2 \('g2'\): the value"
        ):
            ask(given)
    with pytest.raises(ValueError, match="row 7 of cells, column 2"):
        check_data(fitted.pair, given)


def test_names_of_the_fit_are_in_the_export_whatever_the_table_has(fitted):
    x, _ = rows()
    unnamed = Table("new", {"x": x, "y": torch.full((40,), -1)},
                    {"y": torch.zeros(40, dtype=torch.bool)}, classes={"y": ()})  # fmt: skip
    idata = fitted.posterior(unnamed, draws=5)
    assert idata.posterior_predictive["x_dim"].values.tolist() == list(GENES)
    assert idata.variational["y_class"].values.tolist() == list(CLASSES)
    assert (idata.constant_data["y_true"] == -1).all()


def test_a_run_folder_keeps_the_schema(fitted, tmp_path):
    x, y = rows()
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    run = inference.fit(pair, table(x, y), out=tmp_path / "run", **QUICK)
    read = inference.load(tmp_path / "run")
    assert read.pair.schema == run.pair.schema == fitted.pair.schema
    assert read.error(moved()) == run.error(table(x, y))
    description = run_description.read_description(tmp_path / "run")
    description["schema"]["x"]["kind"] = "evil"
    run_description.write_description(tmp_path / "run", description)
    with pytest.raises(inference.RunFolderError, match=r"run.json does not fit m2: .*kind 'evil'"):
        inference.load(tmp_path / "run")


def test_fitting_again_takes_the_classes_of_the_first_fit():
    x, y = rows()
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    first = inference.fit(pair, table(x, y), **QUICK)
    again = inference.fit(pair, moved(), **QUICK)
    other = build("m2", Sizes, hidden=(8,), latent=2)
    inference.fit(other, table(x, y), **QUICK)
    straight = inference.fit(other, table(x, y), **QUICK)
    assert again.history["loss"] == straight.history["loss"]
    assert first.pair.schema == straight.pair.schema
    with pytest.raises(ValueError, match="unknown class 'emu'"):
        inference.fit(pair, table(x, y, ("emu", *CLASSES[1:])), **QUICK)


def test_validation_rows_of_early_stopping_are_brought_to_the_schema():
    def curve(validation):
        whole = data.from_arrays(*(v.numpy() for v in rows(100)), classes={"y": CLASSES})
        train = table(*rows(100))
        dataset = data.Dataset("cells", train, validation, validation, whole.recipe)
        run = inference.fit(
            build("m2", dataset, hidden=(8,), latent=2), dataset, patience=5, **QUICK
        )
        return run.validation["loss"]

    assert curve(table(*rows())) == curve(moved())
    x, y = rows()
    x[2, 0] = -1.0
    with pytest.raises(
        ValueError, match="site 'x', row 2 of cells, column 0 \\('g0'\\): the value -1"
    ):
        curve(table(x, y))


def test_restarts_on_other_classes_are_refused(fitted):
    x, y = rows()
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    other = inference.fit(pair, table(x, y, CLASSES[::-1]), **QUICK)
    for ask in (
        lambda: inference.agreement([fitted, other], table(x, y), draws=8),
        lambda: fitted.posterior(table(x, y), restarts=[other]),
    ):
        with pytest.raises(ValueError, match="fit 1 knows site 'y' as"):
            ask()


@pytest.mark.parametrize("kept", ["memory", "file"])
@pytest.mark.parametrize("draws_for", [None, [3, 1]])
def test_names_of_rows_and_columns_are_coordinates(fitted, tmp_path, kept, draws_for):
    x, y = rows(6)
    named = table(x, y, row_names=[f"cell {k}" for k in range(6)])
    path = None if kept == "memory" else tmp_path / "cells.nc"
    idata = fitted.posterior(named, draws=5, path=path, draws_for=draws_for)
    order = [3, 1, 0, 2, 4, 5] if draws_for else list(range(6))
    names = [f"cell {k}" for k in order]
    assert idata.variational.coords["datum_name"].values.tolist() == names
    drawn = names[:2] if draws_for else names
    assert idata.posterior.coords["datum_name"].values.tolist() == drawn
    by_name = idata.posterior_predictive.set_index(datum="datum_name")
    picked = by_name["x"].sel(datum="cell 3", x_dim="g2")
    assert picked.shape == (1, 5)
    assert (picked == idata.posterior_predictive["x"].sel(datum=3, x_dim="g2")).all()


@pytest.mark.parametrize(("name", "code"), [("cat", 0), ("elk", 2), ("fox", 3)])
def test_interventions_take_classes_by_their_names(fitted, name, code):
    (batch,) = table(*rows(4)).only("x").batches()
    torch.manual_seed(0)
    by_name = fitted.pair.intervene(batch, y=name)
    torch.manual_seed(0)
    by_code = fitted.pair.intervene(batch, y=code)
    assert torch.equal(by_name["x"], by_code["x"]) and by_name["y"].tolist() == [code] * 4
    with pytest.raises(ValueError, match=r"^site 'y': unknown class 'emu': expected one of cat"):
        fitted.pair.intervene(batch, y="emu")


@pytest.mark.parametrize("site", ["y", "z"])
def test_names_of_classes_need_data_that_had_some(site):
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    (batch,) = table(*rows(4)).only("x").batches()
    with pytest.raises(ValueError, match=f"^site '{site}' is set to 'cat', expected numbers"):
        pair.intervene(batch, **{site: "cat"})


@pytest.mark.parametrize("refused", ["folder", "device", "rows"])
def test_a_fit_that_is_refused_teaches_the_pair_nothing(tmp_path, refused):
    x, y = rows()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    options = {
        "folder": {"out": tmp_path / "taken"},
        "device": {"device": "mps"},
        "rows": {"patience": 3},  # a table has no validation rows
    }[refused]
    pair = build("m2", Sizes, hidden=(8,), latent=2)
    with pytest.raises(ValueError, match=r"taken|mps|validation rows"):
        inference.fit(pair, table(x, y, ("p", "q", "r", "s")), **{**QUICK, **options})
    assert pair.schema is None
    assert inference.fit(pair, table(x, y), **QUICK).pair.schema.sites["y"].classes == CLASSES
