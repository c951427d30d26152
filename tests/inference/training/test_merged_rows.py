"""Rows with gaps as rows of one kind: what fits, and what is refused before any work."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close
from worlds.modalities import two, values
from worlds.whole_life import QUIET

from ppl_models import data, guides, inference, modalities
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.marked import marked
from ppl_models.multimodal.mvae import MVAE


def gaps(rows=8):
    """Every third row lacks s, every fourth t."""
    pair = two("mvae", torch.float32)
    row = torch.arange(rows)
    masks = {"s": row % 3 > 0, "t": (row % 4 > 0) | (row % 3 == 0)}
    return data.Table("rows", values(pair, rows), observed=masks)


class OneFactor(MVAE):
    """A guide whose one network reads both."""

    def __init__(self, config):
        super().__init__(config)
        sizes = dict(zip(("s?", "t?"), config.sizes, strict=True))
        self.guide = guides.Factored(z=guides.Normal(config.latent, sizes))


class ScoresAll(MVAE):
    """A story that does not ask which rows have s."""

    def model(self, batch):
        """p(z) p(s | z) p(t | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            for name in modalities.told(batch, ("s", "t")):
                pyro.sample(name, self.modalities.decoders[name](z), obs=batch.get(name))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OneFactor, "factor 'z' reads 's', which rows of rows lack, and not 's_observed'"),
        (ScoresAll, "the story scores 's' in all rows, and some of rows lack it"),
    ],
)
def test_what_does_not_read_the_marks_is_refused(kind, words, tmp_path):
    config = MVAE.Config(sizes=(4, 2), kinds=("laplace", "normal"), latent=2, hidden=(3,))
    pair, rows = kind(config), gaps()
    with pytest.raises(ValueError, match=words) as caught:
        inference.fit(pair, rows, inference.ELBO(), steps=2, out=tmp_path / "run", **QUIET)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    whole = data.Table("rows", values(two("mvae", torch.float32), 8))
    inference.fit(pair, whole, inference.ELBO(), steps=2, **QUIET)  # where nothing is lacking


def test_gaps_hold_the_first_row_that_has_the_site():
    rows = gaps()
    found = marked(rows, ("s", "t", "u"))
    assert len(found.regimes()) == 1 and not found.observed
    for site in ("s", "t"):
        there = rows.observed[site]
        assert torch.equal(found.sites[f"{site}_observed"] > 0, there)
        assert torch.equal(found.sites[site][there], rows.sites[site][there])
        first = rows.sites[site][there][:1]
        assert torch.equal(found.sites[site][~there], first.expand(int((~there).sum()), -1))


class Whole:
    """A source of a column that stands in memory."""

    digest = "a"

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, tuple(values.shape), values.dtype

    def read(self, rows):
        """Some rows."""
        return self.values[rows]


def test_a_column_that_is_not_in_memory_stays_there():
    plain = gaps()
    s = values(two("mvae", torch.float32), 8)["s"]
    lazy = data.Table("rows", {**plain.sites, "s": Column(Whole(s))}, observed=plain.observed)
    before = lazy.sites["s"].fingerprint()
    found = marked(lazy, ("s", "t"))
    there = plain.observed["s"]
    assert isinstance(found.sites["s"], Column) and found.sites["s"].fingerprint() != before
    assert_close(found.sites["s"][:][there], s[there])
    first = s[there][0, 0]
    assert_close(found.sites["s"][:][~there], first.expand(int((~there).sum()), 4))
    assert bool(lazy.sites["s"][:][~there].isnan().all())


def test_a_name_that_is_taken_is_one_line():
    rows = gaps()
    taken = rows.replace(sites={**rows.sites, "s_observed": torch.ones(8)})
    with pytest.raises(ValueError, match="has a site 's_observed', expected no site of that name"):
        marked(taken, ("s", "t"))
