"""Labels of every make: gaps, order and names of classes."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_models import data
from ppl_models.data.tables import labels
from ppl_models.data.tables.own_values import own

N = 12
PLACE = np.arange(N) % 3
GAPS = np.arange(N) % 4 == 0
CODES = np.where(GAPS, -1, PLACE).tolist()
ANIMALS = np.array(["ant", "bee", "cat"], dtype=object)


def coded(given, classes=None, **options):
    codes, names = labels.coded("y", own("y", given), classes, **options)
    return codes.tolist(), names


def gaps(values, gap, dtype=object):
    out = np.array(values, dtype=dtype)
    out[GAPS] = gap
    return out


# ---- masks and gaps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        np.ma.masked_array(PLACE, GAPS),
        np.ma.masked_array(PLACE.astype(float), GAPS),
        np.ma.masked_array(PLACE, GAPS).reshape(N, 1),
        np.ma.masked_array(np.where(GAPS, 99, PLACE), GAPS),  # what is masked is not looked at
        pd.Series(gaps(PLACE, None)).astype("Int64"),
        pd.Series(gaps(PLACE, None)).astype("Int8"),
        pd.Series(gaps(PLACE, np.nan, float)).astype("Float32"),
        pd.array(gaps(PLACE, None), dtype="Int64"),
        gaps(PLACE, pd.NA),
        gaps(PLACE, np.nan).tolist(),
        torch.from_numpy(np.where(GAPS, -1, PLACE)).to(torch.int8),
        torch.from_numpy(gaps(PLACE, np.nan, float)).bfloat16(),
        np.where(GAPS, -1, PLACE)[:, None],
    ],
    ids=range(13),
)
def test_numbers_with_gaps(given):
    assert coded(given) == (CODES, ("0", "1", "2"))


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT, float("nan"), np.float32("nan")])
@pytest.mark.parametrize("make", [np.array, list, pd.Series, pd.Index, pd.Categorical])
def test_text_with_gaps(gap, make):
    assert coded(make(gaps(ANIMALS[PLACE], gap))) == (CODES, ("ant", "bee", "cat"))


@pytest.mark.parametrize("kind", ["string", "category", "object", "str"])
def test_text_of_pandas_kinds(kind):
    series = pd.Series(gaps(ANIMALS[PLACE], None), dtype=kind)
    assert coded(series) == (CODES, ("ant", "bee", "cat"))


@pytest.mark.parametrize(
    "given",
    [
        gaps(PLACE > 0, None),
        gaps(PLACE > 0, None).tolist(),
        pd.Series(gaps(PLACE > 0, None)).astype("boolean"),
        np.ma.masked_array(PLACE > 0, GAPS),
        gaps(PLACE > 0, pd.NA),
    ],
    ids=range(5),
)
def test_truth_values_with_gaps_keep_their_names(given):
    expected = np.where(GAPS, -1, PLACE > 0).tolist()
    assert coded(given) == (expected, ("False", "True"))


@pytest.mark.parametrize("word", [w for w in labels.NO_VALUE])
@pytest.mark.parametrize("make", [np.array, pd.Categorical])
def test_text_that_stands_for_no_value_is_told_and_is_no_class(word, make):
    with pytest.warns(UserWarning) as told:
        found = coded(make(gaps(ANIMALS[PLACE], word)))
    assert found == (CODES, ("ant", "bee", "cat"))
    assert str(told[0].message) == (
        f"site 'y': 3 rows hold {word!r}, which is taken as missing; name it in "
        "classes={'y': ...} if it is a class"
    )


@pytest.mark.parametrize("word", ["nan", "None", "NA"])
def test_such_text_is_a_class_where_it_is_named(word):
    names = ["ant", "bee", "cat", word]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = coded(gaps(ANIMALS[PLACE], word), names)
    assert found == (np.where(GAPS, 3, PLACE).tolist(), tuple(names))


@pytest.mark.parametrize("word", ["Na", "none", "nano", "NANA"])
def test_other_text_is_a_class(word):
    assert word in coded(gaps(ANIMALS[PLACE], word))[1]


# ---- order and names ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["1.5", "-2", "10"], ("-2", "1.5", "10")),
        (["b", "10", "2"], ("10", "2", "b")),
        (pd.Categorical(["b", "a", "b"], categories=["b", "a"]), ("b", "a")),
        (pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"], ordered=True),
         ("c", "b", "a")),
        (pd.Categorical([10, 2, 1]), ("1", "2", "10")),
        (pd.Categorical([10.0, 2.0, 1.0]), ("1", "2", "10")),
        (pd.Categorical([1.5, 2.0, 2.0]), ("1.5", "2")),
        (pd.Categorical([True, False, True]), ("False", "True")),
        (pd.Series(["b", "a", "b"], dtype="category").cat.set_categories(["b", "x", "a"]),
         ("b", "x", "a")),
    ],
)  # fmt: skip
def test_the_order_of_classes(given, names):
    codes, found = coded(given)
    assert found == names
    texts = [labels.text(v) for v in list(given)]
    assert [names[code] for code in codes] == texts


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([3, 1, 3, 10], ("1", "3", "10")),
        ([3.0, 1.0, np.nan, 10.0], ("1", "3", "10")),
        (pd.Series([3, 1, None, 10], dtype="Int64"), ("1", "3", "10")),
        ([-1, 0, 2, 1], ("0", "1", "2")),
    ],
)
def test_numbers_of_a_column_of_labels_are_names(given, names):
    codes, found = coded(given, by_value=True)
    assert found == names
    for code, value in zip(codes, list(given), strict=True):
        missing = pd.isna(value) or value == -1
        assert code == -1 if missing else names[code] == str(int(value))


@pytest.mark.parametrize(
    ("classes", "given", "codes"),
    [
        (["cat", "ant", "bee"], ANIMALS[PLACE[:3]], [1, 2, 0]),
        (np.array(["cat", "ant", "bee"]), ANIMALS[PLACE[:3]], [1, 2, 0]),
        (("cat", "ant", "bee", "dog"), pd.Categorical(ANIMALS[PLACE[:3]]), [1, 2, 0]),
        (pd.Index(["cat", "ant", "bee"]), list(ANIMALS), [1, 2, 0]),
        (4, [0, 1, 2], [0, 1, 2]),
        (np.int64(4), [0.0, 1.0, 2.0], [0, 1, 2]),
        (["no", "yes"], [True, False, True], [1, 0, 1]),
    ],
)
def test_names_that_are_given_decide(classes, given, codes):
    found, names = coded(given, classes)
    assert found == codes
    expected = 4 if isinstance(classes, int | np.integer) else [str(c) for c in classes]
    assert names == tuple(map(str, range(4))) if expected == 4 else list(names) == expected


ONE_LINE = {
    "twice": (ANIMALS, ["ant", "bee", "cat", "bee"],
              "classes of 'y': 'bee' stands there twice, expected once"),
    "twice after text": (pd.Categorical([1, "1"]), None,
                         "classes of 'y': '1' stands there twice, expected once"),
    "one text": (ANIMALS, "ant",
                 "classes of 'y' are 'ant', expected their number or their names in a list"),
    "unseen": (ANIMALS, ["ant", "bee"],
               "site 'y', row 2: unknown class 'cat': did you mean 'ant'? expected one of ant, "
               "bee"),
    "unseen category": (pd.Categorical(ANIMALS), ["ant", "cat"],
                        "site 'y', row 1: unknown class 'bee': expected one of ant, cat"),
    "number for names": (ANIMALS, 3,
                         "site 'y' holds names, expected classes={'y': names} or none"),
    "half": ([0, 1.5, 1], 2, "site 'y', row 1: got 1.5, expected a label"),
    "infinite": ([0, np.inf, 1], 2, "site 'y', row 1: got inf, expected a label"),
    "huge": (np.array([0, 2**63], np.uint64), None,
             "site 'y', row 1: got 9223372036854775808, expected a label"),
    "negative": ([0, -3, 1], None,
                 "site 'y', row 1: got -3, expected a label, or -1 if missing"),
    "one-hot": (np.eye(3, dtype=int), 3,
                "site 'y' has rows of shape (3,), expected one label a row"),
    "dates": (pd.to_datetime(["2020-01-01", "2021-01-01"]), None,
              "site 'y' has type datetime64[us], expected numbers or text; give dates as numbers "
              "of some unit, or as text if they are labels"),
    "complex": (np.array([1j, 2]), 2,
                "site 'y' has type complex128, expected numbers or text; give its real and "
                "imaginary parts"),
    "objects": (np.array([{}, {}]), None, "site 'y' holds a dict, expected numbers or text"),
    "levels": (pd.MultiIndex.from_product([["a"], ["b"]]), None,
               "site 'y' is a MultiIndex, expected one value a row"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_LINE)
def test_what_is_no_label_is_one_line(case):
    given, classes, line = ONE_LINE[case]
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        coded(given, classes)


@pytest.mark.parametrize("make", [np.array, pd.Series, list])
def test_a_million_labels_take_no_time(make):
    import time

    given = make(ANIMALS[np.arange(200_000) % 3])
    start = time.process_time()
    codes, _ = labels.coded("y", own("y", given), None)
    assert time.process_time() - start < 5  # a loop over classes for each row takes minutes
    assert codes.bincount().tolist() == [66_667, 66_667, 66_666]


def test_labels_in_files_and_frames_follow_one_rule(tmp_path):
    words = np.array(["10", "2", "nan", "1"] * 10)
    x = np.random.default_rng(0).random((40, 2))
    np.savez(tmp_path / "a.npz", x=x, y=words)
    frame = pd.DataFrame({"p": x[:, 0], "q": x[:, 1], "y": words})
    with pytest.warns(UserWarning, match="10 rows hold 'nan', which is taken as missing"):
        found = [
            data.load(tmp_path / "a.npz"),
            data.from_frame(frame, "y"),
            data.from_arrays(x, words),
        ]
    for one in found:
        assert one.train.classes["y"] == ("1", "2", "10")
        assert sum(part.counts["y"] for part in (one.train, one.validation, one.test)) == 30
