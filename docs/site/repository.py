"""Files of the repository outside ``docs/`` as pages, and links to them that hold on the site.

Pages link to each other and to files beside ``docs/`` as they lie in the checkout, so that the
links work wherever Markdown is read. Here each file that is linked to becomes a page, and every
link one between pages, which MkDocs then checks with its anchor.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

# Links of Markdown and addresses of raw HTML, but for those to other hosts and in the page.
LINKS = re.compile(
    r"(?P<before>\]\(|\bsrc=\")(?P<path>(?![a-z]+:|#)[^)\s\"#]+)(?P<anchor>#[^)\"]*)?"
)
FENCES = re.compile(r"(^```.*?^```\s*?$)", re.DOTALL | re.MULTILINE)
HREFS = re.compile(r"\bhref=\"(?P<path>(?![a-z]+:|#)[^\"#]+)(?P<anchor>#[^\"]*)?\"")
WHOLE = (".md", ".png")  # shown as they are; other files as code
LOG = logging.getLogger("mkdocs.hooks.repository")  # a warning stops a strict build


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside ``docs/`` that any page links to."""
    root, docs = _folders(config)
    to_read = [Path(f.abs_src_path) for f in files if f.src_uri.endswith(".md") and f.abs_src_path]
    made: set[Path] = set()
    while to_read:
        page = to_read.pop()
        for target in _targets(page):
            if target in made or docs in target.parents or not target.is_file():
                continue
            made.add(target)
            files.append(_page(target, root, config))
            if target.suffix == ".md":
                to_read.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links of one page to the pages of the site."""
    root, docs = _folders(config)
    source = _source(page.file.src_uri, root, docs)
    here = posixpath.dirname(page.file.src_uri)

    def lead(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / found["path"]))
        if not target.is_file():
            return found[0]  # MkDocs says so
        inside = docs in target.parents
        uri = target.relative_to(docs).as_posix() if inside else _uri(target, root)
        return f"{found['before']}{posixpath.relpath(uri, here)}{found['anchor'] or ''}"

    return _outside_code(markdown, lambda text: LINKS.sub(lead, text))


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links of the tutorials, which come as HTML, to the pages of the site."""
    if not page.file.src_uri.startswith("tutorials/") or page.file.src_uri.endswith(".md"):
        return html
    root, docs = _folders(config)

    def lead(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(docs / "tutorials" / found["path"]))
        inside = docs in target.parents
        uri = target.relative_to(docs).as_posix() if inside else _uri(target, root)
        there = files.get_file_from_path(uri)
        if there is None:
            LOG.warning("%s links to %s, which is no page", page.file.src_uri, found["path"])
            return found[0]
        return f'href="{get_relative_url(there.url, page.file.url)}{found["anchor"] or ""}"'

    return HREFS.sub(lead, html)


def _folders(config: MkDocsConfig) -> tuple[Path, Path]:
    docs = Path(config.docs_dir).resolve()
    return docs.parent, docs


def _targets(page: Path) -> Iterator[Path]:
    text = FENCES.sub("", page.read_text())
    for found in LINKS.finditer(text):
        yield Path(os.path.normpath(page.parent / found["path"]))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts = FENCES.split(markdown)
    return "".join(change(part) if place % 2 == 0 else part for place, part in enumerate(parts))


def _uri(path: Path, root: Path) -> str:
    """Where a file of the repository stands on the site."""
    name = path.relative_to(root).as_posix()
    if path.name == "README.md" and path.parent != root:
        name = f"{path.parent.relative_to(root).as_posix()}.md"
    return f"repository/{name}" if path.suffix in WHOLE else f"repository/{name}.md"


def _source(uri: str, root: Path, docs: Path) -> Path:
    """The file that a page was made of; its place in ``docs/`` where it is made of none."""
    if not uri.startswith("repository/"):
        return docs / uri
    name = uri.removeprefix("repository/")
    places = (root / name, root / name.removesuffix(".md"), root / name[:-3] / "README.md")
    return next(place for place in places if place.is_file())


def _page(path: Path, root: Path, config: MkDocsConfig) -> File:
    uri = _uri(path, root)
    if path.suffix in WHOLE:
        return File.generated(config, uri, abs_src_path=str(path))
    title = path.relative_to(root).as_posix()
    language = path.suffix.removeprefix(".")
    text = f"# {title}\n\n````{language}\n{path.read_text()}````\n"
    return File.generated(config, uri, content=text)
