"""Settings: what they refuse, and that they explain themselves."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_models.config import Config, at_least, names, native, plain, setting, unknown, whole


@dataclass(frozen=True)
class Settings(Config):
    size: int = setting(3, "n", minimum=1)
    hidden: tuple[int, ...] = setting((5, 5), "h", minimum=2)
    kind: str = setting("linear", "f", choices=("linear", "deep"))
    rate: float = setting(0.5, "r")
    fast: bool = setting(False, "b")
    prior: str | tuple[float, ...] = setting("even", "p", choices=("even", "odd"), prior_of="y")


class Word(str):
    """Text of another library."""


class Kind(enum.Enum):
    """Choices of one."""

    DEEP = "deep"


class Number(enum.IntEnum):
    """Numbers with names."""

    FOUR = 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size is 0, expected at least 1"),
        ({"size": float("nan")}, "size is nan, expected a whole number"),
        ({"hidden": (5, 1)}, "hidden is 1, expected at least 2"),
        ({"kind": "liner"}, "unknown kind 'liner': did you mean 'linear'\\? expected one of deep"),
        ({"kind": "zzz"}, "unknown kind 'zzz': expected one of deep, linear"),
        ({"kind": ["linear"]}, r"kind is \['linear'\], expected a name"),
        ({"kind": np.array(["linear"])}, r"kind is \('linear',\), expected a name"),
        ({"hidden": "5"}, r"hidden is '5', expected a tuple such as \(5, 5\)"),
        ({"hidden": np.array(5)}, r"hidden is 5, expected a tuple such as \(5, 5\)"),
        ({"hidden": [4, "5"]}, "hidden is '5', expected a whole number"),
        ({"hidden": np.array([4.0, 2.5])}, "hidden is 4.0, expected a whole number"),
        ({"size": np.float32(3)}, "size is 3.0, expected a whole number"),
        ({"size": np.array([3])}, r"size is \(3,\), expected a whole number"),
        ({"size": np.bool_(True)}, "size is True, expected a whole number"),
        ({"size": torch.tensor(3, dtype=torch.bool)}, "size is True, expected a whole number"),
        ({"size": np.int64(0)}, "size is 0, expected at least 1"),
        ({"rate": np.complex64(1)}, r"rate is .*1\+0j.*, expected a number"),
        ({"rate": "0.5"}, "rate is '0.5', expected a number"),
        ({"fast": np.int8(1)}, "fast is 1, expected True or False"),
        (
            {"prior": "evn"},
            "unknown prior 'evn': did you mean 'even'\\? expected one of",
        ),
        ({"prior": ("even",)}, r"prior is \('even',\), expected 'even', 'odd' or a number per"),
        (
            {"prior": torch.ones(2, 1)},
            r"prior is \(\[1.0\], \[1.0\]\), expected 'even', 'odd'",
        ),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        Settings(**settings)


def test_settings_are_frozen_and_documented():
    settings = Settings(hidden=())
    assert settings == Settings(3, (), "linear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.size = 4
    field = dataclasses.fields(Settings)[0]
    unset = {"from_data": None, "shape_from": None, "choices": None, "prior_of": None}
    assert field.metadata == {"doc": "n", "minimum": 1, **unset}


def test_a_message_names_some_of_many_names_and_how_many_there_are():
    line = unknown("gene", "g7x", [f"g{k}" for k in range(20_000)])
    assert "did you mean 'g7'? " in line and line.endswith(", ... (20000)") and len(line) < 500


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"size": np.int64(4)}, {"size": 4}),
        ({"size": np.uint8(4)}, {"size": 4}),
        ({"size": torch.tensor(4)}, {"size": 4}),
        ({"size": np.array(4)}, {"size": 4}),
        ({"size": Number.FOUR}, {"size": 4}),
        ({"rate": np.float32(0.25)}, {"rate": 0.25}),
        ({"rate": np.float64(0.1)}, {"rate": 0.1}),
        ({"rate": torch.tensor(0.25)}, {"rate": 0.25}),
        ({"rate": Fraction(1, 4)}, {"rate": 0.25}),
        ({"fast": np.bool_(True)}, {"fast": True}),
        ({"fast": torch.tensor(True)}, {"fast": True}),
        ({"kind": np.str_("deep")}, {"kind": "deep"}),
        ({"kind": Word("deep")}, {"kind": "deep"}),
        ({"kind": Kind.DEEP}, {"kind": "deep"}),
        ({"kind": Path("deep")}, {"kind": "deep"}),
        ({"hidden": np.array([3, 4])}, {"hidden": (3, 4)}),
        ({"hidden": torch.tensor([3, 4])}, {"hidden": (3, 4)}),
        ({"hidden": [np.int32(3), torch.tensor(4)]}, {"hidden": (3, 4)}),
        ({"hidden": range(3, 5)}, {"hidden": (3, 4)}),
        ({"prior": np.str_("odd")}, {"prior": "odd"}),
        ({"prior": torch.tensor([0.25, 0.75])}, {"prior": (0.25, 0.75)}),
        ({"prior": [np.float32(0.25), Fraction(3, 4)]}, {"prior": (0.25, 0.75)}),
    ],
)
def test_settings_of_other_kinds_are_plain(given, expected):
    settings = Settings(**given)
    assert settings == Settings(**expected)
    for name, value in expected.items():
        assert type(getattr(settings, name)) is type(value)
    json.dumps(dataclasses.asdict(settings))


def test_what_is_nested_is_plain():
    given = {Word("a"): [np.int64(1), (np.float32(0.5), Path("b"))], "c": np.arange(2), 3: None}
    assert native(given) == {"a": [1, (0.5, "b")], "c": (0, 1), 3: None}
    assert plain(given) == {"a": [1, [0.5, "b"]], "c": [0, 1], "3": None}
    assert {type(key) for key in native(given)} == {str, int}
    # What trains, what is no setting and what equals no number of Python's stay.
    weight = torch.tensor(1.0, requires_grad=True)
    thing = object()
    assert native(weight) is weight
    assert native(thing) is thing


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: whole("seed", 1.5), "seed is 1.5, expected a whole number"),
        (lambda: whole("seed", "1"), "seed is '1', expected a whole number"),
        (lambda: whole("seed", True), "seed is True, expected a whole number"),
        (lambda: whole("seed", None), "seed is None, expected a whole number"),
        (lambda: whole("seed", np.int64(-1), 0), "seed is -1, expected at least 0"),
        (lambda: at_least(draws=(2.0, 1)), "draws is 2.0, expected a whole number"),
        (lambda: at_least(draws=([2], 1)), "draws is [2], expected a whole number"),
        (lambda: names("given", "xy"), "given is 'xy', expected a tuple such as ('xy',)"),
        (lambda: names("given", 3), "given is 3, expected a tuple such as ('3',)"),
        (lambda: names("given", ["x", 3]), "given has 3, expected names"),
    ],
)
def test_options_of_a_wrong_kind(call, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        call()


def test_options_of_other_kinds_are_plain():
    assert type(whole("seed", np.uint16(7))) is int
    assert names("given", np.array(["x", "y"])) == ("x", "y")
    at_least(draws=(np.int64(3), 3))


def test_where_no_name_is_known_none_is_expected():
    assert (
        unknown("covariate of vae", "dose", ()) == "unknown covariate of vae 'dose': there is none"
    )
