"""Labels of every make: which are missing, which classes there are, and in which order."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.labels import labels


def read(given, classes=None, site="y"):
    codes, names = labels(site, take(site, given), classes)
    return codes.tolist(), names


def pandas():
    return pytest.importorskip("pandas")


def category(values, categories, ordered=False):
    return pandas().Series(pandas().Categorical(values, categories=categories, ordered=ordered))


MISSING = [
    lambda: np.ma.masked_array([0, 1, 2, 0], [False, True, False, False]),
    lambda: np.ma.masked_array([0.0, 7.0, 2.0, 0.0], [False, True, False, False]),
    lambda: np.array([0, -1, 2, 0]),
    lambda: np.array([0, np.nan, 2, 0]),
    lambda: [0, None, 2, 0],
    lambda: [[0], [-1], [2], [0]],
    lambda: torch.tensor([0, -1, 2, 0], dtype=torch.int16),
    lambda: pandas().Series([0, None, 2, 0], dtype="Int64"),
    lambda: pandas().Series([0, None, 2, 0], dtype="Float64"),
    lambda: pandas().Series([0, None, 2, 0], dtype="object"),
    lambda: pandas().array([0, None, 2, 0], dtype="UInt8"),
    lambda: np.array([[0], [-1], [2], [0]]),
    lambda: pandas().DataFrame({"y": pandas().array([0, None, 2, 0], dtype="Int8")}),
]


@pytest.mark.parametrize("make", MISSING)
def test_missing_numbers(make):
    assert read(make(), 3) == ([0, -1, 2, 0], ("0", "1", "2"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [True, None, False],
        lambda: [True, float("nan"), False],
        lambda: [np.True_, None, np.False_],
        lambda: np.array([True, None, False], dtype=object),
        lambda: np.ma.masked_array([True, True, False], [False, True, False]),
        lambda: pandas().Series([True, None, False]),
        lambda: pandas().Series([True, None, False], dtype="boolean"),
        lambda: category([True, None, False], [False, True]),
    ],
)
def test_truth_values_with_gaps_keep_their_names(make):
    assert read(make()) == ([1, -1, 0], ("False", "True"))
    assert read(make(), ["True", "False"]) == ([0, -1, 1], ("True", "False"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ["b", None, "a", "b"],
        lambda: np.array(["b", None, "a", "b"], dtype=object),
        lambda: np.array(["b", np.nan, "a", "b"], dtype=object),
        lambda: np.array([b"b", None, b"a", b"b"], dtype=object),
        lambda: np.ma.masked_array(["b", "z", "a", "b"], [False, True, False, False]),
        lambda: pandas().Series(["b", None, "a", "b"]),
        lambda: pandas().Series(["b", None, "a", "b"], dtype="string"),
        lambda: pandas().Series(["b", pandas().NA, "a", "b"], dtype="object"),
        lambda: pandas().Series(["b", None, "a", "b"], dtype="category"),
        lambda: np.array(["b", np.nan, "a", "b"], np.dtypes.StringDType(na_object=np.nan)),
    ],
)
def test_missing_text(make):
    assert read(make()) == ([1, -1, 0, 1], ("a", "b"))


@pytest.mark.parametrize("word", ["", "nan", "NaN", "NA", "<NA>", "None", "NaT"])
@pytest.mark.parametrize("kind", ["U", "S", "object", "category"])
def test_words_for_missing_are_told(word, kind):
    values = np.array(["b", word, "a", word])
    if kind == "category":
        values = category(values.tolist(), ["b", word, "a"])
        order = ("b", "a")
    else:
        values, order = values.astype(kind), ("a", "b")
    line = (
        f"site 'y': 2 rows are {word!r}, read as missing; list the name among "
        "classes={'y': ...} if it is a class"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(line)}$"):
        codes, names = read(values)
    assert names == order
    assert codes == [order.index("b"), -1, order.index("a"), -1]
    assert read(values, ["a", "b", word]) == ([1, 2, 0, 2], ("a", "b", word))


@pytest.mark.parametrize("word", ["none", "Na", "N", "nano", " ", "null"])
def test_other_words_are_classes(word):
    assert read(["z", word]) == ([1, 0], (word, "z"))


@pytest.mark.parametrize(
    ("make", "codes", "names"),
    [
        (lambda: ["10", "2", "1", "10"], [2, 1, 0, 2], ("1", "2", "10")),
        (lambda: ["2.5", "10", "1e1"], [0, 1, 2], ("2.5", "10", "1e1")),
        (lambda: ["10", "2", "x"], [0, 1, 2], ("10", "2", "x")),
        (lambda: [10.0, "a", 2], [0, 2, 1], ("10", "2", "a")),
        (lambda: category([10, 2, 10], [2, 5, 10]), [2, 0, 2], ("2", "5", "10")),
        (lambda: category([10.0, 2.0, None], [2.0, 10.0]), [1, 0, -1], ("2", "10")),
        (
            lambda: category(["low", "high"], ["low", "mid", "high"], True),
            [0, 2],
            ("low", "mid", "high"),
        ),
        (lambda: category(["10", "9"], ["10", "9"]), [0, 1], ("10", "9")),
        (lambda: np.array([2, 0, 1], np.uint8), [2, 0, 1], ("0", "1", "2")),
    ],
)
def test_order_of_classes(make, codes, names):
    assert read(make()) == (codes, names)


@pytest.mark.parametrize(
    ("given", "classes", "codes"),
    [
        ([1, 2, 3], ["1", "2", "3"], [0, 1, 2]),  # numbers that are names
        ([1, 2, -1], [1, 2, 3], [0, 1, -1]),
        ([1.0, 2.0, np.nan], np.array([3, 2, 1]), [2, 1, -1]),
        ([0, 1, 2], ["ant", "bee", "cat"], [0, 1, 2]),  # codes
        ([0, 1, 2], np.array(["ant", "bee", "cat"]), [0, 1, 2]),
        (["bee", "ant", None], ("cat", "bee", "ant"), [1, 2, -1]),
        ([0, 1, 1], np.int64(3), [0, 1, 1]),
        ([False, True, True], 2, [0, 1, 1]),
    ],
)
def test_classes_that_are_given(given, classes, codes):
    found, names = read(given, classes)
    assert found == codes
    assert names == (
        tuple(map(str, range(classes))) if np.isscalar(classes) else tuple(map(str, classes))
    )
    if not np.isscalar(classes) and isinstance(given[0], int):
        assert read(category(given, [-1, 0, 1, 2, 3][1 if -1 not in given else 0 :]).tolist(),
                    classes)[0] == codes  # fmt: skip


@pytest.mark.parametrize(
    ("given", "classes", "line"),
    [
        ([0, 1], ["a", "a"], "classes of 'y': 'a' stands there twice, expected different names"),
        ([0, 1], [1, 1.0], "classes of 'y': '1' stands there twice, expected different names"),
        ([0, 1], "ab", "classes of 'y' are 'ab', expected their number, or a list of their names"),
        ([0, 1], 2.5, "classes of 'y' are 2.5, expected their number, or a list of their names"),
        ([0, 1], 0, "classes of 'y' are 0, expected at least 1"),
        ([1, 4], ["1", "2"], "site 'y', row 1: unknown class '4': expected one of 1, 2"),
        (["a", "b"], 2, "site 'y' holds names, expected classes={'y': names} or none"),
        ([1.5, 2.0], 3, "site 'y', row 0: got 1.5, expected a label"),
        ([np.inf, 0.0], 3, "site 'y', row 0: got inf, expected a label"),
        (np.array([0, 2**63], np.uint64), None, "site 'y', row 1: got 9223372036854775808, "
         "expected a label"),
        ([10**30, None], None, "site 'y', row 0: got 1e+30, expected a label"),
        ([10**400, None], None, "site 'y' has numbers too large for labels"),
        ([1 + 2j, 0], 2, "site 'y' has type complex128, expected integers or strings"),
        ([0, -2], None, "site 'y', row 1: got -2, expected a label, or -1 if missing"),
        ([{}, None], None, "site 'y', row 0: got a dict, expected a label"),
        ([None, object()], None, "site 'y' has type object and shape (2,), expected labels, got"
         " object"),
        ([None, None], None, "site 'y' has no label at all, expected some; a whole table for "
         "prediction is read with splits=None"),
    ],
)  # fmt: skip
def test_what_is_no_label(given, classes, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        read(given, classes)


def test_two_categories_of_one_name():
    with pytest.raises(
        ValueError, match=r"^site 'y' has two classes of the name '1', expected one"
    ):
        read(category(["1", 1], [1, "1"]))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: np.array(["2020-01-02", "NaT", "2020-01-01"], "datetime64[D]"),
         ("2020-01-01", "2020-01-02")),
        (lambda: pandas().Series([datetime.date(2020, 1, 2), None, datetime.date(2020, 1, 1)]),
         ("2020-01-01", "2020-01-02")),
        (lambda: pandas().Series(pandas().PeriodIndex(["2020-02", "NaT", "2020-01"], freq="M")),
         ("2020-01", "2020-02")),
        (lambda: pandas().cut(pandas().Series([3, np.nan, 1]), [0, 2, 4]), ("(0, 2]", "(2, 4]")),
    ],
)  # fmt: skip
def test_dates_and_intervals_may_be_labels(make, names):
    assert read(make()) == ([1, -1, 0], names)


def test_bytes_are_utf8_or_latin1():
    for encoding in ("utf-8", "latin-1"):
        words = [w.encode(encoding) for w in ("ä", "zoë", "ä")]
        for given in (np.array(words), words, np.array(words, dtype=object)):
            assert read(given) == ([1, 0, 1], ("zoë", "ä"))


@pytest.mark.parametrize(
    ("y", "line"),
    [
        (np.eye(4)[np.arange(8) % 4], "site 'y' has shape (8, 4), expected one label per row; of "
         "one-hot rows give argmax(1)"),
        (np.eye(3, dtype=bool)[np.arange(8) % 3], "site 'y' has shape (8, 3), expected one label "
         "per row; of one-hot rows give argmax(1)"),
        (torch.eye(2).long()[torch.arange(8) % 2], "site 'y' has shape (8, 2), expected one label "
         "per row; of one-hot rows give argmax(1)"),
    ],
)  # fmt: skip
def test_one_hot_rows(y, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        data.from_arrays(np.zeros((8, 2)), y)


def test_a_column_is_a_label_where_a_row_is():
    """(N, 1) and (N,) are read alike, floats of x and of measured numbers remaining vectors."""
    x, y = np.arange(20)[:, None], np.arange(20) % 2
    for given in (y, y[:, None], y[:, None].tolist(), torch.tensor(y)[:, None]):
        d = data.from_arrays(x, given, splits=None)
        assert d.test.sites["y"].tolist() == y.tolist()
        assert d.test.sites["x"].tolist() == [[float(i)] for i in range(20)]
    for classes in (2, ["no", "yes"]):
        d = data.from_arrays(x, y[:, None].astype(float), splits=None, classes={"y": classes})
        assert d.test.sites["y"].tolist() == y.tolist()
    assert data.from_arrays(x, y.astype(float), splits=None).test.sites["y"].shape == (20, 1)


def test_prediction_needs_no_label():
    x = np.zeros((4, 2))
    for given, classes, names in (
        ([-1] * 4, None, ()),
        ([None] * 4, None, ()),
        ([-1] * 4, ["a", "b"], ("a", "b")),
        ([3, -1, 0, 0], None, ("0", "1", "2", "3")),
        (category(["b", None, None, None], ["b", "a"]), None, ("b", "a")),
    ):
        options = {} if classes is None else {"classes": {"y": classes}}
        d = data.from_arrays(x, given, splits=None, **options)
        assert d.test.classes["y"] == names
        assert (len(d.train), len(d.validation), len(d.test)) == (0, 0, 4)


WORDS = ["ä", "zoë", "ä", ""] * 5


@pytest.mark.parametrize(
    ("ending", "make"),
    [
        ("npz", lambda h5py: np.array(WORDS)),
        ("npz", lambda h5py: np.array([w.encode() for w in WORDS])),
        ("npz", lambda h5py: np.array([w.encode("latin-1") for w in WORDS])),
        ("h5", lambda h5py: np.array([w.encode() for w in WORDS])),
        ("h5", lambda h5py: np.array([w.encode("latin-1") for w in WORDS])),
        ("h5", lambda h5py: np.array(WORDS, dtype=h5py.string_dtype())),
        (
            "h5",
            lambda h5py: np.array([w.encode() for w in WORDS], h5py.string_dtype("utf-8", 5)),
        ),
    ],
)
def test_text_of_files(tmp_path, ending, make):
    import h5py

    path, values = tmp_path / f"mice.{ending}", make(h5py)
    if ending == "npz":
        np.savez(path, x=np.zeros((20, 2)), y=values)
    else:
        with h5py.File(path, "w") as file:
            file["x"], file["y"] = np.zeros((20, 2)), values
    with pytest.warns(UserWarning, match=r"^site 'y': 5 rows are '', read as missing; list"):
        table = data.load(path, splits=None).test
    assert table.classes == {"y": ("zoë", "ä")}
    assert table.sites["y"].tolist() == [1, 0, 1, -1] * 5
    with_it = data.load(path, splits=None, classes={"y": ["", "zoë", "ä"]}).test
    assert with_it.sites["y"].tolist() == [2, 1, 2, 0] * 5
