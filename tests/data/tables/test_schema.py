"""Schemas: what a table must agree with, and how it is brought to it."""

import re

import numpy as np
import pytest
import torch

from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.schema import Schema, SiteSchema
from ppl_models.data.tables.table import Table

X = torch.arange(12.0).reshape(4, 3)
Y = torch.tensor([0, 1, 2, 1])
NAMES, CLASSES = ("a", "b", "c"), ("cat", "dog", "fox")


def table(x=X, y=Y, classes=CLASSES, columns=NAMES, **more):
    known = {"columns": {"x": columns}} if columns else {}
    return Table("new", {"x": x, "y": y}, classes={"y": classes}, **{**known, **more})


SCHEMA = Schema.of(table())


class Lazy:
    shape, dtype, digest = (4, 3), torch.float32, "lazy"

    def read(self, rows):
        return X[rows]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (Y, CLASSES),
        (torch.tensor([2, 1, 0, 1]), CLASSES[::-1]),
        (torch.tensor([1, 2, 3, 2]), ("bee", *CLASSES)),  # a class that no row has
    ],
)
def test_classes_are_known_by_their_names(y, classes):
    brought = SCHEMA.bring(table(y=y, classes=classes))
    assert brought.classes["y"] == CLASSES
    assert brought.sites["y"].tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([0, 1, 0, 1], ("dog", "fox"), [1, 2, 1, 2]),  # some of the classes
        ([0, 0, 0, 0], ("fox",), [2, 2, 2, 2]),  # one of them
        ([-1, -1, -1, -1], (), [-1, -1, -1, -1]),  # all missing: the names of the fit
    ],
)
def test_tables_with_fewer_classes_keep_the_codes_of_the_fit(y, classes, codes):
    y = torch.tensor(y)
    brought = SCHEMA.bring(table(y=y, classes=classes, observed={"y": y >= 0}))
    assert brought.classes["y"] == CLASSES and brought.sizes["y"] == 3
    assert brought.sites["y"].tolist() == codes


def test_hidden_labels_stay_hidden_whatever_class_stands_there():
    seen = torch.tensor([True, False, True, True])
    brought = SCHEMA.bring(table(y=torch.tensor([2, 0, 1, 1]), classes=("?", "dog", "fox"),
                                 observed={"y": seen}))  # fmt: skip
    assert brought.sites["y"].tolist() == [2, -1, 1, 1]
    assert brought.observed["y"].tolist() == seen.tolist()


def test_labels_of_several_entries_are_recoded_one_by_one():
    many = Table("m", {"t": torch.tensor([[0, 1], [1, 1]])}, classes={"t": ("no", "yes")})
    other = Table("m", {"t": torch.tensor([[1, 0], [0, 0]])}, classes={"t": ("yes", "no")})
    assert Schema.of(many).bring(other).sites["t"].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("lazy", [False, True])
def test_columns_are_known_by_their_names(order, lazy):
    names = tuple(NAMES[at] for at in order)
    x = Column(Lazy()).reordered(torch.tensor(order)) if lazy else X[:, order]
    brought = SCHEMA.bring(table(x=x, columns=names, row_names=list("pqrs")))
    assert brought.columns["x"] == NAMES
    assert torch.equal(brought.sites["x"][:], X)
    assert brought.row_names.tolist() == list("pqrs")


def test_a_reordered_column_is_told_from_the_one_it_was_made_of():
    column = Column(Lazy())
    moved = column.reordered(torch.tensor([2, 0, 1]))
    assert moved.fingerprint() != column.fingerprint()
    assert np.array_equal(moved.numpy(), X[:, [2, 0, 1]].numpy())
    assert torch.equal(moved.rows(torch.tensor([3]))[:], X[3:, [2, 0, 1]])


def test_names_that_one_side_lacks_are_filled_in():
    plain = SCHEMA.bring(table(columns=None))
    assert plain.columns["x"] == NAMES and torch.equal(plain.sites["x"], X)
    nameless = Schema.of(table(columns=None))
    assert torch.equal(nameless.bring(table(columns=("c", "b", "a"))).sites["x"], X)


ONE_LINE = {
    "unseen class": (
        table(classes=("cat", "dig", "fox")),
        "site 'y', row 1 of new: unknown class 'dig': did you mean 'dog'? expected one of cat, "
        "dog, fox, which are those that the pair was fitted on",
    ),
    "codes for names": (
        table(classes=("0", "1", "2")),
        "site 'y', row 0 of new: unknown class '0': expected one of cat, dog, fox, which are "
        "those that the pair was fitted on",
    ),
    "missing column": (
        table(x=X[:, :2], columns=("a", "c")),
        "site 'x' of new lacks the column 'b' that the pair was fitted on; it has a, c",
    ),
    "column too many": (
        table(x=torch.cat((X, X), 1), columns=("a", "b", "c", "d", "e", "f")),
        "site 'x' of new has the column 'd' and 2 more that the pair was not fitted on; expected "
        "a, b, c",
    ),
    "other column": (
        table(columns=("a", "b", "z")),
        "site 'x' of new lacks the column 'c' that the pair was fitted on; it has a, b, z",
    ),
    "width": (
        table(x=X[:, :2], columns=None),
        "site 'x' of new has rows of shape (2,), but the pair was fitted on (3,)",
    ),
    "label for vector": (
        table(x=Y, columns=None),
        "site 'x' of new is a label, but the pair was fitted on a vector",
    ),
    "vector for label": (
        Table("new", {"x": X, "y": Y.float()}),
        "site 'y' of new is a vector, but the pair was fitted on a label",
    ),
}


@pytest.mark.parametrize("case", ONE_LINE)
def test_what_does_not_fit_is_one_line(case):
    given, line = ONE_LINE[case]
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        SCHEMA.bring(given)


@pytest.mark.parametrize(
    ("mine", "theirs", "line"),
    [
        ({"units": {"x": "m"}}, {"units": {"x": "mm"}},
         "site 'x' of t has units mm, but the pair was fitted on m"),
        ({"shapes": {"x": (2, 3)}}, {"shapes": {"x": (3, 2)}},
         "site 'x' of t has images of shape (3, 2), but the pair was fitted on (2, 3)"),
        ({"columns": {"x": list("abcdef")}}, {"columns": {"x": list("abcdeg")}},
         "site 'x' of t lacks the column 'f' that the pair was fitted on; "
         "it has a, b, c, d, e, g"),
    ],
)  # fmt: skip
def test_units_and_images_must_agree_where_both_are_given(mine, theirs, line):
    x = torch.zeros(2, 6)
    schema = Schema.of(Table("t", {"x": x}, **mine))
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        schema.bring(Table("t", {"x": x}, **theirs))
    brought = schema.bring(Table("t", {"x": x}))
    assert Schema.of(brought).sites["x"] == schema.sites["x"]


def test_sites_without_a_schema_stay_as_they_are_and_absent_ones_may_be():
    other = Table("new", {"w": torch.zeros(4, 2), "x": X}, columns={"x": NAMES})
    brought = SCHEMA.bring(other)
    assert brought.sites["w"] is other.sites["w"] and brought.sites["x"] is other.sites["x"]


def test_what_was_not_known_at_first_is_filled_in_and_nothing_is_forgotten():
    first = Schema.of(table(columns=None))
    more = first.filled(Schema.of(table(units={"x": "m"}), roles={"y": "covariate"}))
    assert more.sites["x"].columns == NAMES and more.sites["x"].units == "m"
    assert more.sites["y"].role == "covariate"
    assert SCHEMA.filled(first) == SCHEMA


def test_a_schema_comes_back_from_json():
    import json

    schema = Schema.of(
        Table("t", {"x": torch.zeros(2, 6), "y": Y[:2]}, classes={"y": CLASSES},
              shapes={"x": (2, 3)}, units={"x": "m"}),
        roles={"y": "group"},
    )  # fmt: skip
    assert Schema.read(json.loads(json.dumps(schema.plain()))) == schema


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ([], "expected sites by name"),
        ({"x": 3}, "site 'x' of the schema is damaged"),
        ({"x": {"kind": "vector", "dtype": "float32", "path": "y"}}, "is damaged, expected kind"),
        ({"x": {"kind": "evil", "dtype": "float32"}}, "unknown kind 'evil'"),
        ({"x": {"kind": "vector", "dtype": "float32", "shape": ["3"]}}, "its shape is damaged"),
        ({"x": {"kind": "label", "dtype": "int64", "classes": "ab"}}, "its classes is damaged"),
        ({"x": {"kind": "label", "dtype": "int64", "classes": [True]}}, "its classes is damaged"),
    ],
)
def test_a_damaged_schema_is_refused(plain, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Schema.read(plain)


def test_only_sites_that_matter_are_kept():
    assert set(Schema.of(table(), ("x", "z")).sites) == {"x"}
    assert isinstance(SCHEMA.sites["x"], SiteSchema)
