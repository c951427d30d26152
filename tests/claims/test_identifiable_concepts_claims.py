"""Leemann et al. 2023: concepts that are identifiable after the training."""

from __future__ import annotations

import functools
import statistics
import warnings
from collections.abc import Callable, Mapping

import matplotlib
import pytest
import torch
from claims.measuring import spread
from sklearn.decomposition import FastICA
from torch import Tensor, nn
from worlds.mixed_factors import (
    COUNT,
    colour_bar,
    disjoint,
    four_bars,
    ideal_encoder,
    level_factors,
    mixing,
    normal_factors,
    orthogonal,
    rotated,
)

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import metrics

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
ROWS = 500
SEARCH = "RMSprop 2e-2 falling to 0, 2,000 steps of 48 rows"
IDEAL = (
    f"{ROWS} rows, ideal encoder (the generator's inverse as gradient), columns of M of length 1, "
    f"inverse condition above 0.15; {SEARCH}; seeds 0-2; score 1 - mean row entropy of |A M| / "
    "log K"
)


def pca(embedding: Tensor) -> Tensor:
    """Directions of uncorrelated components."""
    return torch.linalg.eigh(torch.cov(embedding.T)).eigenvectors.T


def ica(embedding: Tensor) -> Tensor:
    """Directions of independent components."""
    method = FastICA(whiten="unit-variance", random_state=0, max_iter=2_000, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gaussian factors have none: it does not converge
        found = method.fit(embedding.numpy()).components_
    return torch.from_numpy(found).to(embedding)


def searched(kind: str, encode: Callable[[Tensor], Tensor], rows: Tensor, seed: int, **options):
    """The concepts, without the warning of those that are not told apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metrics.discover_concepts(encode, rows, kind=kind, seed=seed, **options)


def aligned(directions: Tensor, mixed: Tensor) -> float:
    return metrics.concept_alignment(directions.double(), mixed)


def baselines(embedding: Tensor) -> dict[str, Tensor]:
    """Directions that look at the embedding alone."""
    units = torch.eye(embedding.shape[1], dtype=embedding.dtype)
    return {"units": units, "PCA": pca(embedding), "ICA": ica(embedding)}


def told(found: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{name} {spread(values)}" for name, values in found.items())


def ideal(generate, draw, correlation: float, seed: int):
    """An encoder, its rows and the mixing."""
    mixed, z = mixing(seed), draw(ROWS, correlation, seed)
    return ideal_encoder(generate, z, mixed), generate(z), mixed


def test_dma_of_an_ideal_encoder(record):
    """Check 1."""
    ours, others = [], {"units": [], "PCA": [], "ICA": []}
    for seed in SEEDS:
        encode, x, mixed = ideal(disjoint, normal_factors, 0.6, seed)
        ours.append(aligned(searched("dma", encode, x, seed).directions, mixed))
        for name, directions in baselines(encode(x)).items():
            others[name].append(aligned(directions, mixed))
    holds = min(ours) > 0.99 and max(others["PCA"] + others["ICA"]) < 0.4
    record(
        "identifiable_concepts: 1, disjoint vectors, Gaussian factors correlated by 0.6: DMA "
        "above 0.99, PCA and ICA below 0.4, at each seed",
        paper="1.000 on FourBars",
        ours=spread(ours, digits=4),
        baseline=told(others),
        holds="yes" if holds else "no",
        settings=IDEAL,
    )
    assert holds, (ours, others)


def test_ima_of_an_ideal_encoder(record):
    """Check 2."""
    closed, ours, dma = [], [], []
    for seed in SEEDS:
        encode, x, mixed = ideal(orthogonal, normal_factors, 0.6, seed)
        slopes = metrics.jacobians(encode, x[:2])
        closed.append(aligned(metrics.closed_form_ima(*slopes).directions, mixed))
        ours.append(aligned(searched("ima", encode, x, seed, restarts=5).directions, mixed))
        dma.append(aligned(searched("dma", encode, x, seed).directions, mixed))
    holds = min(closed) > 0.999 and min(ours) > 0.95 and max(dma) < 0.5
    record(
        "identifiable_concepts: 2, orthogonal vectors: IMA's closed form above 0.999, IMA of 5 "
        "starts above 0.95, DMA below 0.5, at each seed",
        paper="IMA perfect on ColorBar",
        ours=f"closed form {spread(closed, digits=4)}, IMA {spread(ours, digits=4)}",
        baseline=f"DMA {spread(dma)}",
        holds="yes" if holds else "no",
        settings=f"{IDEAL}; closed form from the first two rows",
    )
    assert holds, (closed, ours, dma)


def test_constant_gradients_are_reported(record):
    """Check 3."""
    separations, closed, scores = [], [], []
    for seed in SEEDS:
        encode, x, mixed = ideal(rotated, normal_factors, 0.6, seed)
        slopes = metrics.jacobians(encode, x[:2])
        with pytest.warns(UserWarning, match="IMA cannot tell these directions"):
            solution = metrics.closed_form_ima(*slopes)
        with pytest.warns(UserWarning, match="IMA cannot tell these directions"):
            found = metrics.discover_concepts(encode, x, kind="ima", seed=seed)
        separations.append(found.separation)
        closed.append(float(solution.ratios.max() - solution.ratios.min()))
        scores.append(aligned(found.directions, mixed))
    holds = max(separations) < 1e-6 and max(closed) < 1e-6 and max(scores) < 0.95
    record(
        "identifiable_concepts: 3, x = Q z: all magnitude ratios within 1e-6, IMA warns and is "
        "not solved",
        paper="IMA needs unequal ratios",
        ours=f"ratios apart by at most {max(*separations, *closed):.0e}; warned at each seed",
        baseline=f"score in spite of the warning {spread(scores)}",
        holds="yes" if holds else "no",
        settings=IDEAL,
    )
    assert holds, (separations, closed, scores)


def test_images_of_bars(record):
    """The paper's toys, with an ideal encoder."""
    bars, colours, without, separations = ({"dma": [], "ima": []} for _ in range(4))
    for seed in SEEDS:
        sets = (
            (bars, four_bars, 4),
            (colours, colour_bar, 3),
            (without, functools.partial(colour_bar, warped=False), 3),
        )
        for found, generate, count in sets:
            mixed, z = mixing(seed, count), level_factors(ROWS, count, 0.6, seed)
            encode = ideal_encoder(generate, z, mixed)
            for kind in found:
                concepts = searched(kind, encode, generate(z), seed)
                found[kind].append(aligned(concepts.directions, mixed))
                if kind == "ima":
                    separations["ima"].append(concepts.separation)
    tied = separations["ima"][0::3] + separations["ima"][2::3]
    holds = min(bars["dma"]) > 0.99 and max(bars["ima"]) < 0.5 and max(tied) < 1e-6
    record(
        "identifiable_concepts: 3a, FourBars: DMA finds the factors, IMA does not and warns",
        paper="DMA 1.000, IMA 0.144",
        ours=f"DMA {spread(bars['dma'], digits=3)}",
        baseline=f"IMA {spread(bars['ima'], digits=3)}",
        holds="yes" if holds else "no",
        settings=f"8 x 8 x 3, uniform factors of a Gaussian copula of 0.6; {IDEAL}",
    )
    seen = min(colours["ima"]) > 0.99 > max(colours["dma"] + without["ima"])
    record(
        "identifiable_concepts: 3b, ColorBar: IMA above 0.99, DMA, whose assumption fails, below; "
        "without the warp of the colour IMA warns and is below",
        paper="IMA perfect",
        ours=f"IMA {spread(colours['ima'], digits=3)}",
        baseline=f"DMA {spread(colours['dma'], digits=3)}; no warp, IMA "
        f"{spread(without['ima'], digits=3)}",
        holds="yes" if seen else "no",
        settings=f"8 x 8 x 3, uniform factors of a Gaussian copula of 0.6; {IDEAL}",
    )
    assert holds and seen, (bars, colours, without, separations)


def level_factors_of_four(rows: int, correlation: float, seed: int) -> Tensor:
    return level_factors(rows, COUNT, correlation, seed)


def regressed(net: nn.Module, x: Tensor, target: Tensor, seed: int, steps: int) -> nn.Module:
    """A network that tells M z of rows with noise."""
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        index = torch.randint(len(x), (256,), generator=generator)
        noise = 0.02 * torch.randn(x[index].shape, generator=generator)
        adam.zero_grad()
        (net(x[index] + noise) - target[index]).square().mean().backward()
        adam.step()
        fall.step()
    return net


class OfImages(nn.Module):
    """Two convolutions and a linear layer, of images 8 x 8 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.Softplus(), nn.Conv2d(16, 32, 3, 2, 1), nn.Softplus(),
            nn.Flatten(), nn.Linear(512, COUNT),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2))


def learnt(generate, draw, net: Callable[[], nn.Module], scale: float, steps: int, seed: int):
    """Scores of all directions of a trained encoder, on rows of the same kind."""
    mixed, z = mixing(seed), draw(6_000, 0.6, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encode = net()
    x, rows = ((generate(f) / scale).float() for f in (z, draw(ROWS, 0.6, seed + 100)))
    regressed(encode, x, (z @ mixed.T).float(), seed, steps)
    with torch.no_grad():
        found = baselines(encode(rows))
    for kind in ("dma", "ima"):
        found[kind.upper()] = searched(kind, encode, rows, seed).directions
    smooth = searched("dma", encode, rows, seed, attribution="smooth")
    found["DMA, smooth"] = smooth.directions
    return {name: aligned(directions, mixed) for name, directions in found.items()}


def in_lists(found: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [scores[name] for scores in found] for name in found[0]}


TRAINED = "6,000 rows with noise 0.02, Adam 3e-3 falling to 0, batches of 256"


def test_a_trained_encoder_of_vectors(record):
    """Check 4."""

    def flat() -> nn.Module:
        return nn.Sequential(nn.Linear(48, 128), nn.Softplus(), nn.Linear(128, COUNT))

    found = [learnt(disjoint, normal_factors, flat, 1.0, 10_000, seed) for seed in SEEDS]
    margins = [s["DMA"] - max(s[name] for name in ("units", "PCA", "ICA")) for s in found]
    holds = min(margins) >= 0.2
    scores = in_lists(found)
    record(
        "identifiable_concepts: 4, trained encoder, disjoint vectors: DMA beats units, PCA and "
        "ICA by at least 0.2 at each seed",
        paper="",
        ours=f"DMA {spread(scores.pop('DMA'))}; least margin {min(margins):.2f}",
        baseline=told(scores),
        holds="yes" if holds else "no",
        note="first attempt, 3,000 steps of training: DMA 0.66 (0.16), least margin 0.19; the "
        "encoder's gradients settle later than its error",
        settings=f"48-128-4, softplus, {TRAINED}, 10,000 steps; {SEARCH}; other {ROWS} rows; "
        "seeds 0-2",
    )
    assert holds, found


def test_trained_encoders(record):
    """Check 4, reported."""
    found = [learnt(four_bars, level_factors_of_four, OfImages, 10.0, 1_000, s) for s in SEEDS]
    scores = in_lists(found)
    record(
        "identifiable_concepts: 4a, trained convolutional encoder, FourBars",
        paper="",
        ours=f"DMA {spread(scores.pop('DMA'))}",
        baseline=told(scores),
        settings="two convolutions (16, 32) of softplus units and a linear layer, images / 10, "
        f"{TRAINED}, 1,000 steps; {SEARCH}; other {ROWS} rows; seeds 0-2",
    )


def uniform_factors(rows: int, correlation: float, seed: int) -> Tensor:
    """Of unit variance, which are independent where they are not correlated."""
    return 12**0.5 * (level_factors(rows, COUNT, correlation, seed) - 0.5)


def test_correlations_of_the_factors(record):
    """Check 5."""
    sweep = (0.0, 0.3, 0.6, 0.9)
    ours = {rho: [] for rho in sweep}
    others = {rho: [] for rho in sweep}
    for seed in SEEDS:
        for rho in sweep:
            for draw in (normal_factors, uniform_factors):
                encode, x, mixed = ideal(disjoint, draw, rho, seed)
                ours[rho].append(aligned(searched("dma", encode, x, seed).directions, mixed))
            z = uniform_factors(5_000, rho, seed)
            others[rho].append(aligned(ica(z @ mixed.T), mixed))
    every = [value for values in ours.values() for value in values]
    falls = all(a > b + 0.2 for a, b in zip(others[0.0], others[0.9], strict=True))
    holds = max(every) - min(every) < 0.05 and falls
    record(
        "identifiable_concepts: 5, correlations 0, 0.3, 0.6, 0.9: DMA's score varies by less than "
        "0.05, ICA's falls by more than 0.2",
        paper="",
        ours="DMA " + " / ".join(spread(ours[rho], digits=4) for rho in sweep),
        baseline="ICA of uniform factors " + " / ".join(spread(others[rho]) for rho in sweep),
        holds="yes" if holds else "no",
        settings=f"disjoint vectors, DMA of Gaussian and of uniform factors, ICA of 5,000 rows; "
        f"{IDEAL}",
    )
    assert holds, (ours, others)


def test_a_vae_of_the_zoo(record, picture):
    """A model study: an encoder that nobody told the factors."""
    scores: dict[str, list[float]] = {}
    for seed in SEEDS:
        z = level_factors(6_000, COUNT, 0.6, seed)
        rows = data.from_arrays(x=(four_bars(z) / 10).float().flatten(1).numpy())
        pair = zoo.build("vae", rows, seed=seed, latent=COUNT, hidden=(128, 128))
        inference.fit(
            pair, rows, seed=seed, epochs=60, batch_size=128, learning_rate=1e-3, progress=False
        )
        encode, x = metrics.GuideMean(pair), (four_bars(z) / 10).float().flatten(1)
        with torch.no_grad():
            found = baselines(encode(x))
        concepts = searched("dma", encode, x[:ROWS], seed)
        found["DMA"] = concepts.directions
        found["IMA"] = searched("ima", encode, x[:ROWS], seed).directions
        other = level_factors(2_000, COUNT, 0.0, seed + 100)
        with torch.no_grad():
            embedding = encode((four_bars(other) / 10).float().flatten(1))
        for name, directions in found.items():
            score = metrics.mean_correlation(embedding @ directions.T, other)
            scores.setdefault(name, []).append(score)
        if seed == SEEDS[0]:
            save(picture, encode, concepts, x)
    best = [max(scores[name][k] for name in ("units", "PCA", "ICA")) for k in range(len(SEEDS))]
    holds = all(a > b for a, b in zip(scores["DMA"], best, strict=True))
    gain = statistics.mean(scores["DMA"]) / statistics.mean(best) - 1
    record(
        "identifiable_concepts: 6, codes of a VAE of FourBars with correlated factors: DMA aligns "
        "better than units, PCA and ICA at each seed",
        paper="up to 29 % better, of VAEs of Shapes3D",
        ours=f"DMA {spread(scores.pop('DMA'))}, {100 * gain:.0f} % above the best of each seed",
        baseline=told(scores),
        holds="yes" if holds else "no",
        settings="6,000 images / 10, factors of a Gaussian copula of 0.6; the zoo's VAE, 4 codes, "
        f"128-128, 60 epochs of 128 rows, Adam 1e-3; {SEARCH} on {ROWS} of the training rows; MCC "
        "on 2,000 images with independent factors; seeds 0-2",
    )
    assert holds, scores


def save(picture, encode, concepts, x: Tensor) -> None:
    """Mean attributions of the codes and of the concepts."""
    from matplotlib import pyplot as plt

    slopes = metrics.jacobians(encode, x[:ROWS])
    figure, axes = plt.subplots(2, COUNT, figsize=(6, 3.3), layout="constrained")
    for line, (name, values) in zip(
        axes, (("code", slopes), ("concept", concepts.directions @ slopes)), strict=True
    ):
        for k, axis in enumerate(line):
            image = values[:, k].abs().mean(0).reshape(8, 8, 3).sum(-1)
            axis.imshow(image, cmap="magma", vmin=0)
            axis.set(xticks=[], yticks=[], title=f"{name} {k}")
    picture(figure, "identifiable_concepts")
    plt.close(figure)
