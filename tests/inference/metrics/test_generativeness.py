"""Counterfactual generativeness against loops over rows, and where it is known in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from torch.testing import assert_close
from worlds.chained import D, L, chained

from ppl_models.data import Table
from ppl_models.inference import metrics

SIZES = (2, 3, 4)
NAMES = ("a", "b", "c")
GRID = np.array(list(itertools.product(*map(range, SIZES))))
OWN = np.eye(3, dtype=bool)


def grid_table(codes=GRID):
    return metrics.from_arrays(codes, GRID, factor_names=NAMES)


def perfect(images):
    """Reads each factor off its number, without a doubt."""
    return {
        name: torch.nn.functional.one_hot(images[:, k].round().long(), size).double()
        for k, (name, size) in enumerate(zip(NAMES, SIZES, strict=True))
    }


def same(codes):
    return codes


def some(rows=37, codes=5, seed=0):
    """Codes that hang on no factor, any decoder and any classifier."""
    draw = np.random.default_rng(seed)
    factors = np.stack([draw.integers(0, size, rows) for size in SIZES], 1)
    z = draw.normal(size=(rows, codes)).round(1)  # with ties
    weights = draw.normal(size=(codes, sum(SIZES)))

    def classify(images):
        parts = np.split(np.asarray(images), np.cumsum(SIZES)[:-1], 1)
        found = [np.exp(part) / np.exp(part).sum(1, keepdims=True) for part in parts]
        return dict(zip(NAMES, found, strict=True))

    def decode(values):
        return np.tanh(values.double().numpy() @ weights)

    return metrics.from_arrays(z, factors, factor_names=NAMES), decode, classify


def by_loops(table, owned, moved, decode, classify):
    """Own effects, effects of the others and CG ``(K,)`` of sets ``(K, D)``, row by row."""

    def asked(codes, factor, row):
        images = decode(torch.as_tensor(codes)[None])
        return float(classify(images)[NAMES[factor]][0, table.factors[row, factor]])

    found = np.zeros((3, len(owned)))
    for factor, own in enumerate(owned):
        for row, codes in enumerate(table.codes):
            one, two = codes.copy(), codes.copy()
            for code in range(len(codes)):
                (one if own[code] else two)[code] = moved[row][code]
            p0, p1, p2 = (asked(c, factor, row) for c in (codes, one, two))
            effects = abs(p0 - p1), abs(p0 - p2)
            found[:, factor] += (*effects, abs(effects[0] - effects[1]))
    return found / len(table)


def far_by_loops(codes):
    far = np.zeros_like(codes)
    for row, code in np.ndindex(codes.shape):
        column, own = codes[:, code], codes[row, code]
        up, down = column.max() - own, own - column.min()
        far[row, code] = column.max() if up >= down else column.min()
    return far


PARTS = ("own_effect", "others_effect", "generativeness")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_mean_of_loops_over_rows(dtype):
    table, decode, classify = some()
    sets = np.random.default_rng(1).random((4, 3, 5)) < 0.5
    sets[..., 0] |= ~sets.any(-1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = metrics.counterfactual_generativeness(table, sets, decode, classify, batch=10)
    finally:
        torch.set_default_dtype(before)
    far = far_by_loops(table.codes)
    for place, owned in enumerate(sets):
        wanted = by_loops(table, owned, far, decode, classify)
        for part, per_factor in zip(PARTS, wanted, strict=True):
            of = found[f"counterfactual_{part}"][place]
            per = found[f"counterfactual_{part}_per_factor"][place]
            tol = 1e-6 if dtype == torch.float32 else 1e-12
            assert per.values == pytest.approx(per_factor, abs=tol)
            assert of.item() == pytest.approx(per_factor.mean(), abs=tol)
    assert (found.counterfactual_codes.values == sets).all()
    assert found.rho.values.tolist() == sets.sum(2).max(1).tolist()


def test_a_donor_is_another_row_and_the_same_one_for_all_factors():
    table, decode, classify = some()
    table = metrics.from_arrays(table.codes + np.arange(37)[:, None], table.factors,
                                factor_names=NAMES)  # fmt: skip
    owned, seen = np.random.default_rng(2).random((3, 5)) < 0.5, []
    owned[:, 0], owned[:, 1] = True, False

    def kept(codes):
        seen.append(codes.double().numpy())
        return decode(codes / 37)

    found = metrics.donor_generativeness(table, owned, kept, classify, batch=37, seed=3)
    codes = table.codes.astype(np.float32)
    moved = np.full(codes.shape, np.nan)
    for asked in seen:
        moved[asked != codes] = asked[asked != codes]
    donors = [np.flatnonzero((codes == row.astype(np.float32)).all(1)).item() for row in moved]
    assert (np.array(donors) != np.arange(37)).all()
    wanted = by_loops(table, owned, table.codes[donors], lambda c: decode(c / 37), classify)
    for part, per_factor in zip(PARTS, wanted, strict=True):
        per = found[f"donor_{part}_per_factor"][0].values
        assert per == pytest.approx(per_factor, abs=1e-6)
    again = metrics.donor_generativeness(table, owned, kept, classify, batch=5, seed=3)
    other = metrics.donor_generativeness(table, owned, kept, classify, seed=4)
    assert again.donor_generativeness.item() == found.donor_generativeness.item()
    assert other.donor_generativeness.item() != found.donor_generativeness.item()


def test_a_perfect_decoder_is_scored_1_and_so_is_one_whose_codes_are_exchanged():
    table = grid_table()
    found = metrics.counterfactual_generativeness(table, OWN, same, perfect)
    assert found.counterfactual_generativeness.values.tolist() == [1.0]
    assert found.counterfactual_own_effect_per_factor.values.tolist() == [[1, 1, 1]]
    assert found.counterfactual_others_effect_per_factor.values.tolist() == [[0, 0, 0]]
    assert found.counterfactual_reconstructed_per_factor.values.tolist() == [1, 1, 1]
    wrong = metrics.counterfactual_generativeness(table, OWN[[1, 2, 0]], same, perfect)
    assert wrong.counterfactual_generativeness.values.tolist() == [1.0]
    assert wrong.counterfactual_own_effect.values.tolist() == [0.0]
    assert wrong.counterfactual_others_effect.values.tolist() == [1.0]
    # Whatever is set, nothing changes; and all of it changes everything.
    for decode in (lambda z: z * 0, lambda z: (z * 0).long() + z[:, :1].long()):
        every = np.ones((3, 3), bool)
        found = metrics.counterfactual_generativeness(table, every, decode, perfect)
        own = found.counterfactual_own_effect
        assert found.counterfactual_generativeness.item() == own.item()


def test_donors_of_a_perfect_decoder_differ_as_often_as_two_rows_do():
    # 20 seeds: a factor of s values differs in 1 - 1 / s of all pairs, with the row's own share.
    table = grid_table()
    found = [
        metrics.donor_generativeness(table, OWN, same, perfect, seed=seed) for seed in range(20)
    ]
    shares = np.stack([of.donor_generativeness_per_factor.values[0] for of in found])
    others = {size: (1 - 1 / size) * 24 / 23 for size in SIZES}
    error = np.sqrt([s * (1 - s) / 480 for s in others.values()])
    assert (np.abs(shares.mean(0) - list(others.values())) <= 4 * error).all()
    assert {of.donor_generativeness.attrs["seed"] for of in found} == set(range(20))


def test_sets_of_unconfoundedness_go_in_as_they_are_and_codes_alike_are_decoded_once():
    table, calls = grid_table(), []

    def counted(codes):
        calls.append(len(codes))
        return codes

    told = metrics.unconfoundedness(table, rho=(1, 2))
    sets = told.unconfoundedness_codes
    found = metrics.counterfactual_generativeness(table, sets, counted, perfect, batch=20)
    assert found.rho.values.tolist() == [1, 2]
    # None, one of three, the two others of three: 7 of 13 are asked of, in two batches.
    kinds = {tuple(own) for s in sets.values for own in (*s, *~s)} | {(False,) * 3}
    assert calls == [20] * len(kinds) + [4] * len(kinds)
    alone = metrics.counterfactual_generativeness(table, sets.sel(rho=2), same, perfect)
    assert alone.rho.values.tolist() == [2]
    other_order = sets.transpose("code", "rho", "factor").sel(rho=[2, 1])
    swapped = metrics.counterfactual_generativeness(table, other_order, same, perfect)
    for name in found.data_vars:
        if "rho" in found[name].dims:
            xr.testing.assert_equal(swapped[name].sel(rho=[1, 2]), found[name])
            xr.testing.assert_equal(alone[name], found[name].sel(rho=[2]))


def test_a_constant_code_changes_nothing_and_a_factor_of_one_value_is_left_out():
    codes = np.concatenate([GRID, np.full((24, 1), 7.0)], 1)
    sets = np.concatenate([OWN, [[True], [False], [False]]], 1)
    found = metrics.counterfactual_generativeness(grid_table(codes), sets, same, perfect)
    assert found.counterfactual_generativeness.values.tolist() == [1.0]

    rows = GRID[:, 0] == 1
    few = grid_table().rows(rows)
    sets = np.array(OWN)
    sets[0] = False  # as unconfoundedness leaves it
    calls = {name: p for name, p in perfect(torch.as_tensor(GRID[rows])).items() if name != "a"}
    found = metrics.counterfactual_generativeness(few, sets, same, lambda x: perfect(x) | calls)
    assert found.attrs["excluded_factors"] == "a"
    per_factor = found.counterfactual_own_effect_per_factor.values[0]
    assert np.isnan(per_factor[0])
    assert per_factor[1:].tolist() == [0, 0]  # calls says what the rows are, whatever is decoded
    assert np.isnan(found.counterfactual_reconstructed_per_factor.values[0])
    none = grid_table().rows(slice(0, 1))
    found = metrics.counterfactual_generativeness(none, sets, same, perfect)
    assert np.isnan(found.counterfactual_generativeness.values).all()


def test_bad_input_is_one_line_before_anything_is_decoded():
    table = grid_table()
    ask = metrics.counterfactual_generativeness
    never = pytest.fail
    with pytest.raises(ValueError, match=r"sets have shape \(3, 2\) and type bool, expected"):
        ask(table, OWN[:, :2], never, never)
    with pytest.raises(ValueError, match=r"sets have shape \(3, 3\) and type int"):
        ask(table, OWN.astype(int), never, never)
    with pytest.raises(ValueError, match="sets have no code of the factor 'b', expected at least"):
        ask(table, OWN & [True, False, True], never, never)
    with pytest.raises(ValueError, match="batch is 0"):
        ask(table, OWN, never, never, batch=0)
    with pytest.raises(ValueError, match="rho is 4, expected at most the number of codes, 3"):
        metrics.unconfoundedness(table, rho=(4,))
    with pytest.raises(ValueError, match="rows is 1"):
        metrics.donor_generativeness(table.rows([0]), OWN, never, never)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda p: {"b": p["b"]}, r"says nothing of the factor 'a' but of \['b'\]"),
        (lambda p: {**p, "b": p["b"] * 2}, "for the factor 'b', expected probabilities that sum"),
        (lambda p: {**p, "c": p["c"].log()}, "for the factor 'c', expected probabilities that"),
        (lambda p: {**p, "c": p["c"] * torch.nan}, "for the factor 'c', expected probabilities"),
        (
            lambda p: {**p, "c": p["c"][:, :2]},
            r"shape \(24, 2\) for the factor 'c', expected \(24",
        ),
        (lambda p: {**p, "a": p["a"][:5]}, r"shape \(5, 2\) for the factor 'a', expected \(24"),
    ],
)
def test_what_is_no_probability_is_refused(change, line):
    with pytest.raises(ValueError, match=line) as error:
        metrics.counterfactual_generativeness(
            grid_table(), OWN, same, lambda images: change(perfect(images))
        )
    assert "\n" not in str(error.value)


# ---- of a pair ------------------------------------------------------------------------------


def labelled_rows(count=7):
    x = torch.randn(count, D, generator=torch.Generator().manual_seed(1))
    t = torch.arange(count) % 2
    return Table("rows", {"x": x, "t": t}, {"t": t.bool() | (torch.arange(count) < 4)},
                 classes={"t": ("0", "1")})  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_is_decoded_at_the_codes_with_labels_and_means_held(dtype):
    pair, table = chained(dtype), labelled_rows()
    codes = torch.randn(7, L, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        means = [pair.means(batch.to(dtype)) for batch in table.batches()]
        rows = torch.cat([batch.rows for batch in table.batches()])
        t = torch.cat([found["t"] for found in means])[rows.argsort()]
        assert (t[:4] == table.sites["t"][:4]).all()
        known = codes.to(dtype) @ pair.V + pair.d[t]
        above = codes.to(dtype) @ pair.W @ pair.V + pair.d[t]
    state = torch.get_rng_state()
    lower, upper = (metrics.decoder(pair, table, sites=(site,)) for site in "ba")
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    for part in (slice(0, 3), slice(3, 7), slice(0, 7)):
        assert_close(lower(codes[part], part), known[part], rtol=tol, atol=tol)
        assert_close(upper(codes[part], part), above[part], rtol=tol, atol=tol)
    both = metrics.decoder(pair, table)  # a has no way to x but through b
    assert_close(both(torch.cat([codes + 1, codes], 1), slice(0, 7)), known, rtol=tol, atol=tol)
    some_rows = metrics.decoder(pair, table, [5, 0], sites=("b",))
    assert len(some_rows) == 2
    assert_close(some_rows(codes[:2], slice(0, 2)), codes[:2].to(dtype) @ pair.V.detach()
                 + pair.d[t[[5, 0]]].detach(), rtol=tol, atol=tol)  # fmt: skip
    assert (torch.get_rng_state() == state).all()


def test_generativeness_of_a_pair_is_that_of_its_decoder():
    pair, rows = chained(torch.float32), labelled_rows()
    draw = np.random.default_rng(0)
    codes = metrics.from_arrays(draw.normal(size=(7, L)), {"t": np.arange(7) % 2})

    def classify(x):
        p = torch.sigmoid(x[:, :1])
        return {"t": torch.cat([p, 1 - p], 1)}

    decode, sets = metrics.decoder(pair, rows, sites=("b",)), np.array([[True, False]])
    found = metrics.counterfactual_generativeness(codes, sets, decode, classify, batch=3)
    assert found.counterfactual_generativeness.attrs["decoded_from"] == "b"
    kept = decode.table.sites["t"].clone()
    kept[~decode.table.observed["t"]] = torch.cat(
        [pair.means(b)["t"] for b in decode.table.batches() if "t" not in b]
    )
    place = iter([slice(0, 3)] * 3 + [slice(3, 6)] * 3 + [slice(6, 7)] * 3)

    def by_hand(z):
        with torch.no_grad():
            return z @ pair.V + pair.d[kept[next(place)]]

    wanted = metrics.counterfactual_generativeness(codes, sets, by_hand, classify, batch=3)
    assert found.counterfactual_generativeness.item() == pytest.approx(
        wanted.counterfactual_generativeness.item(), abs=1e-6
    )
    few = codes.rows(slice(0, 6))
    with pytest.raises(ValueError, match="decode holds 7 rows and the table of codes has 6"):
        metrics.counterfactual_generativeness(few, sets, decode, classify)


def test_a_decoder_names_what_is_not_there():
    pair, rows = chained(torch.float32), labelled_rows()
    with pytest.raises(ValueError, match="chained: unknown continuous latent site 'y'"):
        metrics.decoder(pair, rows, sites=("y",))
    with pytest.raises(ValueError, match="chained: unknown site of the data 'y'"):
        metrics.decoder(pair, rows, made="y")
    with pytest.raises(
        ValueError, match=r"codes have shape \(7, 3\), expected \(7, 4\), those of a, b"
    ):
        metrics.decoder(pair, rows)(torch.zeros(7, 3), slice(0, 7))
