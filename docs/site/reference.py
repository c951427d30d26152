"""The reference: a page for each room, of the public names that the packages' faces list.

Faces are read and not imported, so that the site builds without torch. As an editable install
maps four folders to one import name, which no static reader follows, they are linked to where
they install, under ``build/packages``.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "packages"
ELSEWHERE = ("data", "guides", "inference")  # beside ppl_models/, and in it once installed
FOLDERS = {
    "ppl_models": "ppl_models",
    "ppl_models.data": "data",
    "ppl_models.guides": "guides",
    "ppl_models.inference": "inference",
    "ppl_models.inference.metrics": "inference/metrics",
    "ppl_models.inference.plots": "inference/plots",
    "ppl_models.testing": "ppl_models/testing",
}
# Page: title, face, and the rooms of the face that stand on it (all that are on no other).
PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "core": ("Pairs, batches, cards", "ppl_models", ()),
    "data": ("Data", "ppl_models.data", ()),
    "streams": ("Order and views of rows", "ppl_models.data", ("streams", "store")),
    "guides": ("Guides", "ppl_models.guides", ()),
    "objectives": ("Objectives", "ppl_models.inference", ("objectives",)),
    "training": ("Training", "ppl_models.inference", ("training",)),
    "posterior": ("Posterior and predictions", "ppl_models.inference", ("posterior", "traces")),
    "sampling": ("Algorithms without training", "ppl_models.inference", ("sampling",)),
    "diagnostics": ("Diagnostics", "ppl_models.inference", ("diagnostics",)),
    "inference": ("Other names of inference", "ppl_models.inference", ()),
    "metrics": ("Metrics", "ppl_models.inference.metrics", ()),
    "plots": ("Plots", "ppl_models.inference.plots", ()),
    "testing": ("Tests of a pair", "ppl_models.testing", ()),
}
# What pairs of one's own import by its full name.
MODULES = {
    "parts": (
        "Networks and parts of stories",
        (
            *("networks", "image_networks", "likelihoods", "interventions", "covariates"),
            *("parts.label_prior", "parts.scm", "parts.mechanisms"),
        ),
    )
}


def on_startup(command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
    """Link the packages to where they install."""
    package = PACKAGES / "ppl_models"
    package.mkdir(parents=True, exist_ok=True)
    sources = [*(ROOT / "ppl_models").iterdir(), *(ROOT / name for name in ELSEWHERE)]
    for link in package.iterdir():
        link.unlink()
    for source in sources:
        (package / source.name).symlink_to(source)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    texts = pages()
    rows = [
        f"- [{text.splitlines()[0].removeprefix('# ')}]({name}.md)" for name, text in texts.items()
    ]
    texts["index"] = (
        "# Reference\n\nPublic names, by the room that they stand in; `help(name)` says the "
        "same.\n\n" + "\n".join(rows) + "\n"
    )
    for name, text in texts.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Markdown of each page that has a name on it."""
    taken = [(face, room) for _, face, rooms in PAGES.values() for room in rooms]
    texts = {}
    for page, (title, face, rooms) in PAGES.items():
        names = [
            name
            for name, home in homes(face).items()
            if (home.split(".")[0] in rooms if rooms else (face, home.split(".")[0]) not in taken)
            and f"{face}.{name}" not in FOLDERS
        ]
        if names:
            entries = "\n\n".join(f"::: {face}.{name}" for name in sorted(names))
            texts[page] = f"# {title}\n\nNames of `{face}`.\n\n{entries}\n"
    for page, (title, modules) in MODULES.items():
        entries = "\n\n".join(f"::: ppl_models.{module}" for module in modules)
        texts[page] = f"# {title}\n\nModules that stories of your own import.\n\n{entries}\n"
    return texts


def homes(face: str) -> dict[str, str]:
    """The names that a face lists, and the modules that they stand in."""
    tree = ast.parse((ROOT / FOLDERS[face] / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise ValueError(f"{face} has no _HOMES")
