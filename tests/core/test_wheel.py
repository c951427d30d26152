"""The wheel: all packages are in it, and none of them collides with a user's own modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = ("data", "guides", "inference", "ppl_models")

IMPORT_ALL = """
import importlib, pkgutil, sys
import ppl_models
assert "torch" not in sys.modules, "import ppl_models alone imports torch"
assert ppl_models.__file__.startswith(sys.argv[1]), ppl_models.__file__
for module in pkgutil.walk_packages(ppl_models.__path__, "ppl_models."):
    if module.name != "ppl_models.__main__":  # importing it runs the command line
        print(importlib.import_module(module.name).__name__)
import data, guides, inference
assert [m.MINE for m in (data, guides, inference)] == ["data", "guides", "inference"]
"""


def folder_of(package):
    """Where a package's code is in the tree, by the longest entry of package-dir."""
    table = PROJECT["package-dir"]
    parent = max((p for p in table if f"{package}.".startswith(f"{p}.")), key=len)
    return ROOT / table[parent] / package.removeprefix(parent).lstrip(".").replace(".", "/")


def test_every_folder_with_code_is_listed_as_a_package():
    listed = {folder_of(package) for package in PROJECT["packages"]}
    found = {p.parent for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    assert listed == found
    assert all((folder / "__init__.py").exists() for folder in listed)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds nothing but the installed wheel."""
    for tool in ("build", "setuptools"):
        try:
            metadata.version(tool)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{tool} is not installed: pip install -e '.[dev]'")
    where = tmp_path_factory.mktemp("wheel")
    tree = where / "tree"
    tree.mkdir()
    # A copy, so that building leaves nothing in the working tree.
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    python = [sys.executable, "-m"]
    build = [*python, "build", "--wheel", "--no-isolation", "--outdir", where, tree]
    run(build, cwd=where)
    (wheel,) = where.glob("*.whl")
    target = where / "installed"
    run([*python, "pip", "install", "-q", "--no-deps", "--target", target, wheel], cwd=where)
    return target


def run(command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_of_the_wheel_imports_beside_modules_of_the_same_names(installed, tmp_path):
    for name in ("data", "guides", "inference"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    script = tmp_path / "mine.py"
    script.write_text(f"import sys\nsys.path.insert(1, {str(installed)!r})\n{IMPORT_ALL}")
    imported = set(run([sys.executable, script, installed], cwd=tmp_path).split())
    expected = {
        ".".join((package, path.stem)).removesuffix(".__init__")
        for package in PROJECT["packages"]
        for path in folder_of(package).glob("*.py")
    }
    assert imported == expected - {"ppl_models", "ppl_models.__main__"}


def test_the_wheel_holds_nothing_but_the_package(installed):
    for file in ("py.typed", "pages/index.json"):
        assert (installed / "ppl_models" / file).exists()
    top = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert top - {"bin"} == {"ppl_models"}
    (info,) = installed.glob("*.dist-info")
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
