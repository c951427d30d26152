"""Points by row: exported by number, kept with a run, and refused to rows of other tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import inference
from ppl_models.commands.main import main
from ppl_models.data import Dataset, Table
from ppl_models.data.tables.row_marks import row_marks
from ppl_models.inference.posterior.export import load
from ppl_models.prior_rows import draw_rows

FILE = Path(__file__).parents[2] / "worlds" / "stories" / "factors.py"
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
OPTIONS = {"epochs": 2, "batch_size": 16, "progress": False, "device": "cpu"}


def make(rows, dtype=torch.float32):
    return zoo.build(f"{FILE}:Factors", kind="row", rows=rows).to(dtype)


def world(rows=60, seed=4):
    torch.manual_seed(seed)
    some = draw_rows(make(1), rows)
    table = Table("world", {name: some[name] for name in "aby"})
    return table.hide({"y": torch.arange(rows) % 2 > 0})


def parts(dtype=torch.float32):
    """Rows in no order, numbered as in their source, and the others."""
    whole = world().to(dtype)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    return whole.part("world/train", order[:40]), whole.part("world/test", order[40:])


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def fitted(request):
    """A pair, its training rows and its other rows."""
    train, test = parts(request.param)
    return inference.fit(make(40, request.param), train, **OPTIONS), train, test


def codes(run, table, **options):
    """The exported codes by row number, all draws alike."""
    found = run.posterior(table, draws=3, prior_draws=0, **options)
    values = found.posterior["z"]
    assert (values.values == values.values[:, :1]).all()
    return {int(n): v for n, v in zip(values["datum"].values, values.values[0, 0], strict=True)}


def wanted(run, numbers):
    points = run.pair.guide.factors["z"]
    place = {n: i for i, n in enumerate(points.numbers.tolist())}
    return {n: points.table[place[n]].detach().numpy() for n in numbers.tolist()}


@pytest.mark.parametrize("chosen", [None, [3], [39, 0, 17], slice(4, 30, 3)], ids=str)
def test_codes_are_exported_by_row_number(fitted, chosen):
    run, train, _ = fitted
    index = torch.arange(40) if chosen is None else torch.arange(40)[chosen]
    expected = wanted(run, train.numbers[index])
    for found in (codes(run, train, rows=chosen), codes(run, train.rows(index), block=7)):
        assert found.keys() == expected.keys()
        for number, value in expected.items():
            np.testing.assert_array_equal(found[number], value)


def test_rows_with_hidden_values_have_their_points():
    train = parts()[0].hide({"b": torch.arange(40) % 3 > 0})
    run = inference.fit(make(40), train, **OPTIONS)
    seen = train.where_observed("b")
    found, expected = codes(run, seen), wanted(run, seen.numbers)
    assert found.keys() == expected.keys()
    assert all((found[n] == value).all() for n, value in expected.items())
    lacking = r"is not what row of that number was \(it lacks the site 'b'\)"
    with pytest.raises(ValueError, match=lacking):
        codes(run, train.without("b"))


def test_rows_without_a_density_have_no_weights(fitted):
    run, train, _ = fitted
    idata = run.posterior(train, draws=3)
    assert "diagnostics" not in idata.groups() and "log_weight" not in idata.sample_stats
    assert "log_p" in idata.sample_stats and "log_likelihood" in idata.groups()


def test_a_saved_run_knows_its_rows(tmp_path):
    train, test = parts()
    data = Dataset("world", train, test, test, {"name": "world", "options": {}})
    run = inference.fit(make(40), data, out=tmp_path / "run", **OPTIONS)
    loaded = inference.load(tmp_path / "run", pair=f"{FILE}:Factors")
    found, expected = codes(loaded, train), wanted(run, train.numbers)
    assert all((found[n] == expected[n]).all() for n in expected)
    with pytest.raises(ValueError, match="is none of them"):
        loaded.posterior(test, draws=2)
    assert run.check().findings  # by default of the training rows
    longer = {**OPTIONS, "epochs": 4, "out": tmp_path / "run", "resume": True}
    resumed = inference.fit(make(40), data, **longer)
    straight = inference.fit(make(40), train, **{**OPTIONS, "epochs": 4})
    assert_close(resumed.pair.state_dict(), straight.pair.state_dict(), rtol=0, atol=0)


def other(train, test, how):
    if how == "rows of a test table":
        return test
    if how == "another table of that length":
        return train.replace(name="other", sites={**train.sites, "a": 1 - train.sites["a"]})
    if how == "numbered anew":
        return Table("other", {n: train.sites[n].nan_to_num() for n in "ab"})
    swapped = torch.arange(40).flip(0)
    return train.replace(name="other", numbers=train.numbers[swapped])


ELSEWHERE = {
    "rows of a test table": r"row \d+ of world/test is none of them",
    "another table of that length": r"row \d+ of other is not what row of that number was",
    "numbered anew": r"row \d+ of other is n",
    "in another order": r"row \d+ of other is not what row of that number was",
}


@pytest.mark.parametrize("how", ELSEWHERE)
@pytest.mark.parametrize(
    "ask",
    [
        lambda run, table: run.posterior(table, draws=2),
        lambda run, table: run.posterior(table, draws=2, rows=[1]),
        lambda run, table: inference.label_probabilities(run.pair, table, "y"),
        lambda run, table: inference.importance(run.pair, table, draws=2),
        lambda run, table: inference.debug(run.pair, table),
        lambda run, table: inference.fit(run.pair, table, **OPTIONS),
    ],
    ids=["posterior", "one row", "label probabilities", "importance", "debug", "fit"],
)
def test_rows_of_other_tables_are_one_line(fitted, ask, how):
    run, train, test = fitted
    before = {name: value.clone() for name, value in run.pair.state_dict().items()}
    # A fit first sees how many rows there are.
    several = r"has points for 40 rows, but world/test has 20; build its guides.PointPerRow with"
    message = rf"site 'z' (has a point for each row .*{ELSEWHERE[how]}|{several})"
    with pytest.raises(ValueError, match=message) as error:
        ask(run, other(train, test, how))
    assert "\n" not in str(error.value)
    assert_close(run.pair.state_dict(), before, rtol=0, atol=0)


def test_validation_rows_are_one_line_before_any_work(tmp_path):
    train, test = parts()
    data = Dataset("world", train, test, test, {"name": "world", "options": {}})
    with pytest.raises(ValueError, match=r"site 'z' .* of world/test is none of them; expected"):
        inference.fit(make(40), data, out=tmp_path / "run", patience=1, **OPTIONS)
    assert not (tmp_path / "run").exists()
    inference.fit(make(40), data, **OPTIONS)  # where nobody looks at them they do not matter


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda t: t.rows(torch.arange(39)), "has points for 40 rows, but world/train has 39"),
        (lambda t: t.replace(numbers=t.numbers * 0 + 7), "world/train has row 7 twice"),
    ],
    ids=["too few", "twice"],
)
def test_tables_that_cannot_be_trained_on(table, message, tmp_path):
    pair = make(40)
    with pytest.raises(ValueError, match=message) as error:
        inference.fit(pair, table(parts()[0]), out=tmp_path / "run", **OPTIONS)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    assert not pair.guide.factors["z"].fitted and pair.schema is None


def test_before_a_fit_a_pair_is_tried_out_on_any_rows(capsys):
    train, _ = parts()
    pair = make(40)
    report = inference.debug(pair, train)
    assert report.ok, str(report)
    applies = {m.name: m for m in inference.methods(pair, train)}
    assert applies["enumerated"].applies, str(applies["enumerated"])
    assert "has no density" in applies["importance"].reason
    assert torch.equal(pair.guide.factors["z"].numbers, torch.arange(40))


@TYPES
def test_marks_are_of_what_a_row_holds(dtype):
    table = world().to(dtype).hide({"b": torch.arange(60) % 3 > 0})
    index = torch.arange(60)
    marks = row_marks(table, ("a", "b"), index)
    assert torch.equal(row_marks(table.to(torch.float64), ("b", "a"), index), marks)
    assert torch.equal(row_marks(table, ("a", "b", "none"), index[7:20]), marks[7:20])
    without = row_marks(table.without("b"), ("a", "b"), index)
    # What is hidden is as if it were not there, and so are zeros.
    assert torch.equal(marks == without, ~(table.sites["b"].nan_to_num() != 0).any(1))
    moved = table.replace(sites={**table.sites, "a": table.sites["a"].flip(1)})
    same = (table.sites["a"] == moved.sites["a"]).all(1)
    assert torch.equal(row_marks(moved, ("a", "b"), index) == marks, same)
    labels = row_marks(table, ("y",), index)
    assert bool((labels[~table.observed["y"]] == 0).all()) and len(set(labels.tolist())) > 2


def test_marks_tell_all_different_rows_apart():
    torch.manual_seed(0)
    values = torch.randn(20_000, 3)
    marks = row_marks(Table("many", {"x": values}), ("x",), torch.arange(20_000))
    assert len(set(marks.tolist())) == len(values.unique(dim=0))
    assert re.fullmatch(r"-?\d+", str(int(marks[0])))


CODE = """
from dataclasses import dataclass
import pyro, torch
import pyro.distributions as dist
from ppl_models import Card, Config, Pair, guides, setting

@dataclass(frozen=True)
class Settings(Config):
    points: int = setting(100, "rows of the training table")

class Auto(Pair):
    Config = Settings
    card = Card("auto", "-", "-", 2026, "-", "test", {"x": "pixels"}, {"z": "code"})

    def __init__(self, config):
        super().__init__(config)
        self.guide = guides.Factored(z=guides.PointPerRow(2, config.points))
        self.net = torch.nn.Linear(2, 64)

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(self.like().new_zeros(2), 1.0).to_event(1))
            pixels = dist.Normal(self.net(z), 1.0).to_event(1)
            pyro.sample("x", pixels, obs=batch.get("x"))
"""


def test_the_command_exports_training_rows_and_refuses_others_before_work(tmp_path, capsys):
    file, out = tmp_path / "auto.py", tmp_path / "run"
    file.write_text(CODE)
    line = f"fit {file}:Auto --data digits --train 100 --validation 20 --test 30 --labelled 30"
    line += f" --out {out} --points 100 --epochs 2 --draws 20 --device cpu --quiet"
    assert main(line.split()) != 0 and not out.exists()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--split is test, expected train: site 'z' has a point for each row it was" in told
    assert main([*line.split(), "--split", "train"]) == 0
    dataset = zoo.data.load("digits", train=100, validation=20, test=30, labelled=30)
    run = inference.load(out, pair=f"{file}:Auto")
    idata = load(out / "posterior.nc")
    numbers, values = idata.posterior["datum"].values, idata.posterior["z"].values[0, 0]
    expected = wanted(run, run.pair.guide.factors["z"].numbers)
    for number, value in zip(numbers.tolist(), values, strict=True):
        np.testing.assert_array_equal(value, expected[number])
    assert run.check(dataset.train).findings and run.pair.guide.factors["z"].numbers.max() > 100
