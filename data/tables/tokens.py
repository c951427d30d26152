"""Texts of rows as tokens of a vocabulary that the training rows decide."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import at_least, whole
from ppl_models.data.tables.given import Array, Given
from ppl_models.data.tables.missing import is_missing
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.recipe import digest, plain
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import Dataset, Table

PAD, UNKNOWN = "<pad>", "<unk>"  # classes 0 and 1: what fills a short text, and all other tokens
WIDTH = 2  # of what stands for a text until the rows are split


@dataclass(frozen=True)
class Tokens:
    r"""How texts become tokens.

    Attributes:
        pattern: What a token is, a regular expression: all between blanks by default;
            ``r"\\w+|[^\\w\\s]"`` takes marks for tokens of their own.
        lower: Whether capitals are made small.
        length: Tokens T of a row: longer texts are cut, shorter ones filled with ``<pad>``; that
            of the longest training text if None.
        least: How often a token must stand in training rows; others are ``<unk>``.
        most: Most entries of the vocabulary, the most frequent; all if None.
        vocabulary: That of an earlier table, its class names, ``<pad>`` and ``<unk>`` first; the
            training rows' own if None.
    """

    pattern: str = r"\S+"
    lower: bool = True
    length: int | None = None
    least: int = 1
    most: int | None = None
    vocabulary: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        at_least(least=(self.least, 1))
        for name, value, least in (("length", self.length, 1), ("most", self.most, 3)):
            if value is not None:
                whole(name, value, least)
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is no regular expression ({error})"
            ) from None
        if groups:
            raise ValueError(f"pattern {self.pattern!r} has groups, expected none, or (?:...)")
        if (words := self.vocabulary) is None:
            return
        if isinstance(words, str) or tuple(words[:2]) != (PAD, UNKNOWN):
            raise ValueError(f"the vocabulary does not begin with {PAD!r} and {UNKNOWN!r}")
        if (twice := twice_in(words)) is not None:
            raise ValueError(f"the vocabulary has {twice!r} twice, expected different tokens")

    def split(self, text: str) -> list[str]:
        """The tokens of a text."""
        return re.findall(self.pattern, text.lower() if self.lower else text)


def stand_in(site: str, given: Given) -> tuple[Given, list[str | None]]:
    """What stands for texts until the rows are split, missing where they are; and the texts.

    Args:
        site: Name of the site.
        given: The column.

    Raises:
        ValueError: If a value is no text, naming the row.
    """
    listed = given.values.tolist()
    if given.categories is not None:
        listed = [None if code < 0 else given.categories[code] for code in listed]
    texts: list[str | None] = []
    for row, value in enumerate(listed):
        gone = given.missing is not None and bool(given.missing[row])
        if gone or is_missing(value) or (isinstance(value, str) and not value.strip()):
            texts.append(None)
        elif isinstance(value, str):
            texts.append(value)
        else:
            raise ValueError(f"site {site!r}, row {row}: got {value!r}, expected text")
    none = np.array([text is None for text in texts])
    if none.all():
        raise ValueError(f"site {site!r} has no text in any row, expected some")
    shape = (len(texts), WIDTH)
    missing = np.broadcast_to(none[:, None], shape) if none.any() else None
    return Given(np.zeros(shape, np.float32), missing), texts


def with_tokens(
    dataset: Dataset, texts: Mapping[str, Sequence[str | None]], settings: Tokens
) -> Dataset:
    """The data set with tokens in place of what stood for texts.

    Args:
        dataset: Made of the columns of :func:`stand_in`, whose row numbers are those of the texts.
        texts: Text of each row by site, None where there is none.
        settings: How they become tokens.

    Raises:
        ValueError: If there are no training rows to take the vocabulary from.
    """
    parts: dict[str, Table] = {part: getattr(dataset, part) for part in PARTS}
    told = dataclasses.asdict(settings)
    recorded: dict[str, object] = {}
    for site, listed in texts.items():
        words = [None if text is None else settings.split(text) for text in listed]
        seen = [words[row] or [] for row in parts["train"].numbers.tolist()]
        vocabulary = _vocabulary(site, seen, settings)
        length = settings.length or max(map(len, seen), default=0)
        if not length:
            raise ValueError(
                f"site {site!r} has no text in training rows, expected some, or length="
            )
        _tell_cut(site, [len(own or ()) for own in words], length)
        code = {word: place for place, word in enumerate(vocabulary)}
        ids = _ids(words, code, length)
        there = torch.tensor([own is not None for own in words])
        for part, table in parts.items():
            parts[part] = _put(table, site, ids, there, vocabulary)
        recorded[site] = {**told, "vocabulary": settings.vocabulary, "length": length}
    recipe = {
        **dataset.recipe,
        "options": {**dataset.recipe["options"], "text": plain(recorded)},
        "digest": digest(*parts.values()),
    }
    train, validation, test = parts.values()
    return dataclasses.replace(
        dataset, train=train, validation=validation, test=test, recipe=recipe
    )


def _vocabulary(site: str, seen: Sequence[Sequence[str]], settings: Tokens) -> tuple[str, ...]:
    if settings.vocabulary is not None:
        return tuple(settings.vocabulary)
    counts = Counter(word for own in seen for word in own if word not in (PAD, UNKNOWN))
    if not counts:
        raise ValueError(
            f"site {site!r} has no text in training rows, whose tokens are the vocabulary; give "
            "that of an earlier table, vocabulary=table.classes[...]"
        )
    kept = sorted(
        (w for w, n in counts.items() if n >= settings.least), key=lambda w: (-counts[w], w)
    )
    most = None if settings.most is None else settings.most - 2
    return PAD, UNKNOWN, *kept[:most]


def _ids(words: Sequence[Sequence[str] | None], code: Mapping[str, int], length: int) -> Tensor:
    """Places in the vocabulary ``(N, T)``, 0 where a text has ended."""
    ids: Array = np.zeros((len(words), length), np.int64)
    for row, own in enumerate(words):
        found = [
            1 if word in (PAD, UNKNOWN) else code.get(word, 1) for word in (own or ())[:length]
        ]
        ids[row, : len(found)] = found
    return torch.from_numpy(ids)


def _tell_cut(site: str, lengths: Sequence[int], length: int) -> None:
    if cut := sum(own > length for own in lengths):
        warnings.warn(
            f"site {site!r}: {cut} of {len(lengths)} texts have more than {length} tokens and are "
            "cut; say length= to keep more",
            stacklevel=4,
        )


def _put(
    table: Table, site: str, ids: Tensor, there: Tensor, vocabulary: tuple[str, ...]
) -> Table:
    rows = table.numbers
    return table.replace(
        sites={**table.sites, site: ids[rows]},
        observed={**table.observed, site: there[rows]},
        classes={**table.classes, site: vocabulary},
    )
