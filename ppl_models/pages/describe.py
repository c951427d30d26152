"""What a paper's pair is, as plain values and as a page of the docs, read off card and config.

    python -m ppl_models.pages.describe docs/

writes ``docs/papers/<name>.md`` for every paper (those of metrics by
:mod:`ppl_models.pages.metric_page`), ``docs/papers/index.md``, ``docs/methods.md``,
the table of objectives and algorithms, the index that lists are made of
(:mod:`ppl_models.pages.index`), and, where ``reproduction.json`` stands beside the docs'
folder, what it holds of each paper into its page and all of it into ``REPRODUCTION.md``.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ppl_models import catalogue
from ppl_models.config import plain
from ppl_models.files import write_atomically
from ppl_models.inference.objectives.stage import Training
from ppl_models.pages import index as listing, methods, metric_page, reproduction
from ppl_models.pages.diagram import diagrams
from ppl_models.pages.ideas import IDEAS
from ppl_models.pages.metric_papers import METRIC_PAPERS
from ppl_models.pages.tables import link, picture, points, table
from ppl_models.pair import Pair

INDEX = "index"
ALWAYS = ("epochs", "batch_size", "learning_rate")  # shown though they are the defaults


def describe(name: str, pair: Pair | None = None) -> dict[str, Any]:
    """Card, story, settings and training of a pair, as values that JSON can hold.

    Args:
        name: See :func:`ppl_models.catalogue.get`.
        pair: Its :func:`drawn_pair`, if that is built already.

    Returns:
        The card's entries; ``module``, where the pair is written; ``about``, the first line of
        its docstring; ``story``, the rest; ``config``, a dictionary per setting with ``name``,
        ``default``, ``doc``, ``from_data``, ``shape_from``, ``choices``, ``minimum`` and
        ``prior_of``;
        ``stages``, a dictionary per stage of training with ``name``, ``objective``, ``formula``
        and ``training``.

    Raises:
        ValueError: If there is no such pair.
    """
    cls = catalogue.get(name)
    about, _, story = _docstring(cls).partition("\n")
    pair = pair or drawn_pair(name)
    card = dataclasses.asdict(cls.card)
    for sites in ("data", "latents"):  # and those whose names hang on settings
        card[sites] = {**getattr(pair.card, sites), **card[sites]}
    config = [
        {"name": field.name, "default": field.default, **field.metadata}
        for field in dataclasses.fields(cls.Config)
    ]
    stages = [
        {
            "name": stage.name,
            "objective": repr(stage.objective),
            "formula": str(stage.objective),
            "training": dataclasses.asdict(stage.training),
        }
        for stage in pair.stages()
    ]
    return {
        **plain(card),
        "module": cls.__module__,
        "about": about.strip(),
        "story": inspect.cleandoc(story),
        "config": plain(config),
        "stages": plain(stages),
    }


def drawn_pair(name: str) -> Pair:
    """A pair with its defaults, but for those of which its card says that they are not drawn."""
    return catalogue.build(name, **catalogue.get(name).card.drawn)


def page(name: str, records: reproduction.Records | None = None) -> str:
    """The docs page of a pair, as Markdown.

    Args:
        name: See :func:`ppl_models.catalogue.get`.
        records: What was measured of all papers, see :mod:`ppl_models.pages.reproduction`.
    """
    records = records or {}
    pair = drawn_pair(name)
    d = describe(name, pair)
    settings = [
        (f"`{s['name']}`", f"`{value_told(s['default'])}`", s["doc"], allowed(s))
        for s in d["config"]
    ]
    stages = [
        (s["name"], f"`{s['objective']}`", f"`{s['formula']}`", options_told(s["training"]))
        for s in d["stages"]
    ]
    story, guide = diagrams(pair)
    of = ", ".join(f"`{key}` {value_told(value)}" for key, value in d["drawn"].items())
    parts = [
        f"# {d['name']}",
        d["about"],
        f"{d['authors']}. *{d['title']}*. {d['year']}. {link(d['arxiv'])}".rstrip(),
        *_idea(name),
        *picture(name, d["picture"]),
        "## Sites",
        table(("Site", "Meaning", "Kind"), [(f"`{site}`", *told) for site, *told in sites(d)]),
        *density_told(d["density"]),
        "## Story and guide",
        f"```\n{d['story']}\n```",
        "## Plate diagrams",
        f"The story{' with ' + of if of else ''}; shaded sites are data, dashed ones are "
        "observed in some rows.",
        f"```mermaid\n{story}\n```",
        *(("The guide.", f"```mermaid\n{guide}\n```") if guide else ()),
        "## Limits",
        points(d["limits"]),
        *reproduction.measured_here(name, records),
        "## Settings",
        table(("Setting", "Default", "Meaning", "Allowed"), settings),
        "## Training",
        table(("Stage", "Objective", "Makes large", "Options"), stages),
        "Tried with the bounds " + ", ".join(f"`{o}`" for o in d["objectives"]) + ".",
        "## Departures from the paper",
        points(d["departs"]),
        "## On your own data",
        _own_data(name, pair),
        _sources(name, d["module"], reproduction.claims_files(name, records)),
    ]
    return "\n\n".join(parts) + "\n"


def sites(described: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, meaning and kind of the sites of a pair, as :func:`describe` tells of it."""
    labels = described["labels"]
    return [
        *((site, what, "data") for site, what in described["data"].items()),
        *((site, what, "covariate") for site, what in described["covariates"].items()),
        *(
            (site, what, "observed or latent" if site in labels else "latent")
            for site, what in described["latents"].items()
        ),
    ]


def _idea(name: str) -> list[str]:
    """Problem and idea of a paper of the catalogue; nothing of a pair of a user's own."""
    if name not in IDEAS:
        return []
    problem, idea = IDEAS[name]
    return ["## Problem and idea", f"**The problem.** {problem}", f"**The idea.** {idea}"]


def density_told(density: str) -> list[str]:
    """What rows lack where their density is none of data."""
    if density == "data":
        return []
    of = "of codes, not of data" if density == "codes" else "none of data, which are made"
    return [f"The density is {of}: rows have no evidence, k-hat or LOO."]


def _sources(name: str, module: str, files: Sequence[str]) -> str:
    if module.startswith(catalogue.FROM_FILE):
        return f"Written in `{name.rpartition(':')[0]}`."
    tests = ", ".join(f"[{file}](../../{file})" for file in files)
    path = f"{module.replace('.', '/')}.py"
    return f"Written in [{path}](../../{path})" + (f"; claims in {tests}." if tests else ".")


def _own_data(name: str, pair: Pair) -> str:
    card = pair.card
    sites = [*card.given, *card.labels]
    arrays = ", ".join(f"{site}={site}" for site in sites)
    missing = f"; -1 or NaN in {', '.join(card.labels)} is missing" if card.labels else ""
    lines = [
        f"# Arrays with a row per row{missing}.",
        f"rows = data.from_arrays({arrays})",
        f'pair = zoo.build("{name}", rows)',
        "run = inference.fit(pair, rows)",
        "idata = run.posterior(rows.test)",
    ]
    shell = f"ppl-models fit {name} --data rows.npz --out runs/{name}"
    return (
        "```python\nimport ppl_models as zoo\nfrom ppl_models import data, inference\n\n"
        + "\n".join(lines)
        + f"\n```\n\nor, with the same arrays in `rows.npz`, `{shell}`."
    )


def index(names: Iterable[str]) -> str:
    """The docs page that lists pairs, as Markdown."""
    rows = []
    for name in names:
        card = catalogue.get(name).card
        paper = f"{card.title} ({card.year})"
        rows.append((f"[{name}]({name}.md)", card.task, paper))
    note = "Written by `python -m ppl_models.pages.describe docs/`."
    parts = [
        "# Papers",
        table(("Name", "Task", "Paper"), rows),
        "## Metrics",
        "Papers that are metrics, of any pair or of your own codes and images.",
        metric_page.index(),
        note,
    ]
    return "\n\n".join(parts) + "\n"


def pages(records: reproduction.Records) -> dict[str, str]:
    """All pages by file name: one per paper, metrics included, and the index.

    Args:
        records: Of ``reproduction.json``.
    """
    names = sorted(catalogue.PAPERS)
    return {
        **{f"{name}.md": page(name, records) for name in names},
        **{f"{name}.md": metric_page.page(name, records) for name in METRIC_PAPERS},
        f"{INDEX}.md": index(names),
    }


def write(docs: Path) -> None:
    """Write all pages under ``docs/papers``, ``docs/methods.md`` and ``REPRODUCTION.md``.

    Args:
        docs: The docs' folder.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if not docs.is_dir():
        raise FileNotFoundError(f"{docs} does not exist, expected the docs' folder")
    folder = docs / "papers"
    folder.mkdir(exist_ok=True)
    records = reproduction.read(docs.parent / reproduction.RECORDS)
    for name, text in pages(records).items():
        _write(folder / name, text)
    if records:
        _write(docs.parent / reproduction.PAGE, reproduction.page(records))
    _write(docs / "methods.md", methods.page(methods.rows()))


def _write(path: Path, text: str) -> None:
    def put(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, put)


def _docstring(cls: type[Pair]) -> str:
    return sys.modules[cls.__module__].__doc__ or cls.__doc__ or cls.card.task


def allowed(setting: dict[str, Any]) -> str:
    """What a setting of :func:`describe` may be, in words."""
    parts = []
    if setting["from_data"]:
        parts.append(f"taken from the data's `{setting['from_data']}`")
    if setting["shape_from"]:
        parts.append(f"taken from the shape of the data's `{setting['shape_from']}`")
    if setting["choices"]:
        parts.append(", ".join(f"`{choice}`" for choice in setting["choices"]))
    if setting["prior_of"]:
        parts.append("or probabilities above 0 that sum to 1")
    if setting["minimum"] is not None:
        parts.append(f"at least {setting['minimum']:g}")
    return "; ".join(parts)


def options_told(training: dict[str, Any]) -> str:
    """Options of a stage that differ from their defaults, after how long and how fast."""
    usual = dataclasses.asdict(Training())
    return ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else format(value, 'g')}"
        for key, value in training.items()
        if value and (key in ALWAYS or value != usual[key])
    )


def value_told(value: Any) -> str:
    """The default of a setting of :func:`describe`."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def main() -> None:
    """Write the pages into the folder given as the one argument, and the index of lists."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ppl_models.pages.describe DOCS_FOLDER")
    try:
        write(Path(sys.argv[1]))
        records = reproduction.read(Path(sys.argv[1]).parent / reproduction.RECORDS)
        _write(listing.INDEX, listing.text(listing.made(records)))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
