"""Fits of the semi-supervised family on MNIST as the papers have it: 28 x 28, 50,000 images.

A fit takes many minutes, goes on from its last state after a stop, and keeps its errors by pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from claims.measuring import kept, mnist, resumed_fit, supervised
from torch import Tensor

import ppl_models as zoo
from ppl_models import inference

IMAGES, HIDDEN, LATENT = 50_000, 300, 50
Found = dict[str, Any]  # errors by pass, the last ones by name, and the minutes of training


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a pair is built and trained here.

    Attributes:
        told: Settings in words.
        settings: Of the pair, given the number of labels.
        training: Options of the fit.
        objective: Given the number of labels; by default the pair's own.
    """

    told: str
    settings: Callable[[int], Mapping[str, Any]]
    training: Mapping[str, Any]
    objective: Callable[[int], inference.Objective | None] = lambda labels: None


def _passes(epochs: int, rows: int, **options: Any) -> dict[str, Any]:
    return {
        "epochs": epochs, "batch_size": rows, "labelled_batch_size": 100, "compile": True,
        **options,
    }  # fmt: skip


SIZES = {"hidden": (HIDDEN,), "latent": LATENT}
FITS = {  # by the name in the catalogue
    "m2": Fit(
        "alpha 1, Adam 1e-3, 60 passes of 50 + 100 rows",
        lambda labels: {**SIZES, "alpha": 1.0},
        _passes(60, 50),
    ),
    "partially_specified": Fit(
        "label first, S 1, rate 0.3, alpha 0.1, Adam 1e-3, 40 passes of 50 + 100 rows",
        lambda labels: {
            **SIZES, "particles": 1, "gamma": inference.supervision(0.3, labels, IMAGES - labels)
        },
        _passes(40, 50),
    ),
    # The paper's estimate at equal weights stays at the supervised network's error, and at this
    # rate its weights 1 / q(y | x) overflow.
    "ccvae": Fit(
        "code of the digit 45, style 5, self-normalised, S 4, rate 0.3, Adam 1e-3, 25 passes of "
        "50 + 100 rows",
        lambda labels: {
            "hidden": (HIDDEN,), "labels": ("y",), "characteristic": (LATENT - 5,), "style": 5,
            "likelihood": "soft_bernoulli",
        },
        _passes(25, 50),
        lambda labels: inference.SelfNormalisedELBO(
            4, gamma=inference.supervision(0.3, labels, IMAGES - labels)
        ),
    ),
    "mmdcgm": Fit(
        "weights of the terms as in the paper, Adam 1e-3 on a cosine, 40 passes of 50 + 100 rows",
        lambda labels: SIZES,
        _passes(40, 50, schedule="cosine"),
    ),
    "bayesian_ssl": Fit(
        "alpha 1, Adam 1e-3, 25 passes of 50 + 100 rows",
        lambda labels: {**SIZES, "alpha": 1.0},
        _passes(25, 50),
    ),
}  # fmt: skip
AGAIN = {  # other attempts, by the name of the pair and a word, each at a number of labels
    "m2 settled": (1000, Fit(
        "300 units, alpha 1, weight prior 1, Adam 1e-3 on a cosine, 40 passes",
        FITS["m2"].settings,
        _passes(40, 50, schedule="cosine", weight_prior=1.0),
    )),
    "m2 wide": (1000, Fit(
        "500 units, alpha 0.3, weight prior 1, Adam 3e-3 on a cosine, 40 passes",
        lambda labels: {"hidden": (500,), "latent": LATENT, "alpha": 0.3},
        _passes(40, 50, schedule="cosine", weight_prior=1.0, learning_rate=3e-3),
    )),
    "ccvae own": (100, Fit(
        "its own bound, code of the digit 10, style 40, K 32, classifier 30 N / N_labelled, "
        "40 passes",
        lambda labels: {
            "hidden": (HIDDEN,), "labels": ("y",), "characteristic": (10,), "style": LATENT - 10,
            "likelihood": "soft_bernoulli", "particles": 32, "alpha": 30 * IMAGES / labels,
        },
        _passes(40, 50),
    )),
}  # fmt: skip


def fitted(name: str, labels: int, seed: int) -> Found:
    """A pair of :data:`FITS` or :data:`AGAIN` on so many labels."""
    fit = FITS[name] if name in FITS else AGAIN[name][1]
    rows = mnist(seed, labels)
    pair = zoo.build(name.split()[0], rows, seed=seed, **fit.settings(labels))
    _, found = resumed_fit(
        name, pair, rows, seed=seed, objective=fit.objective(labels), **fit.training
    )
    if name == "bayesian_ssl":
        draws = inference.gibbs_predict(pair, rows.test, weights=5, steps=5).mean((0, 1))
        found["Gibbs"] = float((draws.argmax(-1) != rows.test.sites["y"]).double().mean())
    return found


def alone(labels: int, seed: int) -> float:
    """Test error of M2's label network, trained on the labelled rows until it converges."""
    rows = mnist(seed, labels)
    return supervised(rows, seed, (HIDDEN,), 1000).error(rows.test)


# ---- M1, and the stack on it ----------------------------------------------------------------

M1_TOLD = "M1 784-500-500-50, Adam 1e-3, 60 passes of 100 rows"
WARMED = ", its KL's weight growing in the first 30"


@dataclasses.dataclass(frozen=True)
class Stack:
    """M2 on M1's codes; the defaults are what was fixed on validation rows.

    Attributes:
        passes: Of M2.
        learning_rate: Of M2, falling on a cosine.
        weight_prior: Precision of the prior on M2's weights.
        alpha: See the pair.
        units: Of M2's hidden layer.
        code: Size of M1's code.
        warm_up: Share of M1's training in which its KL's weight grows to 1; without, M1 keeps 10
            of 50 numbers in use.
    """

    passes: int = 120
    learning_rate: float = 3e-3
    weight_prior: float = 1.0
    alpha: float = 0.3
    units: int = 500
    code: int = 50
    warm_up: float = 0.5

    def __str__(self) -> str:
        """As a part of a file's name."""
        return "_".join(f"{value:g}" for value in dataclasses.astuple(self))


STACK_TOLD = (
    "M2 of 500 units on its codes, z2 50, alpha 0.3, weight prior 1, Adam 3e-3 on a cosine, "
    "120 passes of 100 + 100 rows"
)
SHORT = 30  # passes of what is tried one at a time
VARIANTS = {  # with the seed of labels and weights
    "120 passes": (Stack(), 0),
    "120 passes on an M1 without warm-up": (Stack(warm_up=0.0), 0),
    "60 passes": (Stack(60), 10),
    "30 passes": (Stack(SHORT), 10),
    "30 passes without the weight prior": (Stack(SHORT, weight_prior=0.0), 10),
    "30 passes at the paper's Adam 3e-4": (Stack(SHORT, learning_rate=3e-4), 10),
    "30 passes on a code of 100": (Stack(SHORT, code=100), 10),
}


def autoencoder(seed: int, code: int, warm_up: float) -> dict[str, Tensor]:
    """Weights of M1, which sees no labels, by their names in the stack."""
    rows = mnist(seed)
    pair = zoo.build("m1m2", rows, seed=seed, code=code, warm_up=warm_up)
    resumed_fit(
        "m1", pair, rows, looks=0, stages=pair.stages()[:1], seed=seed, epochs=60,
        batch_size=100, compile=True,
    )  # fmt: skip
    m1 = ("decoder.", "guide.factors.z1.")
    return {name: value for name, value in pair.state_dict().items() if name.startswith(m1)}


def stacked(how: Stack, labels: int, seed: int) -> Found:
    """M2 on the codes of the seed's M1."""
    rows = mnist(seed, labels)
    pair = zoo.build(
        "m1m2", rows, seed=seed, hidden_top=(how.units,), alpha=how.alpha, code=how.code
    )
    pair.load_state_dict(kept(autoencoder, seed, how.code, how.warm_up), strict=False)
    _, found = resumed_fit(
        "m2", pair, rows, stages=pair.stages()[1:], seed=seed,
        **_passes(
            how.passes, 100, learning_rate=how.learning_rate, weight_prior=how.weight_prior,
            schedule="cosine",
        ),
    )  # fmt: skip
    return found


def m1_of(stack: zoo.Pair, rows: Any, seed: int, **sizes: Any) -> zoo.Pair:
    """An M1 with the stack's autoencoder, and a classifier yet to be trained."""
    m1 = zoo.build("m1", rows, seed=seed, **sizes)
    m1.decoder.load_state_dict(stack.decoder.state_dict())
    m1.guide.factors["z"].load_state_dict(stack.guide.factors["z1"].state_dict())
    return m1


def classified(labels: int, seed: int, warm_up: float) -> float:
    """Test error of a perceptron on draws of M1's codes."""
    rows = mnist(seed, labels)
    stack = zoo.build("m1m2", rows, seed=seed)
    stack.load_state_dict(kept(autoencoder, seed, 50, warm_up), strict=False)
    m1 = m1_of(stack, rows, seed)
    run = inference.fit(m1, rows, stages=m1.stages()[1:], seed=seed, epochs=1000, progress=False)
    return run.error(rows.test)
