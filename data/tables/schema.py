"""What a table's sites are, kept from the data that a pair was fitted on for those that follow.

A class is known by its name and a number of a vector by the name of its column, not by where
they stand: other data may list both in another order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ppl_models.config import unknown
from ppl_models.data.tables import image_shapes
from ppl_models.data.tables.lazy_column import Values, is_lazy
from ppl_models.data.tables.table import BY_SITE, Table
from ppl_models.elements import THERE

KINDS = ("vector", "label")


@dataclass(frozen=True)
class SiteSchema:
    """One site of a table.

    Attributes:
        kind: ``"vector"`` of numbers, or ``"label"``.
        shape: Shape of a row.
        dtype: Type of the numbers, such as ``"float32"``.
        classes: Names of a label's classes, in the order of their codes.
        columns: Names of a vector's numbers, where it has any.
        image: Shape of the image that a vector is, where it is one.
        units: Where they are given.
        role: What it is where it is no plain observation or label, such as ``"covariate"``.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    image: tuple[int, ...] = ()
    units: str = ""
    role: str = ""


@dataclass(frozen=True)
class Schema:
    """The sites of a table, by name; later tables are brought to it by :meth:`bring`."""

    sites: Mapping[str, SiteSchema] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        table: Table,
        sites: Iterable[str] | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> Schema:
        """The schema of a table.

        Args:
            table: The table.
            sites: Those that matter; what the table lacks is left out. All by default.
            roles: Roles by site, as a data set has them.
        """
        wanted = table.sites if sites is None else [s for s in sites if s in table.sites]
        return cls({site: _site(table, site, (roles or {}).get(site, "")) for site in wanted})

    def filled(self, other: Schema) -> Schema:
        """This schema, with what only the other one knows."""
        known = dict(self.sites)
        for name, new in other.sites.items():
            old = known.get(name, new)
            told = {part: getattr(old, part) or getattr(new, part) for part in _KNOWLEDGE}
            known[name] = dataclasses.replace(old, **told)
        return Schema(known)

    def of_images(
        self, name: str, site: str, shape: tuple[int, ...], elements: bool = False
    ) -> Schema:
        """This schema of a table, which has to have images of a shape at a site.

        Args:
            name: Name of the table.
            site: The site.
            shape: ``(H, W, C)``, as the pair was built for.
            elements: Whether a row is a set of images.

        Raises:
            ValueError: If its images have another, or its vectors have no such length.
        """
        own = self.sites[site]
        fits = image_shapes.same(own.image, shape) if own.image else True
        if own.shape[elements:] != (math.prod(shape),) or not fits:
            rows = f"images of shape {own.image}" if own.image else f"rows of shape {own.shape}"
            raise ValueError(
                f"site {site!r} of {name} has {rows}, but the pair was built for images of {shape}"
            )
        told = dataclasses.replace(own, image=own.image or (() if elements else shape))
        return Schema({**self.sites, site: told})

    def of_numbers(self, sites: Iterable[str]) -> Schema:
        """This schema, in which sites of one column are one number per row instead.

        Args:
            sites: Their names; others of them stay as they are.
        """
        single = [name for name in sites if name in self.sites and self.sites[name].shape == (1,)]
        told = {n: dataclasses.replace(self.sites[n], shape=(), columns=()) for n in single}
        return Schema({**self.sites, **told})

    def bring(self, table: Table) -> Table:
        """The table with its classes coded, its columns ordered and its numbers single, as here.

        Sites that are not here stay as they are, and so does a table that fits already.

        Args:
            table: Any table; its row names and numbers stay.

        Raises:
            ValueError: In one line that names site, row, class or column, if a label has a class
                that is not here, a column is missing or one too many, or shapes or units differ.
        """
        changed: dict[str, Values] = {}
        known = {part: dict(getattr(table, part)) for part in BY_SITE}
        for name, site in self.sites.items():
            if name not in table.sites:
                continue
            where = f"site {name!r} of {table.name}"
            form = _site(table, name)
            if site.kind == form.kind == "vector" and (site.shape, form.shape) == ((), (1,)):
                changed[name] = table.sites[name][:].squeeze(1)
                known["columns"].pop(name, None)
                form = dataclasses.replace(form, shape=(), columns=())
            # Sets may have other numbers of elements than those of the fit.
            of_sets = name + THERE in self.sites or name.endswith(THERE)
            _check_form(where, site, form, of_sets)
            if site.kind == "label":
                if table.classes[name] != site.classes:
                    changed[name] = _recoded(table, name, site.classes)
                    known["classes"][name] = site.classes
            elif site.columns:
                own = table.columns.get(name, ())
                if own and own != site.columns:
                    changed[name] = _ordered(where, table.sites[name], own, site.columns)
                known["columns"][name] = site.columns
            if site.image:
                known["shapes"][name] = site.image
            if site.units:
                known["units"][name] = site.units
        if changed:
            return table.replace(sites={**table.sites, **changed}, **known)
        return table.known_by(**known)

    def plain(self) -> dict[str, Any]:
        """As JSON has it; what is empty is left out."""
        return {
            name: {part: value for part, value in dataclasses.asdict(site).items() if value}
            for name, site in self.sites.items()
        }

    @classmethod
    def read(cls, plain: Any) -> Schema:
        """From :meth:`plain`.

        Raises:
            ValueError: If it is no schema, naming what is wrong.
        """
        if not isinstance(plain, dict):
            raise ValueError(f"the schema is {type(plain).__name__}, expected sites by name")
        return cls({name: _read_site(name, site) for name, site in plain.items()})


_KNOWLEDGE = ("classes", "columns", "image", "units", "role")  # what may be missing at first


def _site(table: Table, name: str, role: str = "") -> SiteSchema:
    value = table.sites[name]
    return SiteSchema(
        kind="vector" if value.is_floating_point() else "label",
        shape=tuple(value.shape[1:]),
        dtype=str(value.dtype).removeprefix("torch."),
        classes=table.classes.get(name, ()),
        columns=table.columns.get(name, ()),
        image=table.shapes.get(name, ()),
        units=table.units.get(name, ""),
        role=role,
    )


def _check_form(where: str, site: SiteSchema, own: SiteSchema, of_sets: bool) -> None:
    if own.kind != site.kind:
        raise ValueError(f"{where} is a {own.kind}, but the pair was fitted on a {site.kind}")
    if own.columns and site.columns:
        _check_columns(where, own.columns, site.columns)
    found, wanted = (s.shape[of_sets:] for s in (own, site))
    if found != wanted or len(own.shape) != len(site.shape):
        raise ValueError(
            f"{where} has rows of shape {own.shape}, but the pair was fitted on {site.shape}"
        )
    if own.image and site.image and not image_shapes.same(own.image, site.image):
        raise ValueError(
            f"{where} has images of shape {own.image}, but the pair was fitted on {site.image}"
        )
    if own.units and site.units and own.units != site.units:
        raise ValueError(f"{where} has units {own.units}, but the pair was fitted on {site.units}")


def _check_columns(where: str, own: Sequence[str], wanted: Sequence[str]) -> None:
    there, known = set(own), set(wanted)
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(
            f"{where} lacks {_count(missing)} that the pair was fitted on; it has {_some(own)}"
        )
    if spare := [name for name in own if name not in known]:
        raise ValueError(
            f"{where} has {_count(spare)} that the pair was not fitted on; expected "
            f"{_some(wanted)}"
        )


def _count(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the column {names[0]!r}{more}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")


def _recoded(table: Table, name: str, classes: Sequence[str]) -> Values:
    """Labels in the codes of these classes; those that are hidden stay -1."""
    code = {own: place for place, own in enumerate(classes)}
    own = table.classes[name]
    values = table.sites[name][:]
    to = torch.tensor([*(code.get(c, len(classes)) for c in own), -1], device=values.device)
    coded = to[values]
    bad = coded == len(classes)
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        row = int(table.numbers[place[0]])
        raise ValueError(
            f"site {name!r}, row {row} of {table.name}: "
            f"{unknown('class', own[int(values[tuple(place)])], classes)}, which are those that "
            "the pair was fitted on"
        )
    return coded


def _ordered(where: str, values: Values, own: Sequence[str], wanted: Sequence[str]) -> Values:
    place = {name: at for at, name in enumerate(own)}
    order = torch.tensor([place[name] for name in wanted])
    if is_lazy(values):
        return values.reordered(order)
    return values[:].index_select(1, order.to(values.device))


def _read_site(name: str, plain: Any) -> SiteSchema:
    kinds = {
        f.name: int if f.name in ("shape", "image") else str
        for f in dataclasses.fields(SiteSchema)
    }
    lists = ("shape", "classes", "columns", "image")
    if not isinstance(plain, dict) or not {"kind", "dtype"} <= plain.keys() <= kinds.keys():
        raise ValueError(f"site {name!r} of the schema is damaged, expected {', '.join(kinds)}")
    for part, value in plain.items():
        entries = value if isinstance(value, list) else [value]
        if isinstance(value, list) != (part in lists) or not all(
            type(entry) is kinds[part] for entry in entries
        ):
            raise ValueError(f"site {name!r} of the schema: its {part} is damaged")
    if plain["kind"] not in KINDS:
        raise ValueError(f"site {name!r} of the schema: {unknown('kind', plain['kind'], KINDS)}")
    own: dict[str, Any] = {
        part: tuple(value) if part in lists else value for part, value in plain.items()
    }
    return SiteSchema(**{"shape": (), **own})
