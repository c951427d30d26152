"""The page: its numbers are those of the run and the posterior, and it stands alone."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from worlds.exact_guides import FAULTS, exact, table_of

from ppl_models import inference
from ppl_models.commands.main import main
from ppl_models.html_tables import facts, pre, table
from ppl_models.inference.diagnostics import calibration, verdict
from ppl_models.inference.posterior import export
from ppl_models.pages import html, sections
from ppl_models.pages.sections import Fit

FIT = "fit m2 --data digits --train 200 --validation 20 --test 40 --labelled 30 --hidden 8"
FIT += " --latent 2 --epochs 8 --draws 40 --quiet"


class Page(HTMLParser):
    """Headings, tables, list entries, images and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables, self.headings, self.images, self.entries = [], [], [], []
        self.tags, self.addresses, self.open = [], [], []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs.items() if key in ("src", "href")]
        if tag == "img":
            self.images.append(attrs)
        elif tag == "table":
            self.tables.append([])
            self.open.append(self.tables[-1])
        elif tag == "tr":
            self.open[-1].append([])
        elif tag in ("td", "th"):
            self.open[-1][-1].append("")
        elif tag == "h2":
            self.headings.append("")
        elif tag == "li":
            self.entries.append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self.open.pop()

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] and self.open[-1][-1]:
            self.open[-1][-1][-1] += data
        elif data.strip() and self.tags[-1] == "h2" and not self.headings[-1]:
            self.headings[-1] = data
        elif self.entries and self.tags[-1] == "li":
            self.entries[-1] += data

    def facts(self):
        return {line[0]: line[1] for line in self.tables[0] if len(line) > 1}

    def table(self, first):
        return next(t for t in self.tables if t and t[0][0] == first)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    assert main([*FIT.split(), "--out", str(folder)]) == 0
    assert main(["report", str(folder), "--simulations", "60"]) == 0
    return folder, (folder / "report.html").read_text()


def test_the_page_stands_alone(run):
    folder, text = run
    found = Page(text)
    assert all(address.startswith("data:image/svg+xml;base64,") for address in found.addresses)
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert 'name="viewport"' in text and "prefers-color-scheme:dark" in text
    for image in found.images:
        drawn = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert html.INK not in drawn
        assert "http" not in re.sub(r"xmlns[^ >]*|http://www\.w3\.org[^\"]*|<metadata.*?</metadata>",
                                    "", drawn, flags=re.S)  # fmt: skip
        assert image["alt"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "posterior.nc", "report.html", "run.json", "state.pt",
    ]  # fmt: skip


def test_what_was_fitted_is_what_the_run_says(run):
    folder, text = run
    facts, saved = Page(text).facts(), json.loads((folder / "run.json").read_text())
    assert facts["Data digest"] == saved["data"]["digest"]
    assert facts["Data options"] == ", ".join(
        f"{k} {v}" for k, v in saved["data"]["options"].items()
    )
    assert "latent 2, hidden 8, likelihood soft_bernoulli, alpha 0.1" in facts["Settings"]
    assert facts["Objective"] == saved["objective"]
    for name, number in saved["versions"].items():
        assert f"{name} {number}" in facts["Versions"]
    assert facts["Posterior"] == "svi, 40 rows of digits/test given x, 1 x 40 draws, seed 0"
    assert "1406.5298" in facts["Paper"] and "Kingma" in facts["Paper"]
    ((_, objective, options),) = Page(text).table("stage")[1:]
    assert objective == saved["stages"][0]["objective"]
    assert options.startswith("epochs 8, batch size 100")


def test_numbers_are_those_of_the_posterior(run):
    folder, text = run
    found, idata = Page(text), export.load(folder / "posterior.nc")
    told = verdict.verdict(idata)
    assert [e[2:].strip() for e in found.entries] == [c.sentence for c in told.findings]
    assert ("can be trusted" in found.text) == told.ok
    table = found.table("row")
    assert table[0] == ["row", "khat", "ess_is", "elbo", "iw_bound", "y: true, guess"]
    shapes = idata.diagnostics["khat"].values
    worst = np.argsort(-shapes)[:8]
    probs = idata.variational["y_probs"].values
    for line, row in zip(table[1:], worst, strict=True):
        assert line[0] == str(idata.diagnostics["datum"].values[row])
        for cell, name in zip(line[1:5], table[0][1:5], strict=True):
            assert cell == f"{float(idata.diagnostics[name].values[row]):.3f}"
        truth = idata.constant_data["y_true"].values[row]
        assert line[5] == f"{truth}, {probs[row].argmax()} ({probs[row].max():.2f})"
    wrong = probs.argmax(1) != idata.constant_data["y_true"].values
    error = 100 * wrong.std(ddof=1) / np.sqrt(40)
    assert f"Error of y: {100 * wrong.mean():.2f} ± {error:.2f} % of 40 rows" in found.text
    ece = calibration.calibration_error(probs, idata.constant_data["y_true"].values)
    assert f"Calibration error {100 * float(ece['ece']):.2f} ±" in found.text
    assert f"would have {100 * float(ece['by_chance']):.2f} % by chance" in found.text


def test_every_part_has_its_figures(run):
    found = Page(run[1])
    assert found.headings == [
        "What was fitted on what", "Training", "Data and model", "Latent sites", "Labels",
        "Importance weights, row by row", "Rows simulated from the model",
    ]  # fmt: skip
    alts = [image["alt"] for image in found.images]
    assert [alt.split(":")[0].split(",")[0] for alt in alts] == [
        "Stage fit", "Rows of x", "Draws of x from the model", "Draws of x from the model",
        "Mean of x as y moves and all else stays.", "Mean of x as z moves and all else stays.",
        "Rows by y and most probable y.", "Are probabilities of y shares of rows? Bars",
        "k-hat of all rows; above 0.38 weights fail.", "The rows of largest k-hat. Rows of x",
        "Ranks of the values that made the rows",
    ]  # fmt: skip


def test_simulated_rows_say_what_is_off():
    pair = exact(FAULTS["narrow"])
    run = inference.Run(pair, "test")
    idata = run.posterior(table_of(pair, 30), draws=50, prior_draws=0)
    found = Page("".join(sections.simulated(Fit(idata, run, {}, ""), 300)))
    told = calibration.sbc(pair, 300)
    failed = told.isel(quantity=~told["passed"].values)
    assert f"{failed.sizes['quantity']} of {told.sizes['quantity']} quantities" in found.text
    for line, name in zip(found.tables[0][1:], failed["quantity"].values, strict=True):
        one = failed.sel(quantity=name)
        assert line[:4] == [name, *(f"{float(one[p]):.3f}" for p in ("p_value", "bias", "spread"))]
        assert line[4].startswith(f"{100 * float(one['coverage'].sel(level=0.9)):.1f} ±")
    good = exact()
    run = inference.Run(good, "test")
    idata = run.posterior(table_of(good, 30), draws=50, prior_draws=0)
    found = "".join(sections.simulated(Fit(idata, run, {}, ""), 300))
    assert "are as those of an exact guide" in found and "<table" not in found


def test_chains_of_mcmc(capsys, tmp_path):
    """A file alone: R-hat and effective draws of the worst numbers, and no guide's sections."""
    pair = exact()
    idata = inference.nuts(pair, table_of(pair, 2), draws=60, warmup=60, progress=False)
    export.save(idata, tmp_path / "n.nc")
    assert main(["report", str(tmp_path / "n.nc"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report": str(tmp_path / "n.html"), "trusted": verdict.verdict(idata).ok}
    found = Page((tmp_path / "n.html").read_text())
    assert found.headings == ["What was fitted on what", "Labels", "Chains"]
    lines = found.table("number")[1:]
    chosen = sections.scalars(idata, 8)
    assert [line[0] for line in lines] == list(chosen.data_vars)
    for line, values in zip(lines, chosen.data_vars.values(), strict=True):
        assert line[1:3] == [f"{values.attrs['rhat']:.3f}", str(round(values.attrs["ess"]))]
        assert line[3:] == [f"{float(values.mean()):.3f}", f"{float(values.std()):.3f}"]
    assert "a file alone holds no weights" in found.text


def test_vectors_without_labels(tmp_path):
    pair = exact()
    table = table_of(pair, 30).without("y")
    idata = inference.Run(pair, "test").posterior(table, draws=50)
    export.save(idata, tmp_path / "v.nc")
    assert main(["report", str(tmp_path / "v.nc")]) == 0
    found = Page((tmp_path / "v.html").read_text())
    assert found.headings == [
        "What was fitted on what", "Data and model", "Importance weights, row by row",
    ]  # fmt: skip
    assert any(image["alt"].startswith("Density of all entries of x") for image in found.images)


def test_text_of_others_is_no_markup():
    assert "<b>" not in facts({"<b>": "<b>"}) + table(["<b>"], [["<b>"]])
    assert "<b>" not in html.page("<b>", html.heading("<b>"), html.paragraph("<b>"))
    assert facts({"a": pre("<b>")}).count("<pre>&lt;b&gt;</pre>") == 1
    assert html.section("none", "", "") == "" and html.figures("") == ""


def test_bad_input_is_one_line_and_leaves_the_old_page(run, capsys, tmp_path, monkeypatch):
    folder, text = run
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    for line, words in (
        ([str(tmp_path / "empty")], "holds no posterior.nc"),
        ([str(tmp_path / "none.nc")], "no such file"),
        ([str(folder), "--file", str(tmp_path / "no" / "r.html")], "is no folder"),
        ([str(folder), "--simulations", "-1"], "simulations is -1"),
        ([str(folder), "--simulations", "5"], "expected 0 or at least 20"),
        ([str(folder), "--pair", "vae"], "holds a run of m2, not of vae"),
    ):
        assert main(["report", *line]) == 2, line
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err

    def full(a, b):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(["report", str(folder), "--simulations", "0"]) == 1
    assert (folder / "report.html").read_text() == text
    assert len(list(folder.iterdir())) == 4
