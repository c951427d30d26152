"""Frozen parameters: by every name that ``state_dict`` prints, however modules are shared."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_models as zoo
from ppl_models import Card, Config, Pair, data, guides, inference
from ppl_models.inference import ELBO, Player, Stage
from ppl_models.inference.training import compiled_step
from ppl_models.networks import Part

SIZE, CODES = 4, 3


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Tied(nn.Module):
    """A linear map whose matrix is another's, transposed."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = other.weight, nn.Parameter(torch.zeros(SIZE))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value @ self.weight + self.bias


class Encoder(nn.Module):
    given = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, CODES)
        self.last = nn.Linear(CODES, 4 * CODES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x))


class Sharing(Pair):
    """Two codes from one encoder, a decoder of its weights, a network of two names, a list."""

    Config = NoConfig
    card = Card(
        "sharing", "-", "-", 2026, "-", "test", {"x": "data"}, {"a": "code", "b": "code"}
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(NoConfig())
        encoder = Encoder()
        self.decoder = Tied(encoder.layer)
        self.first = self.second = nn.Linear(CODES, CODES)
        self.steps = nn.ModuleList([nn.Linear(CODES, CODES), nn.Linear(CODES, CODES), self.first])
        self.norm = nn.BatchNorm1d(CODES, affine=False)
        self.guide = guides.Factored(
            {"codes": encoder},
            a=guides.Normal(CODES, {"codes": 4 * CODES}, net=Part(0, 2 * CODES)),
            b=guides.Normal(CODES, {"codes": 4 * CODES}, net=Part(2 * CODES, 2 * CODES)),
        )

    def model(self, batch):
        zero = self.like().new_zeros(CODES)
        with self.plate(batch):
            a = pyro.sample("a", dist.Normal(zero, 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(self.second(a), 1.0).to_event(1))
            for step in self.steps:
                b = step(b).tanh()
            pyro.sample("x", dist.Normal(self.decoder(b), 0.5).to_event(1), obs=batch.get("x"))


@pytest.fixture
def rows():
    return data.Table("t", {"x": torch.randn(20, SIZE, generator=torch.manual_seed(3))})


def pair_of(dtype: torch.dtype = torch.float32) -> Sharing:
    torch.manual_seed(0)
    return Sharing().to(dtype)


MATRIX = {"decoder.weight", "guide.shared.codes.layer.weight"}  # one and the same
ENCODER = {
    *MATRIX,
    *(f"guide.shared.codes.{n}" for n in ("layer.bias", "last.weight", "last.bias")),
}
TWICE = {
    f"{place}.{part}" for place in ("first", "second", "steps.2") for part in ("weight", "bias")
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        ("guide.shared.codes", ENCODER),
        ("guide", ENCODER),
        ("guide.shared.codes.layer.weight", MATRIX),
        ("decoder", {*MATRIX, "decoder.bias"}),
        ("decoder.weight", MATRIX),
        ("first", TWICE),
        ("second", TWICE),
        ("second.bias", {n for n in TWICE if n.endswith("bias")}),
        ("steps.2", TWICE),
        ("steps.1", {"steps.1.weight", "steps.1.bias"}),
        ("steps", {*TWICE, *(f"steps.{n}.{p}" for n in (0, 1) for p in ("weight", "bias"))}),
    ],
)
def test_what_is_frozen_stays_and_the_rest_moves(rows, freeze, still, dtype):
    pair = pair_of(dtype)
    before = {n: p.clone() for n, p in pair.state_dict().items()}
    inference.fit(pair, rows, freeze=(freeze,), epochs=2, batch_size=10, progress=False)
    names = {name for name, _ in pair.named_parameters(remove_duplicate=False)}
    assert {n for n in names if torch.equal(pair.state_dict()[n], before[n])} == still
    assert all(p.requires_grad for p in pair.parameters())


def test_every_name_of_a_parameter_in_the_state_freezes_it(rows):
    pair = pair_of()
    names = {name for name, _ in pair.named_parameters(remove_duplicate=False)}
    assert names == {n for n in pair.state_dict() if not n.startswith("norm")}
    for name in names:
        before = pair.state_dict()[name].clone()
        inference.fit(pair, rows, freeze=(name,), epochs=1, progress=False)
        assert torch.equal(pair.state_dict()[name], before), name


def test_compiled_steps_leave_it_alone(rows, monkeypatch):
    monkeypatch.setattr(compiled_step, "inductor", lambda graph, inputs: graph)
    pair = pair_of()
    before = {n: p.clone() for n, p in pair.state_dict().items()}
    freeze = ("second", "guide.shared.codes.last")
    inference.fit(pair, rows, freeze=freeze, epochs=2, progress=False, compile=True)
    kept = {*TWICE, "guide.shared.codes.last.weight", "guide.shared.codes.last.bias"}
    names = {name for name, _ in pair.named_parameters(remove_duplicate=False)}
    assert {n for n in names if torch.equal(pair.state_dict()[n], before[n])} == kept


def test_a_player_trains_what_it_names_by_any_name(rows):
    pair = pair_of()
    before = {n: p.clone() for n, p in pair.state_dict().items()}
    player = Player("other", ELBO(), parameters=("second", "steps.2"), learning_rate=0.0)
    inference.fit(pair, rows, stages=(Stage(ELBO(), players=(player,)),), epochs=1, progress=False)
    names = {name for name, _ in pair.named_parameters(remove_duplicate=False)}
    assert {n for n in names if torch.equal(pair.state_dict()[n], before[n])} == TWICE
    thief = Player("thief", ELBO(), parameters=("first",))
    stage = Stage(ELBO(), players=(player, thief))
    with pytest.raises(ValueError, match=r"'thief' trains 'first\.weight', which player 'other'"):
        inference.fit(pair, rows, stages=(stage,), epochs=1, progress=False)


KINDS = "expected one of decoder, first, guide, second, steps, or a name below it"


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (
            "decodr",
            f"'decodr', which is no parameter of the pair: did you mean 'decoder'? {KINDS}",
        ),
        ("guide.codes", "did you mean 'guide.shared.codes'? "),
        ("codes", "did you mean 'guide.shared.codes'? "),
        ("decoder.", "did you mean 'decoder'? "),
        ("steps.3", "did you mean 'steps.2'? "),
        ("step", "did you mean 'steps'? "),
        ("guide.shared.codes.layer.wieght", "did you mean 'guide.shared.codes.layer.weight'? "),
        ("", f"'', which is no parameter of the pair: {KINDS}"),
        ("norm", "'norm', which holds buffers alone, and no gradient moves them; expected a name"),
        ("norm.running_mean", "'norm.running_mean', which holds buffers alone"),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["first stage", "second stage"])
def test_unknown_names_are_refused_before_any_work(rows, tmp_path, freeze, words, later):
    pair = pair_of()
    before = {n: p.clone() for n, p in pair.state_dict().items()}
    stages = (*[Stage(ELBO())] * later, Stage(ELBO(), freeze=(freeze,)))
    with pytest.raises(ValueError, match="freezes") as caught:
        inference.fit(pair, rows, stages=stages, out=tmp_path / "run", progress=False)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(p, before[n]) for n, p in pair.state_dict().items())
    assert pair.schema is None and not (tmp_path / "run").exists()
    stage = Stage(ELBO(), players=(Player("p", ELBO(), parameters=(freeze,)),))
    with pytest.raises(ValueError, match="player 'p' trains"):
        inference.fit(pair, rows, stages=(stage,), progress=False)


def test_a_shared_network_of_the_catalogue():
    """CCVAE's encoder gives all codes; label networks and decoder go on."""
    pair = zoo.build("ccvae", data_dim=6, hidden=(5,), labels=("a", "b"), classes=(2, 3), style=2,
                     particles=2)  # fmt: skip
    g = torch.Generator().manual_seed(0)
    table = data.Table(
        "t", {"x": torch.rand(12, 6, generator=g), "a": torch.arange(12) % 2,
              "b": torch.arange(12) % 3},
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    inference.fit(pair, table, freeze=("guide.shared.codes",), epochs=1, progress=False)
    still = {n for n, p in pair.named_parameters() if torch.equal(p, before[n])}
    assert still == {n for n in before if n.startswith("guide.shared.codes.")} and still
