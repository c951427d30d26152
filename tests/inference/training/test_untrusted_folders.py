"""Folders from strangers: nothing that they name is run, nothing that they claim is reserved."""

from __future__ import annotations

import re
import resource
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from worlds import run_files

from ppl_models import catalogue, data, files, inference

EVIL = """
from pathlib import Path
Path({marker!r}).write_text("executed")
class Evil: pass
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_files.make(tmp_path_factory.mktemp("runs") / "m2")


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_to_disk", lambda path: None)  # thousands of files
    return shutil.copytree(whole, tmp_path / "run")


def said(use, *arguments):
    """What an error of a folder says; nothing if there is none."""
    try:
        use(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def refused(folder):
    with pytest.raises(inference.RunFolderError) as error:
        inference.load(folder)
    text = str(error.value)
    assert "\n" not in text and str(folder) in text
    return text.replace(f"{folder}/", "")


# ---- names -------------------------------------------------------------------------------


@pytest.fixture
def evil(tmp_path):
    (tmp_path / "dl").mkdir()
    marker = tmp_path / "marker"
    path = tmp_path / "dl" / "evil.py"
    path.write_text(EVIL.format(marker=str(marker)))
    return f"{path}:Evil", marker


@pytest.mark.long
def test_no_name_in_any_field_of_a_description_is_run(folder, evil):
    from ppl_models.pages import report, sections

    name, marker = evil
    description = run_files.described(folder)
    for path in run_files.entries(description):
        for planted in (name, "os:system"):
            run_files.rewrite(folder, run_files.put(description, path, planted))
            for use in (inference.load, lambda f: sections.fitted(report.read(f))):
                words = said(use, folder)
                assert not words or str(folder) in words, (path, words)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pair", "name", "objective", "data", "config_json", "card_json"])
def test_no_name_in_a_posterior_is_run(folder, evil, name):
    from ppl_models.inference.diagnostics.comparison import compare
    from ppl_models.inference.posterior.export import load, save
    from ppl_models.pages import report

    planted, marker = evil
    idata = load(folder / "posterior.nc")
    idata.posterior.load()
    idata.attrs[name] = planted
    save(idata, folder / "other.nc")
    try:
        report.render(report.read(folder / "other.nc"), 0)
        compare({"a": load(folder / "other.nc"), "b": load(folder / "posterior.nc")})
    except ValueError:
        pass
    assert not marker.exists()


def test_a_name_of_a_paper_elsewhere_does_not_open_the_door(folder, evil):
    """The posterior names a paper, and the description a file: neither is run for the story."""
    from ppl_models.pages import report

    name, marker = evil
    description = run_files.described(folder)
    for part in (description, description["identity"]):
        part["paper"] = name
    run_files.rewrite(folder, description)
    fit = report.read(folder)
    assert fit.run is None and fit.missing == f"name your pair: --pair {name}"
    report.render(fit, 0)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os:system", "ppl_models.semisupervised.m2:M2", "", 3, None, []])
def test_names_outside_the_catalogue_are_none(name):
    assert catalogue.published(name) is None


def test_names_in_the_catalogue_are_found():
    assert catalogue.published("m2") is catalogue.get("m2")


@pytest.mark.parametrize(
    "thing", [torch.nn.Linear(2, 2), {"model": {}, "f": print}, {"model": {"w": torch.device}}]
)
def test_a_state_holds_tensors_and_plain_values_alone(folder, thing):
    (folder / "state.pt").write_bytes(run_files.as_saved(thing))
    assert re.match(r"state.pt is damaged: it (names|holds) ", refused(folder))


def test_no_name_in_any_field_of_a_state_is_run(folder, evil):
    name, marker = evil
    state = torch.load(folder / "state.pt", weights_only=True)
    plain = {k: v for k, v in state.items() if k != "model"}
    for path in run_files.entries(plain):
        (folder / "state.pt").write_bytes(run_files.as_saved(run_files.put(state, path, name)))
        words = said(inference.load, folder)
        assert not words or str(folder) in words
    assert not marker.exists()


@pytest.mark.long
def test_no_name_in_any_field_of_a_built_set_is_run(tmp_path, evil):
    import contextlib
    import hashlib
    import json

    import h5py
    import numpy as np

    name, marker = evil
    path = data.write(data.load("digits", train=50, validation=5, test=5), tmp_path / "d.h5")
    with h5py.File(path) as file:
        header = json.loads(file["header"][()].tobytes())
    header["recipe"]["steps"] = [{"step": "supervise", "kept": {"y": 20}, "seed": 0}]
    for place in run_files.entries(header):
        raw = json.dumps(run_files.put(header, place, name)).encode()
        with h5py.File(path, "r+") as file:
            del file["header"]
            file["header"] = np.frombuffer(raw, np.uint8)
            file.attrs["sha256"] = hashlib.sha256(raw).hexdigest()
        with contextlib.suppress(Exception):  # what it says is the reader's matter
            data.remake(data.open(path).recipe)
        with contextlib.suppress(Exception):
            data.load(str(path))
    assert not marker.exists()


# ---- sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"), [("hidden", [40000, 40000]), ("latent", 10**9), ("data_dim", 10**12)]
)
def test_settings_that_claim_more_than_the_state_holds_reserve_nothing(folder, key, value):
    description = run_files.described(folder)
    for part in (description["config"], description["identity"]["config"]):
        part[key] = value
    run_files.rewrite(folder, description)
    state = torch.load(folder / "state.pt", weights_only=True)
    state["run"] = run_files.run_description.digest_of(description["identity"])
    (folder / "state.pt").write_bytes(run_files.as_saved(state))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert re.match(
        r"run.json does not fit m2: its settings need \d+ bytes of weights or more, but its state "
        r"has \d+$",
        refused(folder),
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize("claimed", [10**6, 2**40])
def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(folder, claimed):
    state = torch.load(folder / "state.pt", weights_only=True)
    state["rng"] = torch.zeros(259, dtype=torch.uint8)
    data = run_files.as_saved(state)
    if claimed == 10**6:  # torch writes so many bytes as a two-byte number
        data = data.replace(b"M\x03\x01t", b"M\xff\xfft")
    else:
        data = data.replace(b"M\x03\x01", b"M\xff\xff")
    body = data[: -run_files.state_file.COMMENT - 2] + b"\0\0"
    told = run_files.state_file.hashlib.sha256(body).hexdigest().encode()
    (folder / "state.pt").write_bytes(data[: -len(told)] + told)
    assert refused(folder).startswith("state.pt is damaged: ")


@pytest.mark.parametrize("packed", [True, False])
def test_members_are_stored_once_and_as_they_are(folder, packed):
    import io
    import zipfile

    whole = zipfile.ZipFile(folder / "state.pt")
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as made:
        for member in whole.namelist():
            made.writestr(member, whole.read(member))
        if packed:
            made.writestr("archive/data/99", bytes(10**8))
        else:
            with pytest.warns(UserWarning, match="Duplicate"):
                made.writestr(whole.namelist()[-1], b"x")
    (folder / "state.pt").write_bytes(buffer.getvalue())
    assert refused(folder) == (
        "state.pt is damaged: it has packed members, expected stored ones"
        if packed
        else "state.pt is damaged: it has two members of one name"
    )


# ---- kinds -------------------------------------------------------------------------------

WRONG = (None, True, -1, 1.5, "x", [], {}, [[1]], {"a": None}, ...)


@pytest.mark.long
def test_a_description_with_wrong_kinds_in_any_field_is_read_or_refused_in_one_line(folder):
    description = run_files.described(folder)
    count = 0
    for path in run_files.entries(description):
        for wrong in WRONG:
            run_files.rewrite(folder, run_files.put(description, path, wrong))
            if words := said(inference.load, folder):
                assert "\n" not in words and str(folder) in words, (path, words)
                count += 1
    assert count > 500  # what tells the run from others is checked against the state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("paper",), ["m2"], "its paper is ['m2'], expected a text"),
        (("identity", "seed"), "0", "its identity.seed is '0', expected a whole number"),
        (("identity", "seed"), ..., "it lacks identity.seed"),
        (("stages", 0, "objective"), 3, "its stages[0].objective is 3, expected a text"),
        (("data", "steps"), {}, "its data.steps is {}, expected a list"),
        (("config", "latent"), 3, "its config and its identity.config differ"),
        (("status",), None, "its status is None, expected a text"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(folder, path, value, message):
    run_files.rewrite(folder, run_files.put(run_files.described(folder), path, value))
    assert refused(folder) == f"run.json is damaged: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "run.json is damaged: expected a table"),
        (b"{}", "run.json has format None, expected 2"),
        (b'{"format": 9}', "run.json has format 9, expected 2"),
        (b'{"format": 2}', "run.json is damaged: its checksum differs"),
        (b'{"format": 1}', "run.json is damaged: it lacks paper"),
        (b"\xff\xfe", "run.json is damaged: 'utf-8' codec can't decode"),
        (b"[" * 10**5, "run.json is damaged: "),
    ],
)
def test_what_is_no_description_is_refused(folder, text, message):
    (folder / "run.json").write_bytes(text)
    assert refused(folder).startswith(message)


def test_folders_without_checksums_are_read(folder):
    """As older versions wrote them."""
    import json

    before = run_files.read(folder, "state.pt")
    description = {k: v for k, v in run_files.described(folder).items() if k != "sha256"}
    (folder / "run.json").write_text(json.dumps({**description, "format": 1}))
    state = torch.load(folder / "state.pt", weights_only=True)
    old = {k: v for k, v in state.items() if k not in ("format", "run")}
    torch.save(old, folder / "state.pt")
    assert run_files.read(folder, "state.pt") == before
    data = bytearray((folder / "state.pt").read_bytes())
    data[data.index(next(iter(old["model"].values())).numpy().tobytes())] ^= 1
    (folder / "state.pt").write_bytes(data)
    assert re.search(r"its member \S+ has another checksum", refused(folder))


@pytest.mark.parametrize("name", run_files.NAMES[:2])
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_mutated_files_give_the_same_or_are_refused(whole, folder, name, seed):
    expected = run_files.read(whole, name)
    intact = (whole / name).read_bytes()
    (folder / name).write_bytes(run_files.mutated(intact, seed))
    found = []
    words = said(lambda: found.append(run_files.read(folder, name)))
    (folder / name).write_bytes(intact)
    assert found == [expected] or (name in words and "\n" not in words)
