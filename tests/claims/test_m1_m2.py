"""Kingma et al. 2014 on MNIST of 14 x 14 pixels; 28 x 28 is in test_full_mnist.py."""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial

import pytest
import torch
from claims.measuring import (
    by_class,
    mnist,
    needs_mnist,
    percent,
    run_all,
    small_mnist,
    supervised,
)
from claims.mnist_fits import m1_of

import ppl_models as zoo
from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.inference.plots.samples import mosaic

pytestmark = [pytest.mark.claims, needs_mnist]


def fit(pair, rows, **options):
    return inference.fit(pair, rows, progress=False, **options)


# ---- must show, section 10 of the spec ----------------------------------------------------

# Why checks miss, as far as is known.
CONVERGED = (
    "M2 stops where the calibration had it (19.6), before it converges; the supervised network is "
    "better than its 30.1, which training cut short explains"
)
# Name, M2's errors, the supervised network's, and a note.
BUDGETS = (
    ("both 25 passes", "alpha 1", "25 passes", "an undertrained baseline"),
    ("M2 25 passes, the baseline converged", "alpha 1", "converged", CONVERGED),
    ("both converged", "100 passes", "converged", "M2 100 passes, the baseline 1,500"),
)
# Perceptrons on M1's codes: whether they see the means, and steps in full batches. As many steps
# as the stack's M2 takes: passes times batches of unlabelled rows.
PERCEPTRONS = {
    "means": (True, 1500),
    "fresh draws": (False, 1500),
    "fresh draws, as many steps": (False, 60 * 8000 // 50),
}

A = {"hidden": (128,), "latent": 10}
A_FIT = {"epochs": 25, "batch_size": 50, "labelled_batch_size": 100, "learning_rate": 2e-3}
STACK = {"code": 20, "latent": 10, "hidden": (128,), "hidden_top": (128,), "alpha": 0.3}
STACK_FIT = {"epochs": (30, 60), "batch_size": 50, "labelled_batch_size": 100}


def setup_a(seed: int) -> dict[str, float]:
    digits = mnist(seed, side=14, train=3100, test=2000)
    found = {}
    # Setup A's own 25 passes, which here are 25 steps, and as many steps as M2 takes.
    for name, steps in (("25 passes", 25), ("converged", 25 * 60)):
        alone = supervised(digits, seed, A["hidden"], steps, learning_rate=2e-3)
        found[name] = alone.error(digits.test)
    for alpha in (1.0, 0.0):
        pair = zoo.build("m2", digits, seed=seed, alpha=alpha, **A)
        found[f"alpha {alpha:g}"] = fit(pair, digits, seed=seed, **A_FIT).error(digits.test)
    pair = zoo.build("m2", digits, seed=seed, alpha=1.0, **A)
    run = fit(pair, digits, seed=seed, **{**A_FIT, "epochs": 100})
    return {**found, "100 passes": run.error(digits.test)}


def test_m2_beats_the_supervised_network_and_needs_alpha(record):
    found = run_all(setup_a, [(seed,) for seed in range(4)])
    errors = {name: [f[name] for f in found] for name in found[0]}
    mean = {name: statistics.mean(values) for name, values in errors.items()}
    settings = "14 x 14, 3,000 unlabelled, 128 units, z 10, Adam 2e-3, seeds 0-3"
    gain = {}
    for name, ours, alone, note in BUDGETS:
        gain[name] = mean[alone] - mean[ours]
        record(
            f"m2: 1, M2 at least 6 points below supervised only, {name}",
            paper="11.97 against 25.81*",
            ours=percent(errors[ours]),
            baseline=f"supervised only {percent(errors[alone])}",
            holds="yes" if gain[name] >= 0.06 else "no",
            note=note,
            settings=settings,
        )
    loss = mean["alpha 0"] - mean["alpha 1"]
    record(
        "m2: 2, without the classification term at least 10 points worse",
        paper="",
        ours=f"alpha 0: {percent(errors['alpha 0'])}",
        baseline=f"alpha 1: {percent(errors['alpha 1'])}",
        holds="yes" if loss >= 0.10 else "no",
        settings=settings,
    )
    assert loss >= 0.10
    # Like with like. The baseline that is trained on while M2 stops early is recorded as it is.
    assert min(gain[name] for name in ("both 25 passes", "both converged")) >= 0.06, gain


def test_enumeration_is_exact_and_its_gradient_quieter(record):
    """Check 3: the enumerated loss is -U(x); its label gradient varies 5 times less."""
    from pyro import poutine
    from pyro.infer import Trace_ELBO

    digits = mnist(0, side=14, train=3100, test=2000)
    pair = zoo.build("m2", digits, **A)
    fit(pair, digits, **{**A_FIT, "epochs": 1})
    x = digits.train.sites["x"][:50]
    batch = Batch({"x": x})
    run = inference.Evaluation(pair.model, pair.guide, batch)
    rows = inference.EnumeratedELBO().rows(run).detach()
    z = run.weights().guide.nodes["z"]["value"].squeeze(1)
    log_q = pair.guide.factor("y", batch).logits
    hand = torch.zeros(50)
    for y in range(10):
        label = torch.full((50,), y)
        q = pair.guide.factor("z", {"x": x, "y": label})
        logits = pair.decoder(y=label, z=z[y])
        log_x = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
        standard = torch.distributions.Normal(0.0, 1.0)
        bound = (
            log_x + standard.log_prob(z[y]).sum(-1) - q.log_prob(z[y]) - torch.tensor(10.0).log()
        )
        hand = hand - log_q[:, y].exp() * (bound - log_q[:, y])
    torch.testing.assert_close(rows, hand.detach(), rtol=1e-4, atol=0)

    weight = pair.guide.factors["y"].net.rest[-1].bias  # its gradient sums the logits' over rows
    sampled_guide = poutine.infer_config(pair.guide, lambda site: {"enumerate": None})

    def gradients(loss):
        return torch.stack([torch.autograd.grad(loss(), weight)[0] for _ in range(200)])

    enumerated = gradients(
        lambda: inference.EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    )
    sampled = gradients(lambda: Trace_ELBO().differentiable_loss(pair.model, sampled_guide, batch))
    ratio = float(sampled.var(0).sum() / enumerated.var(0).sum())
    record(
        "m2: 3, variance of the label gradient, sampled over enumerated, at least 5",
        paper="",
        ours=f"{ratio:.0f}",
        baseline="1",
        holds="yes" if ratio >= 5 else "no",
        settings="14 x 14, 128 units, after one pass, 50 rows, 200 draws",
    )
    assert ratio >= 5


def stack(seed: int) -> dict[str, float]:
    """Test errors of the stack and of perceptrons on its codes."""
    digits = mnist(seed, side=14, train=8100, test=2000)
    pair = zoo.build("m1m2", digits, seed=seed, **STACK)
    run = fit(pair, digits, seed=seed, **STACK_FIT)
    found = {"stack": run.error(digits.test)}
    for name, (means, steps) in PERCEPTRONS.items():
        m1 = m1_of(pair, digits, seed, latent=20, hidden=(128,), classifier=(128,))
        stage = m1.stages()[1]
        if means:
            stage = dataclasses.replace(stage, prepare=partial(encode_means, m1))
        classifier = fit(m1, digits, stages=(stage,), seed=seed, epochs=steps)
        found[name] = classifier.error(digits.test)
    return found


def encode_means(pair, batch: Batch) -> Batch:
    """Labelled rows with the mean of the code as their features."""
    return batch.replace({"z": pair.guide.factor("z", batch).mean, "y": batch["y"]})


def test_the_stack_beats_a_perceptron_on_the_same_features(record):
    """The features that the stack learns from are fresh draws; the means are another baseline."""
    found = run_all(stack, [(seed,) for seed in range(4)])
    errors = {name: [f[name] for f in found] for name in found[0]}
    ours = errors.pop("stack")
    gain = {name: statistics.mean(e) - statistics.mean(ours) for name, e in errors.items()}
    for name, alone in errors.items():
        record(
            f"m1m2: 4, M1+M2 at least 3 points below a perceptron on M1's codes, {name}",
            paper="3.33 against 11.82 (TSVM)*",
            ours=percent(ours),
            baseline=f"perceptron on {name}: {percent(alone)}",
            holds="yes" if gain[name] >= 0.03 else "no",
            note="not the features that the stack sees" if name == "means" else "",
            settings="14 x 14, 8,000 unlabelled, z1 20, 30 + 60 passes of 50 rows, alpha 0.3, "
            f"perceptron {PERCEPTRONS[name][1]:,} steps; seeds 0-3",
        )
    assert min(gain.values()) >= 0.03, gain


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [("m2", {**A, "alpha": 1.0}, A_FIT), ("m1m2", STACK, STACK_FIT)],
)
def test_picture_of_digits_by_class(picture, name, sizes, options):
    rows = small_mnist(0, 1000)
    pair = zoo.build(name, rows, **sizes)
    fit(pair, rows, **options)
    picture(by_class(pair, rows.test), name)


def test_picture_of_the_plane_of_codes(picture):
    """A VAE's code of two dimensions, at quantiles of its prior (Kingma and Welling, Figure 4)."""
    from matplotlib import pyplot as plt

    rows = mnist(0, train=12000)
    pair = zoo.build("vae", rows, latent=2, hidden=(300, 300))
    fit(pair, rows, epochs=40, batch_size=100)
    steps = torch.special.ndtri(torch.linspace(0.03, 0.97, 15))
    across, up = torch.meshgrid(steps, steps.flip(0), indexing="xy")
    with torch.no_grad():
        images = pair.decoder(z=torch.stack((across, up), -1)).sigmoid()  # 15 x 15 x D
    figure, ax = plt.subplots(figsize=(6, 6))
    mosaic(ax, images.reshape(-1, 28, 28).numpy(), 15)
    picture(figure, "vae")
