"""Settings: what they refuse, and that they explain themselves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from ppl_models.config import Config, setting, unknown


@dataclass(frozen=True)
class Settings(Config):
    size: int = setting(3, "n", minimum=1)
    hidden: tuple[int, ...] = setting((5, 5), "h", minimum=2)
    kind: str = setting("linear", "f", choices=("linear", "deep"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size is 0, expected at least 1"),
        ({"size": float("nan")}, "size is nan, expected a whole number"),
        ({"hidden": (5, 1)}, "hidden is 1, expected at least 2"),
        ({"kind": "liner"}, "unknown kind 'liner': did you mean 'linear'\\? expected one of deep"),
        ({"kind": "zzz"}, "unknown kind 'zzz': expected one of deep, linear"),
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
    assert field.metadata == {"doc": "n", "from_data": None, "choices": None, "minimum": 1}


def test_a_message_names_some_of_many_names_and_how_many_there_are():
    line = unknown("gene", "g7x", [f"g{k}" for k in range(20_000)])
    assert "did you mean 'g7'? " in line and line.endswith(", ... (20000)") and len(line) < 500
