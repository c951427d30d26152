"""What the tests of readers share."""

from __future__ import annotations

import json
import os

import pytest
import torch

from ppl_models import data


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch, request):
    """No cache of the user's, no network; real files only for the tests that need them."""
    if not request.node.get_closest_marker("skipif"):
        monkeypatch.setenv("PPL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(
        "ppl_models.data.readers.files.download", lambda official, folder: "downloading failed"
    )


def rows(dataset, site):
    parts = (dataset.train, dataset.validation, dataset.test)
    order = torch.cat([t.numbers for t in parts]).argsort()
    return torch.cat([t.sites[site][:] for t in parts])[order]


def remade(dataset):
    recipe = json.loads(json.dumps(dataset.recipe))
    assert data.remake(recipe).recipe == recipe


class Foreign:
    def __reduce__(self):
        return os.system, ("touch pwned",)
