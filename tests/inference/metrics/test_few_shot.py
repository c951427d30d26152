"""Probes and nearest class means: by hand, with rows apart, whatever the order."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from ppl_models.inference.metrics import (
    blurred,
    few_shot_accuracy,
    latent_accuracy,
    nearest_mean_accuracy,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(context, labels, targets, target_labels, similarity):
    right = 0
    for target, label in zip(targets, target_labels, strict=True):
        best, name = -float("inf"), None
        for kind in sorted(set(labels.tolist())):
            mean = context[labels == kind].double().mean(0)
            score = -float((target - mean).norm())
            if similarity == "cosine":
                score = float(target.double() @ mean / target.double().norm() / mean.norm())
            if score > best:
                best, name = score, kind
        right += name == int(label)
    return right / len(targets)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_means_are_those_of_loops(similarity, dtype):
    labels = torch.arange(30) % 5 * 3 - 3  # classes -3, 0, .., 9, in no order
    centres = drawn(13, 4, seed=1)
    context = (drawn(30, 4) + centres[labels]).to(dtype)
    target_labels = torch.tensor([0, 9, 3, -3] * 10)
    targets = (drawn(40, 4, seed=2) + centres[target_labels]).to(dtype)
    found = nearest_mean_accuracy(context, labels, targets, target_labels, similarity=similarity)
    wanted = by_loops(context, labels, targets, target_labels, similarity)
    assert found == pytest.approx(wanted) and 0.2 < found < 1
    order = torch.randperm(30)
    again = nearest_mean_accuracy(
        context[order], labels[order], targets.flip(0), target_labels.flip(0),
        similarity=similarity,
    )  # fmt: skip
    assert again == pytest.approx(found)


def test_blurring_is_a_mean_of_nine():
    images = drawn(3, 7, 5)
    wanted = ndimage.uniform_filter(images.numpy(), (0, 3, 3), mode="constant")
    torch.testing.assert_close(blurred(images), torch.from_numpy(wanted).flatten(1))
    # A stroke that is moved by a pixel is nearer to itself than another is.
    image = torch.zeros(2, 8, 8)
    image[0, :, 2], image[1, :, 6] = 1, 1
    moved, labels = image.roll(1, 2), torch.tensor([0, 1])
    assert nearest_mean_accuracy(image, labels, moved, labels, blurred) == 1
    assert nearest_mean_accuracy(image, labels, moved, labels) == 0.5  # all are as far


def test_episodes_have_context_and_targets_apart():
    # Each row is a direction of its own: only a row that is its own context is told.
    rows = torch.eye(60)
    labels = torch.arange(60) % 6
    mean, error = few_shot_accuracy(rows, labels, ways=3, shots=4, queries=5, episodes=50)
    assert mean == pytest.approx(1 / 3, abs=1e-9) and error == pytest.approx(0, abs=1e-9)
    # Of classes that lie apart all are told, of noise one in three.
    apart = torch.eye(6)[labels] + 0.01 * drawn(60, 6)
    assert few_shot_accuracy(apart, labels, 3, 4, 5) == (1.0, 0.0)
    mean, error = few_shot_accuracy(drawn(6000, 6), torch.arange(6000) % 6, 3, 4, 5, 200)
    assert 0 < error < 0.02 and abs(mean - 1 / 3) < 5 * error
    one, other = (few_shot_accuracy(drawn(60, 6), labels, 3, 4, 5, seed=s) for s in (0, 1))
    assert one == few_shot_accuracy(drawn(60, 6), labels, 3, 4, 5, seed=0) != other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_classifier_tells_what_is_linear(dtype):
    codes, label = drawn(400, 3).to(dtype), torch.arange(400) % 2
    codes[:, 0] += 4.0 * label
    codes = codes * 100 - 7  # standardised within
    seen = codes[:300], label[:300]
    found = latent_accuracy(*seen, codes[300:], label[300:])
    # The best is Phi(2); the classifier of 300 rows is a little off.
    best = 0.97725
    assert abs(found - best) < 4 * (best * (1 - best) / 100) ** 0.5
    assert latent_accuracy(*seen, codes[300:], 1 - label[300:]) == pytest.approx(1 - found)
    exclusive = (drawn(400, 3)[:, :2] > 0).long().sum(1) % 2  # of two signs: not linear
    assert abs(latent_accuracy(drawn(400, 3), exclusive, drawn(400, 3), exclusive) - 0.5) < 0.15


CODES, LABELS = drawn(6, 2), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: latent_accuracy(
                CODES, LABELS, CODES, LABELS, (torch.arange(6), torch.arange(5, 11))
            ),
            "row 5 is on both sides",
        ),
        (
            lambda: nearest_mean_accuracy(
                CODES, LABELS, CODES, LABELS, rows=(torch.arange(5), torch.arange(6))
            ),
            "rows has 5 numbers for the 6 of context",
        ),
        (lambda: latent_accuracy(CODES, LABELS * 0, CODES, LABELS), "all labels are 0, expected"),
        (lambda: latent_accuracy(CODES, LABELS[:5], CODES, LABELS), r"codes have shape \(6, 2\)"),
        (lambda: latent_accuracy(CODES, LABELS, CODES[:, :1], LABELS), r"test codes \(6, 1\)"),
        (
            lambda: nearest_mean_accuracy(CODES, LABELS, CODES, LABELS + 1),
            "class 2 of the targets has no row in the context",
        ),
        (
            lambda: nearest_mean_accuracy(CODES, LABELS, CODES, LABELS, lambda v: v[0]),
            r"representation of 6 rows has shape \(2,\), expected \(6, F\)",
        ),
        (
            lambda: nearest_mean_accuracy(CODES, LABELS, CODES, LABELS, similarity="cosinus"),
            "unknown similarity 'cosinus': did you mean 'cosine'",
        ),
        (lambda: few_shot_accuracy(CODES, LABELS, 3, 1, 1), "ways is 3, expected 1 to 2"),
        (lambda: few_shot_accuracy(CODES, LABELS, 2, 3, 1), "but a concept has 3 images"),
        (lambda: blurred(CODES), r"images have shape \(6, 2\), expected \(n, H, W\)"),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as told:
        call()
    assert "\n" not in str(told.value)
