"""Paired modalities and noisy copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ppl_models import data
from ppl_models.data.render import noisy, paired, strokes
from ppl_models.data.tables.pairing import zipped


def rng(seed=0):
    return np.random.default_rng(seed)


# Labels of MNIST's and SVHN's training files, by digit.
MNIST = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
SVHN = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)


def test_pairing_by_class_gives_the_published_number():
    first, second = (
        rng(k).permutation(np.repeat(np.arange(10), n)) for k, n in enumerate((MNIST, SVHN))
    )
    left, right = zipped(first, second, rng())
    assert len(left) == 56_068
    assert (first[left] == second[right]).all()
    for rows in (left, right):
        assert len(np.unique(rows)) == len(rows)
    half = np.bincount(first[left[:28_034]], minlength=10) / np.bincount(first[left])
    assert half == pytest.approx(0.5, abs=0.03)  # in random order, not class by class


def test_views_of_a_pair_are_of_the_same_digit():
    d = data.load("paired_digits", train=3000, validation=50, test=397)
    assert d.sizes["s"] == 64
    assert d.sizes["t"] == 144
    source = data.load("digits", train=1200, validation=200, test=397, seed=0)
    own = {tuple(x.tolist()): int(y) for x, y in zip(*source.train.sites.values(), strict=True)}
    found = [own[tuple(x.tolist())] for x in d.train.sites["s"]]
    assert found == d.train.sites["y"].tolist()
    used = torch.unique(d.train.sites["s"], dim=0, return_counts=True)[1]
    assert set(used.tolist()) <= {2, 3, 4}  # each of 1,200 is used 2 or 3 times; a few look alike
    # styled digits are told apart by their nearest template, whichever colour is the ink
    templates = strokes.ink(
        strokes.strokes(np.arange(10), np.tile(0.87 * np.eye(2), (10, 1, 1))),
        np.full(10, 0.07),
        12,
        0.05,
    ).reshape(10, -1)
    blurred = ndimage.gaussian_filter(templates.reshape(10, 12, 12), (0, 0.7, 0.7)).reshape(10, -1)
    similarity = np.abs(np.corrcoef(np.vstack([d.test.sites["t"].numpy(), blurred]))[:-10, -10:])
    assert (similarity.argmax(1) == d.test.sites["y"].numpy()).mean() > 0.85


def test_a_share_of_the_rows_is_left_with_both():
    full = data.load("paired_digits", train=400, validation=20, test=20)
    d = data.unpair(full, ("s", "t"), paired=0.25, alone=("s",))
    assert (d.train.counts["s"], d.train.counts["t"]) == (400, 100)
    seen = d.train.observed["t"]
    assert torch.equal(d.train.sites["t"][seen], full.train.sites["t"][seen])
    assert d.test.observed == {}


def test_styles_have_the_published_ranges():
    x = strokes.styled(np.full(2000, 1), rng())
    assert x.shape == (2000, 12, 12)
    low, high = np.quantile(x.reshape(2000, -1), (0.02, 0.98), axis=1)
    assert low.max() < 0.35 + 0.2
    assert high.min() > 0.65 - 0.25
    corner = x[:, :2, :2].mean((1, 2))  # the ground, as a 1 never gets there
    assert (corner > 0.5).mean() == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
    assert np.quantile(corner[corner < 0.5], 0.99) < 0.35 + 0.11


def test_captions_name_three_of_the_attributes():
    d = data.load("captions", train=1500, validation=50, test=50)
    word = np.array(paired.VOCABULARY)
    said = word[d.train.sites["t"].numpy()]
    assert said.shape == (1500, 12)
    assert 38 <= len(word) <= 46
    noun_of = {n: kind for kind in paired.KINDS for n in (kind, paired.SYNONYMS[kind])}
    mentioned, sentences, synonyms = np.zeros(6), set(), 0
    for row, words in enumerate(said):
        nouns = [noun_of[w] for w in words if w in noun_of]
        true = {k: paired.KINDS[k][int(d.train.sites[k][row])] for k in paired.KINDS}
        adjectives = [w for w in words if any(w in kind for kind in paired.KINDS.values())]
        assert len(nouns) == len(set(nouns)) == 3
        assert adjectives == [true[n] for n in nouns]
        mentioned += [k in nouns for k in paired.KINDS]
        sentences.add(words[0] if words[0] in ("a", "this") else "")
        synonyms += sum(w in paired.SYNONYMS.values() for w in words)
        assert words[-1] == "."
    assert sentences == {"a", "this", ""}
    assert mentioned / 1500 == pytest.approx(0.5, abs=4 * 0.5 / 1500**0.5)
    assert synonyms / 4500 == pytest.approx(0.5, abs=4 * 0.5 / 4500**0.5)


def test_features_say_the_attributes():
    d = data.load("captions", train=3000, validation=50, test=500)
    x, test = (np.hstack([t.sites["s"].numpy(), np.ones((len(t), 1))]) for t in (d.train, d.test))
    for kind in paired.KINDS:
        hot = np.eye(4)[d.train.sites[kind].numpy()]
        score = test @ np.linalg.lstsq(x, hot, rcond=None)[0]
        assert (score.argmax(1) == d.test.sites[kind].numpy()).mean() > 0.95


@pytest.mark.parametrize(
    ("noise", "level", "deviation"),
    [
        ("gaussian", 0.4, lambda x: np.full_like(x, 0.4)),
        ("poisson", 10, lambda x: np.sqrt(x / 10)),
        ("signal", 0.2, lambda x: 0.05 + 0.2 * x),
    ],
)
@pytest.mark.parametrize("picture", ["gratings", "strokes"])
def test_copies_are_independent_and_unbiased(noise, level, deviation, picture):
    d = data.load(
        "noisy_images", train=300, validation=5, test=5, picture=picture, noise=noise, level=level
    )
    clean = d.train.sites["clean"].double().numpy()
    assert clean.min() >= 0
    assert clean.max() <= 1
    assert d.train.shapes["x"] == (16, 16)
    spread = deviation(clean)
    errors = [d.train.sites[c].double().numpy() - clean for c in noisy.COPIES]
    for error in errors:
        assert abs(error.mean()) < 4 * np.sqrt(np.mean(spread**2) / error.size)
        # heavy tails of Poisson counts at low rates: generous, but 5 % off would show
        assert np.mean(error**2) == pytest.approx(np.mean(spread**2), rel=0.03)
    for k, one in enumerate(errors):
        for other in errors[:k]:
            rows = (one * other).mean()
            assert abs(rows) < 4 * np.sqrt(np.mean(spread**4) / one.size)
    # so that the unbiased mean squared error of doing nothing is the noise itself
    x, a, b, c = (d.train.sites[s].double().numpy() for s in noisy.COPIES)
    estimate = (a - x) ** 2 - (b - c) ** 2 / 2
    error = estimate.std() / estimate.size**0.5
    assert estimate.mean() == pytest.approx(np.mean(spread**2), abs=5 * error)


def test_gratings_are_as_fine_as_asked():
    for cycles in (2.0, 20.0):
        power = np.abs(np.fft.fft2(noisy.gratings(20, 64, rng(), cycles) - 0.5)) ** 2
        often = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
        assert power[:, often > 1.5 * cycles + 2].sum() < 0.1 * power.sum()
        assert power[:, often > 0.3 * cycles].sum() > 0.3 * power.sum()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "gausian"}, "unknown noise 'gausian': did you mean 'gaussian'"),
        ({"picture": "grating"}, "unknown picture 'grating': did you mean 'gratings'"),
        ({"level": 0}, "level is 0, expected more than 0"),
    ],
)
def test_noise_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        data.load("noisy_images", train=5, validation=5, test=5, **options)
