"""Where the files of a data set are looked for, and what to say when they are nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppl_models.data.tables.own_arrays import Splits, build
from ppl_models.data.tables.table import Dataset

TIMEOUT = (2, 20)  # seconds to connect to one address, and between two pieces of an answer


def folders(name: str, root: str | Path | None = None) -> list[Path]:
    """Folders in which a set's files may be, in order: ``root`` alone where it is given."""
    import pooch

    if root is not None:
        return [Path(root)]
    own = os.environ.get("PPL_DATA")
    shared = [Path(own) / name, Path(own)] if own else []
    return [*shared, Path(pooch.os_cache("ppl-models")) / name]


def find(
    name: str, choices: Sequence[Sequence[str]], root: str | Path | None = None
) -> list[Path]:
    """The files of a set.

    Args:
        name: Name of the set, and of its folder.
        choices: Names or patterns of the files; any one of the choices will do, each pattern
            must match. An earlier choice wins in the same folder.
        root: Folder to look in; ``$PPL_DATA/name``, ``$PPL_DATA`` and the user's cache if None.

    Returns:
        The files of each pattern, sorted by name.

    Raises:
        FileNotFoundError: If they are nowhere, saying which ones to put where.
    """
    places = folders(name, root)
    for folder in places:
        for patterns in choices:
            found = [
                sorted(p for p in folder.glob(pattern) if p.is_file()) for pattern in patterns
            ]
            if all(found):
                return [path for paths in found for path in paths]
    wanted = "; or ".join(", ".join(patterns) for patterns in choices)
    own = "" if root is not None else " or name their folder with root="
    raise FileNotFoundError(f"{name} is not there: put {wanted} into {places[0]}{own}")


def download(files: Mapping[str, tuple[str, str]], folder: Path) -> str:
    """Fetch files whose checksums are known.

    Args:
        files: Address and MD5 by file name.
        folder: Where they go.

    Returns:
        What failed; empty if nothing did.
    """
    # Pooch loads to a temporary name and compares the checksum before it renames.
    import pooch

    for name, (address, md5) in files.items():
        try:
            pooch.retrieve(
                address,
                known_hash=f"md5:{md5}",
                fname=name,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
            )
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            # A wrong checksum explains itself; what requests says of a lost network is long.
            why = str(error).splitlines()[0] if type(error) is ValueError else ""
            return f"downloading {address} failed, {why or type(error).__name__}"
    return ""


def find_or_download(
    name: str,
    choices: Sequence[Sequence[str]],
    official: Mapping[str, tuple[str, str]],
    root: str | Path | None = None,
) -> list[Path]:
    """As :func:`find`; what is nowhere is fetched into the user's cache unless ``root`` is given.

    Raises:
        FileNotFoundError: If that fails, saying why and which files to put where.
    """
    try:
        return find(name, choices, root)
    except FileNotFoundError as missing:
        if root is not None:
            raise
        cache = folders(name)[-1]
        if reason := download(official, cache):
            raise FileNotFoundError(f"{missing}; {reason}") from None
        return find(name, choices, cache)


def built(
    path: Path, sites: Mapping[str, Any], *, splits: Splits, classes: Any, **options: Any
) -> Dataset:
    """A data set of the arrays of a file, one for each site; its recipe leads to the file."""
    said = {"splits": splits, **({"classes": classes} if classes else {})}
    with naming(path):
        return build(
            sites,
            name=path.stem,
            splits=splits,
            classes=classes,
            options=said,
            source=str(path),
            **options,
        )


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors about what was read from a file name the file, too."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from None


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is one ValueError that names the file.

    Args:
        path: The file.
        what: What it should be, such as ``"an npz with an array 'images'"``.
    """
    try:
        yield
    except Exception as error:  # a damaged file fails anywhere inside the libraries
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be read, expected {what} ({why})") from None
