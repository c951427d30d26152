"""A frame with numbers and texts: tokens, their vocabulary, and what is refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.tables.schema import Schema

pandas = pytest.importorskip("pandas")
N = 40
TEXTS = ["The red bird", "a  blue bird", "Red , red !", None, "the bird sings\tloudly"]


def frame(texts=TEXTS):
    draw = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "a": draw.normal(size=N),
            "say": [texts[k % len(texts)] for k in range(N)],
            "b": draw.normal(size=N),
            "kind": np.array(["u", "v"])[np.arange(N) % 2],
        }
    )


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.from_frame(*args, **options)


def said(table, row):
    """The text of a row, out of its tokens."""
    words = np.array(table.classes["say"])[table.sites["say"][row].numpy()]
    return " ".join(w for w in words if w != "<pad>")


def test_numbers_labels_and_texts_are_sites():
    d = data.from_frame(frame(), "kind", text="say", seed=1)
    assert list(d.train.sites) == ["x", "kind", "say"]
    assert d.train.columns["x"] == ("a", "b")
    # by how often they are there, then by name
    assert d.train.classes["say"][:5] == ("<pad>", "<unk>", "bird", "red", "the")
    assert d.train.sites["say"].dtype == torch.int64
    given = frame()
    for part in (d.train, d.validation, d.test):
        assert part.sites["say"].shape == (len(part), 4)
        for row, number in enumerate(part.numbers.tolist()):
            text = given["say"][number]
            if isinstance(text, str):
                assert said(part, row) == " ".join(text.lower().split())
            else:
                assert not part.observed["say"][row] and (part.sites["say"][row] == -1).all()
    # rows without a text are only trained on
    assert not d.validation.observed and not d.test.observed
    assert d.train.counts["say"] == len(d.train) - 8
    assert d.sizes["say"] == len(d.train.classes["say"])


def test_the_vocabulary_is_that_of_training_rows():
    parts = np.array(["train"] * 20 + ["validation"] * 10 + ["test"] * 10)
    texts = ["one two two"] * 20 + ["one three"] * 10 + ["four two <pad> one five"] * 10
    table = frame(texts).assign(part=parts)
    with pytest.warns(UserWarning, match="10 of 40 texts have more than 3 tokens and are cut"):
        d = data.from_frame(table, "kind", text="say", splits="part")
    assert d.train.classes["say"] == ("<pad>", "<unk>", "two", "one")
    assert d.train.sites["say"][0].tolist() == [3, 2, 2]
    assert d.validation.sites["say"][0].tolist() == [3, 1, 0]
    assert d.test.sites["say"][0].tolist() == [1, 2, 1]  # a word that is called so is no padding
    long = data.from_frame(table, "kind", text="say", splits="part", tokens=data.Tokens(length=6))
    assert long.test.sites["say"][0].tolist() == [1, 2, 1, 3, 1, 0]
    other = table.assign(say=[*texts[:20], *["all of this is new"] * 20])
    changed = quietly(other, "kind", text="say", splits="part")
    assert changed.train.classes == d.train.classes
    assert (changed.test.sites["say"] == 1).all()


def test_settings_are_in_the_recipe():
    tokens = data.Tokens(pattern=r"\w+|[^\w\s]", lower=False, length=5, least=2, most=6)
    d = data.from_frame(frame(), "kind", text=["say"], tokens=tokens, splits=(1.0, 0, 0))
    assert d.train.classes["say"] == ("<pad>", "<unk>", "bird", "red", "!", ",")
    assert json.loads(json.dumps(d.recipe))["options"]["text"]["say"] == {
        "pattern": r"\w+|[^\w\s]", "lower": False, "length": 5, "least": 2, "most": 6,
        "vocabulary": None,
    }  # fmt: skip
    assert d.train.sites["say"][2].tolist() == [1, 5, 3, 4, 0]  # Red , red !
    again = data.from_frame(frame(), "kind", text=["say"], tokens=tokens, splits=(1.0, 0, 0))
    assert again.recipe == d.recipe
    other = frame([*TEXTS[:4], "the bird sings"])
    changed = data.from_frame(other, "kind", text=["say"], tokens=tokens, splits=(1.0, 0, 0))
    assert changed.recipe["digest"] != d.recipe["digest"]


def test_new_rows_take_the_vocabulary_of_the_fit(tmp_path):
    d = data.from_frame(frame(), "kind", text="say", splits=(1.0, 0, 0))
    words = d.train.classes["say"]
    with pytest.raises(ValueError, match="no text in training rows, whose tokens are the vocab"):
        data.from_frame(frame(), "kind", text="say", splits=None)
    tokens = data.Tokens(length=4, vocabulary=words)
    new = data.from_frame(
        frame(["bird of", *TEXTS[1:]]), "kind", text="say", tokens=tokens, splits=None
    ).test
    assert new.classes["say"] == words
    assert new.sites["say"][0].tolist() == [words.index("bird"), 1, 0, 0]
    assert torch.equal(new.sites["say"][1], d.train.sites["say"][1])
    found = data.open(data.write(d, tmp_path / "said.h5")).train
    assert found.classes["say"] == words
    assert torch.equal(found.sites["say"][:], d.train.sites["say"])


def test_a_schema_knows_tokens_by_their_words():
    d = data.from_frame(frame(), "kind", text="say", splits=(1.0, 0, 0))
    words = d.train.classes["say"]
    tokens = data.Tokens(length=4, vocabulary=(*words[:2], *words[:1:-1]))
    other = data.from_frame(frame(), "kind", text="say", tokens=tokens, splits=None).test
    assert not torch.equal(other.sites["say"], d.train.sites["say"])
    found = Schema.of(d.train).bring(other)
    assert torch.equal(found.sites["say"], d.train.sites["say"])
    longer = data.Tokens(length=6, vocabulary=words)
    other = data.from_frame(frame(), "kind", text="say", tokens=longer, splits=None).test
    with pytest.raises(
        ValueError, match=r"rows of shape \(6,\), but the pair was fitted on \(4,\)"
    ):
        Schema.of(d.train).bring(other)


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_columns_of_texts_of_every_kind(kind):
    table = frame()
    expected = data.from_frame(table, "kind", text="say").train
    found = data.from_frame(table.assign(say=table["say"].astype(kind)), "kind", text="say").train
    assert torch.equal(found.sites["say"], expected.sites["say"])
    alone = data.from_frame(table[["say"]], text="say", splits=(1.0, 0, 0)).train
    assert list(alone.sites) == ["say"] and alone.counts["say"] == 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "says"}, "unknown column 'says': did you mean 'say'"),
        ({"text": ["say", "a"]}, "site 'a', row 0: got .*, expected text"),
        ({"text": "kind"}, "column 'kind' is named twice"),
        ({"tokens": data.Tokens()}, "tokens are given and no text"),
        ({"text": ["say", "none"]}, "site 'none' has no text in any row"),
    ],
)
def test_columns_that_hold_no_texts(options, words):
    table = frame() if options.get("text") != ["say", "none"] else frame().assign(none=" ")
    with pytest.raises(ValueError, match=words) as told:
        data.from_frame(table, "kind", **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "("}, "is no regular expression"),
        ({"pattern": r"(\w)+"}, "has groups, expected none"),
        ({"length": 0}, "length is 0, expected at least 1"),
        ({"most": 2}, "most is 2, expected at least 3"),
        ({"least": 0}, "least is 0, expected at least 1"),
        ({"vocabulary": ("a", "b")}, "does not begin with '<pad>' and '<unk>'"),
        ({"vocabulary": ("<pad>", "<unk>", "a", "a")}, "has 'a' twice"),
    ],
)
def test_settings_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words) as told:
        data.Tokens(**options)
    assert "\n" not in str(told.value)
