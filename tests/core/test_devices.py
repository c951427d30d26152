"""Devices: those that are not supported are told before any work."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from worlds.exports import table
from worlds.linear import linear

from ppl_models import inference
from ppl_models.commands.main import main
from ppl_models.devices import device_of
from ppl_models.inference.posterior import export

ELSEWHERE = ("mps", "xpu", "hpu", "meta", "mps:0", "vulkan")


@pytest.mark.parametrize("name", [*ELSEWHERE, torch.device("meta")])
def test_devices_that_are_not_supported(name, tmp_path, monkeypatch):
    words = f"device {str(name)!r} is not supported, expected auto, cpu or cuda"
    pair = linear()
    before = copy.deepcopy(pair.state_dict())
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        inference.fit(pair, table(pair), device=name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpu3", "unknown device 'tpu3', expected auto, cpu or cuda"),
        ("CPU", "unknown device 'CPU', expected auto, cpu or cuda"),
        ("", "unknown device '', expected auto, cpu or cuda"),
        (None, "device is None, expected auto, cpu or cuda"),
        (0, "device is 0, expected auto, cpu or cuda"),
        (["cpu"], "device is ['cpu'], expected auto, cpu or cuda"),
        ("cuda", "device 'cuda' asked for, but no GPU is available; use cpu or auto"),
        ("cuda:1", "device 'cuda:1' asked for, but no GPU is available; use cpu or auto"),
    ],
)
def test_devices_that_are_not_there(name, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        device_of(name)


def test_devices_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto") == torch.device("cuda")
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of(np.str_("cpu")) == device_of(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"^device 'cuda:2' asked for, expected cuda:0 to cuda:1$"
    ):
        device_of("cuda:2")


def test_the_command_line_tells_it(capsys, tmp_path):
    out = tmp_path / "run"
    assert main(["fit", "m2", "--data", "digits", "--device", "mps", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == (
        "ppl-models: error: device 'mps' is not supported, expected auto, cpu or cuda\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "entry",
    [
        lambda pair, rows: inference.fit(pair, rows),
        lambda pair, rows: export.posterior(pair, rows),
        lambda pair, rows: inference.importance(pair, rows),
        lambda pair, rows: inference.error(pair, rows),
        lambda pair, rows: inference.nuts(pair, rows),
        lambda pair, rows: pair.intervene(next(rows.batches(torch.arange(2))), y=1),
    ],
)
def test_a_pair_that_is_elsewhere(entry):
    pair = linear()
    rows = table(pair)
    words = "the pair is on device 'meta', which is not supported, expected cpu or cuda"
    with pytest.raises(ValueError, match=f"^{words}$"):
        entry(pair.to("meta"), rows)


@pytest.mark.parametrize("entry", [inference.fit, export.posterior, inference.importance])
def test_rows_that_are_elsewhere(entry):
    pair = linear()
    rows = table(pair).to("meta")
    words = "site 'x' of w/test is on device 'meta', which is not supported, expected cpu or cuda"
    with pytest.raises(ValueError, match=f"^{words}$"):
        entry(pair, rows)
