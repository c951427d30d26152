"""``ppl-models data list | show NAME | build NAME | preview NAME``."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models import data
from ppl_models.commands.flags import (
    Parser,
    UsageError,
    add_loader,
    argument_texts,
    chosen,
    positive,
    taking,
)
from ppl_models.commands.output import say_json, tell
from ppl_models.commands.terminal import Columns, Heading, put
from ppl_models.config import unknown
from ppl_models.pages import index

if TYPE_CHECKING:
    from ppl_models.data import Dataset, Table

ACTIONS = {
    "list": "names of the data sets",
    "show": "what a set is and which options it has",
    "build": "write a set to an h5 file",
    "preview": "counts, ranges and a contact sheet of some rows",
}
Options = argparse.Namespace


def command(parser: Parser, rest: list[str]) -> Callable[[Options], int]:
    """Flags of ``ppl-models data`` and what it runs."""
    words = [word for word in rest if not word.startswith("-")]
    parser.description = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    if not words and ("-h" in rest or "--help" in rest):
        parser.add_argument("action", choices=ACTIONS)
        return lambda options: 0
    if not words:
        raise UsageError(f"data needs an action, one of {', '.join(ACTIONS)}")
    action = words[0]
    if action not in ACTIONS:
        raise UsageError(unknown("action", action, ACTIONS))
    parser.add_argument("action", metavar=action, help=ACTIONS[action])
    if action == "list":
        return _list
    parser.add_argument("name", metavar="NAME", help="one of ppl-models data list, or a file")
    if action == "show":
        return _show
    if action == "build":
        parser.add_argument("--out", type=Path, help="file (default: the folder of built sets)")
        parser.add_argument("--whole", action="store_true", help="every combination of factors")
        parser.add_argument("--compress", action="store_true", help="smaller, but slower to read")
    else:
        parser.add_argument("--out", type=Path, help="PNG file (default NAME.png)")
        parser.add_argument("--images", type=positive, default=36, help="images (default 36)")
    names: dict[str, str] = {}
    if len(words) > 1:
        names = add_loader(parser, data.loader(words[1]), f"options of {words[1]}")
        if "data_seed" in names:  # no other seed is about
            parser.add_argument("--seed", dest="data_seed", type=int, default=argparse.SUPPRESS)
    run = _build if action == "build" else _preview

    def with_options(options: Options) -> int:
        with taking(options.name):
            return run(options, {names[n]: v for n, v in chosen(options, list(names)).items()})

    return with_options


def _list(options: Options) -> int:
    sets = index.read()["data"]
    if options.json:
        say_json({name: told["about"] for name, told in sets.items()})
        return 0
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, told in sets.items():
        groups.setdefault(told["family"], []).append((name, told["about"]))
    put(Columns(("name", "what it is"), groups, cut=True))
    return 0


def _show(options: Options) -> int:
    loader = data.loader(options.name)
    text = inspect.getdoc(loader) or ""
    known = {n: p.default for n, p in inspect.signature(loader).parameters.items()}
    if options.json:
        say_json({"name": options.name, "about": text, "options": known})
        return 0
    texts = argument_texts(loader)
    rows = [
        (f"--{name.replace('_', '-')}", str(default), texts.get(name, ""))
        for name, default in known.items()
    ]
    paragraphs = map(index.prose, text.partition("\nArgs:\n")[0].split("\n\n"))
    put(Heading(options.name), *paragraphs, Columns(("option", "default", "meaning"), {"": rows}))
    return 0


def _build(options: Options, load: dict[str, Any]) -> int:
    from ppl_models.data.store import built_sets

    def make() -> Any:
        if not options.whole:
            return data.load(options.name, **load)
        own = {name: value for name, value in load.items() if name != "seed"}
        return data.factor_data(options.name, **own).whole(seed=load.get("seed", 0))

    if options.out is not None:
        dataset = data.open(data.write(make(), options.out, options.compress))
        path = options.out
    else:
        name = Path(options.name).stem
        # Made of other files, or of these once they have changed, it is another set.
        files = [built_sets.identity(path) for path in data.sources(options.name, **load)]
        asked = {**load, "whole": options.whole, "compress": options.compress, "files": files}
        dataset = built_sets.cached(name, asked, make, compress=options.compress)
        places = (folder / built_sets.file_name(name, asked) for folder in built_sets.folders())
        path = next(place for place in places if place.is_file())
    report = {"file": str(path), **_counts(dataset), "digest": dataset.recipe["digest"]}
    tell(report, options.json)
    return 0


def _preview(options: Options, load: dict[str, Any]) -> int:
    dataset = data.load(options.name, **load)
    report: dict[str, Any] = _counts(dataset)
    parts = (dataset.train, dataset.validation, dataset.test)
    table = next(part for part in parts if len(part))
    for site in table.sites:
        report[site] = _range(table, site)
    if table.shapes:
        from ppl_models.data.render.contact_sheet import save, strips

        out = options.out or Path(f"{Path(options.name).stem}.png")
        save(out, strips(table, options.images), zoom=2)
        report["contact sheet"] = str(out)
    tell(report, options.json)
    return 0


def _counts(dataset: Dataset) -> dict[str, Any]:
    return {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")}


def _range(table: Table, site: str) -> str:
    """Range of a vector over at most 1,000 rows, counts of a label's classes over all."""
    import torch

    value = table.sites[site]
    rows = table.counts[site]
    if not value.is_floating_point():
        seen = value[:] if site not in table.observed else value[table.observed[site]]
        counts = seen.flatten().bincount(minlength=table.sizes[site]).tolist()
        named = zip(table.classes[site][:12], counts, strict=False)
        more = "" if len(counts) <= 12 else f", ... of {len(counts)} classes"
        return f"{rows} rows: " + ", ".join(f"{name} {n}" for name, n in named) + more
    known = torch.arange(len(table))
    if site in table.observed:
        known = table.observed[site].nonzero().flatten()
    some = value[known[torch.linspace(0, len(known) - 1, min(1000, len(known))).long()]]
    return (
        f"{rows} rows of {tuple(table.shapes.get(site, value.shape[1:]))}: "
        f"{some.min():.3g} to {some.max():.3g}, mean {some.mean():.3g}"
    )
