"""Cross coherence of a pair whose draws are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_models import Batch, Card, Config, Pair, guides, modalities, setting
from ppl_models.data import Table
from ppl_models.inference.metrics import cross_coherence

NOISE, WIDTH = 0.5, 0.8  # of t about z, of q(z | s) about s


@dataclass(frozen=True)
class TwoConfig(Config):
    size: int = setting(1, "numbers of z, s and t")


class About(guides.Conditional):
    """q(z | s?, t?): about s where it is there, else about half of t."""

    def __init__(self) -> None:
        super().__init__(("s?", "t?"))

    def forward(self, **values: Tensor) -> dist.Independent:
        loc = values["s"] if "s" in values else values["t"] / 2
        return dist.Normal(loc, WIDTH).to_event(1)


class Two(Pair):
    """s = z and t = 2 z, with noise."""

    Config = TwoConfig
    card = Card(
        name="two", title="Two", authors="-", year=2022, arxiv="2106.12570", task="modalities",
        data={"s": "one (1)", "t": "other (1)"}, latents={"z": "code (1)"}, objectives=("elbo",),
    )  # fmt: skip

    def __init__(self, config: TwoConfig) -> None:
        super().__init__(config)
        self.factor = torch.nn.Parameter(torch.tensor(2.0))
        self.guide = guides.Factored(z=About())

    def model(self, batch: Batch) -> None:
        with self.plate(batch):
            zero = self.like().new_zeros(1)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            for name, loc in (("s", z), ("t", self.factor * z)):
                pyro.sample(name, dist.Normal(loc, NOISE).to_event(1), obs=batch.get(name))


class Lacking(Two):
    """The same, as a pair whose rows may lack either."""

    may_lack = ("s", "t")

    def model(self, batch: Batch) -> None:
        with self.plate(batch):
            zero = self.like().new_zeros(1)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            for name, loc in (("s", z), ("t", self.factor * z)):
                if name in modalities.told(batch, self.may_lack):
                    there = dist.Normal(loc, NOISE).to_event(1)
                    modalities.sample(batch, name, there, self.may_lack)


def rows(count=40, dtype=torch.float32):
    s = torch.linspace(-1.5, 1.6, count, dtype=dtype).unsqueeze(1)
    y = (s[:, 0] > 0.1).long()
    return Table("two", {"s": s, "t": 2 * s, "y": y}, classes={"y": ("low", "high")})


def high(values: Tensor) -> Tensor:
    return values[:, 0] > 0


def wanted(table, deviation):
    """Mean probability that a Normal about s is on the side of the class."""
    above = dist.Normal(0.0, 1.0).cdf(table.sites["s"][:, 0].double() / deviation)
    return float(torch.where(table.sites["y"] > 0, above, 1 - above).mean())


@pytest.mark.parametrize("of", [Two, Lacking])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("options", "deviation"),
    [
        ({"given": "s", "made": "t"}, WIDTH),
        ({"given": "s", "made": "t", "mean": False}, (WIDTH**2 + (NOISE / 2) ** 2) ** 0.5),
        ({"given": ("t",), "made": "s"}, WIDTH),
        ({"given": "s", "made": "s"}, WIDTH),  # its own reconstruction
        ({"given": ("s", "t"), "made": "t", "mean": False}, (WIDTH**2 + NOISE**2 / 4) ** 0.5),
    ],
)
def test_codes_are_draws_of_the_guide_at_what_is_given(options, deviation, dtype, of):
    table, pair = rows(dtype=dtype), of(TwoConfig()).to(dtype)
    found = cross_coherence(pair, table, high, draws=500, **options)
    # 20,000 draws, each 1 with a probability of at most a half off
    assert found == pytest.approx(wanted(table, deviation), abs=4.5 * 0.5 / 20_000**0.5)
    assert found == cross_coherence(pair, table, high, draws=500, **options)
    assert cross_coherence(pair, table, high, **options) != found


def test_oracles_may_give_scores_and_hidden_labels_are_left_out():
    pair, table = Two(TwoConfig()), rows()
    options = {"given": "s", "made": "t", "draws": 5}
    plain = cross_coherence(pair, table, high, **options)
    assert plain == cross_coherence(
        pair, table, lambda v: torch.cat([-v, v], 1).numpy(), **options
    )
    some = torch.arange(10, 30)
    kept = torch.zeros(40, dtype=torch.bool)
    kept[some] = True
    by_rows = cross_coherence(pair, table, high, rows=some, **options)
    assert by_rows == cross_coherence(pair, table.hide({"y": kept}), high, **options)
    assert by_rows < plain  # they lie about the border


@pytest.mark.parametrize("of", [Two, Lacking])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"made": "u"}, "two: unknown site of the data 'u'"),
        ({"given": "u"}, "two: unknown site 'u'"),
        ({"label": "why"}, "two: unknown label site 'why'"),
        ({"draws": 0}, "draws is 0, expected at least 1"),
        ({"oracle": lambda v: v[:3, 0]}, r"oracle gives shape \(3,\) for 40 rows"),
    ],
)
def test_what_does_not_fit_is_one_line(options, words, of):
    pair, table = of(TwoConfig()), rows()
    with pytest.raises(ValueError, match=words) as told:
        cross_coherence(pair, table, **{"oracle": high, "given": "s", "made": "t", **options})
    assert "\n" not in str(told.value)
    hidden = table.hide({"s": torch.arange(40) > 3})
    with pytest.raises(ValueError, match="site 's' of two is hidden in row 0"):
        cross_coherence(pair, hidden, high, "s", "t")
