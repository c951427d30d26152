"""Boxhead: whether models with layers of codes tell a hierarchy of hues better than others."""

from __future__ import annotations

import time

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import TotalCorrelation, metrics

SEEDS = (0, 1, 2)
STEPS, FADE, BETA = 1_200, 250, 5.0
ROWS = {"train": 3_000, "validation": 10, "test": 3_000}
SIZES = {"networks": "conv", "hidden": (128,)}
FLAT = {"latent": 12, "channels": (32, 32, 64, 64), "beta": 1.0, **SIZES}
LAYERS = {
    "latent": (4, 4, 4), "levels": (32, 32, 64, 64), "likelihood": "soft_bernoulli",
    "emphasis": 1.0, "beta": BETA, "fade_in": FADE, **SIZES,
}  # fmt: skip
MODELS = {
    "beta_vae": ("beta_vae", {**FLAT, "beta": BETA}),
    "beta_tcvae": ("beta_vae", FLAT),  # and the term below
    "vlae": ("vlae", LAYERS),
    "ladder_vae": ("ladder_vae", LAYERS),
}
TERMS = {"beta_tcvae": TotalCorrelation("z", BETA - 1)}


def built(model: str, rows: data.Dataset, seed: int) -> zoo.Pair:
    pair, settings = MODELS[model]
    return zoo.build(pair, rows, seed=seed, **settings)


def fitted(model: str, seed: int) -> dict[str, object]:
    """Codes of test rows, the bound's parts and the weights."""
    began = time.process_time()
    rows = data.load("boxhead", seed=seed, **ROWS)
    pair = built(model, rows, seed)
    term = TERMS.get(model)
    objective = None if term is None else pair.objective() + term
    run = inference.fit(
        pair, rows, objective, seed=seed, steps=STEPS, batch_size=32, learning_rate=1e-3,
        progress=False,
    )  # fmt: skip
    codes = metrics.encode(pair, rows.test)
    return {
        "codes": codes.codes,
        "factors": codes.factors,
        "names": (codes.code_names, codes.factor_names),
        "deviations": codes.scale,
        "loss": run.history["loss"],
        "weights": pair.state_dict(),
        "seconds": time.process_time() - began,
    }
