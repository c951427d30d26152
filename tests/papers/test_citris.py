"""CITRIS: assignments summed by hand, the flow, the classifier's losses, and who is trained."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch.testing import assert_close
from worlds.citris_by_hand import SIZES, VARIANTS, batch_for, both_losses, built
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.parts.intervened_latents import Blocks, Carried, Flow
from ppl_models.parts.target_classifier import NOISE, Noise, labels, target_classifier
from ppl_models.testing import PairContract


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_assignments_are_summed_as_by_hand(variant, dtype, scale):
    """Check 2: loss and every gradient, to 1e-10 in float64."""
    pair = built(variant, dtype)
    batch = batch_for(pair, scale=scale)
    found, wanted = both_losses(pair, batch)
    tol = dict.fromkeys(("rtol", "atol"), 1e-10 if dtype == torch.float64 else 3e-4)
    assert_close(found, wanted, **tol)
    names, parameters = zip(*pair.named_parameters(), strict=True)
    how = {"allow_unused": True, "retain_graph": True, "materialize_grads": True}
    for name, one, other in zip(
        names,
        torch.autograd.grad(found, parameters, **how),
        torch.autograd.grad(wanted, parameters, **how),
        strict=True,
    ):
        assert_close(one, other, msg=lambda m, n=name: f"{n}: {m}", **tol)


def test_probabilities_of_blocks_cost_nothing_by_themselves():
    """Story and guide have the same, so that their KL is 0 whatever they are."""
    pair = built("vectors")
    batch = batch_for(pair)
    evaluation = inference.EnumeratedELBO().run(pair.model, pair.guide, batch)
    parts = inference.EnumeratedELBO().breakdown(evaluation)
    if "kl(psi)" in parts:
        assert_close(parts["kl(psi)"], torch.zeros(6, dtype=torch.float64))
    assert pair.frames.blocks.probabilities.sum(-1).tolist() == pytest.approx([1] * 5)
    closed = built("no block 0").frames.blocks
    assert (closed.probabilities[:, 0] == 0).all() and (closed.assigned > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_flow_is_invertible_and_tells_its_volume(dtype):
    """Check 4, on 5 dimensions."""
    torch.manual_seed(0)
    flow = Flow(5, 4, (16, 16)).to(dtype)
    x = torch.randn(50, 5, dtype=dtype)
    with torch.no_grad():
        z, log_det = flow.with_log_det(x)
        assert float((flow.inverse(z) - x).abs().max()) < (
            1e-10 if dtype == torch.float64 else 1e-4
        )
        assert_close(flow(x), z)
    for row in range(5):
        jacobian = torch.autograd.functional.jacobian(flow, x[row])
        assert_close(log_det[row], jacobian.slogdet()[1], rtol=1e-4, atol=1e-4)


def test_what_is_carried_has_a_density_where_it_is_and_nowhere_else():
    torch.manual_seed(0)
    flow = Flow(3, 2, (4,)).double()
    z = torch.randn(7, 3, dtype=torch.float64)
    with torch.no_grad():
        carried = Carried(flow, z)
        x = carried.sample()
        assert_close(flow(x), z)
        assert_close(carried.log_prob(x), flow.with_log_det(x)[1])
        assert (carried.log_prob(x + 0.1) == -math.inf).all()
        assert carried.expand((2, 7)).log_prob(x).shape == (2, 7)
        assert_close(carried.mean, x)


def test_frames_that_are_drawn_are_their_latents():
    """Draws of the story: the next frame is what the flow makes of z_next."""
    pair = built("vectors")
    batch = batch_for(pair).without("x_next")
    with torch.no_grad():
        trace = poutine.trace(pair.model).get_trace(batch)
        z = trace.nodes["z_next"]["value"]
        assert z.shape == (5, 6)
        assert_close(pair.frames.flow(trace.nodes["x_next"]["value"]), z.T)


def test_the_first_stage_counts_frames_and_targets():
    pair = built("images")
    batch = batch_for(pair)
    pair.stages()[0].start(batch)
    encoder = pair.frames.encoder.net
    assert_close(encoder.mean, batch["x"].mean(0))
    assert_close(pair.frames.blocks.told[0, 0], batch["targets"].mean(0))


def counted(targets, kinds=3):
    blocks = Blocks(4, kinds).double()
    blocks.count(Batch({"targets": targets}))
    return blocks


def test_targets_tell_of_each_other_as_counted_by_hand():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 3, generator=generator) < 0.3).double()
    targets[:, 2] = 0  # never set
    blocks = counted(targets)
    for value in (0, 1):
        assert_close(blocks.told[value, 0], targets.mean(0))
        for i in range(3):
            rows = targets[targets[:, i] == value]
            wanted = rows.mean(0) if len(rows) else targets.mean(0)
            assert_close(blocks.told[value, i + 1], wanted)


@pytest.mark.parametrize("told", ["conditional", "marginal"])
def test_labels_of_latents_are_the_papers(told):
    """The own target and all of them at weight K, others at what is expected of them at 1."""
    targets = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]).double()
    blocks = counted(targets)
    wanted, weight = labels(blocks, targets, told)
    wanted, weight = (part.expand(5, 5, 3) for part in (wanted, weight))
    for mask in range(5):
        for row in range(5):
            for j in range(3):
                own = mask == 4 or mask == j + 1
                value = targets[row, j] if own else targets[:, j].mean()
                if not own and mask and told == "conditional":
                    same = targets[:, mask - 1] == targets[row, mask - 1]
                    value = targets[same, j].mean()
                assert float(wanted[mask, row, j]) == pytest.approx(float(value))
                assert float(weight[mask, row, j]) == (3 if own else 1)


def game(variant="vectors"):
    """A pair, its batch with noise, and the sides of the game."""
    pair = built(variant)
    batch = batch_for(pair)
    blocks = pair.frames.blocks
    blocks.count(batch)
    torch.manual_seed(5)
    batch = Noise(blocks)(batch)
    torch.manual_seed(6)
    term, player = target_classifier(blocks, pair.frames.code, (5,), 2.0)
    player.module.double()
    return pair, batch, term, player


def losses_by_hand(pair, batch, net):
    """Both losses per row, by loops over masks and variables."""
    frames, targets = pair.frames, batch["targets"]
    blocks = frames.blocks
    z, z_next = frames.code(batch), frames.flow(batch["x_next"])
    one_hot = torch.eye(4, dtype=z.dtype)[(blocks.scores + batch[NOISE]).argmax(-1)]
    wanted, weight = (part.expand(5, 6, 3) for part in labels(blocks, targets))
    model, latent = torch.zeros(6, dtype=z.dtype), torch.zeros(6, dtype=z.dtype)
    for mask in range(5):
        seen = one_hot[..., mask] if mask < 4 else torch.ones_like(z)
        p = net(z=z, z_next=seen * z_next, mask=seen).sigmoid()
        for j in range(3):
            sure, doubt = p[:, j].log(), (1 - p[:, j]).log()
            model += -(targets[:, j] * sure + (1 - targets[:, j]) * doubt) / 3
            y, w = wanted[mask, :, j], weight[mask, :, j]
            latent += -w * (y * sure + (1 - y) * doubt) / 3
    return model, latent


def test_losses_of_the_classifier_are_the_papers():
    pair, batch, term, player = game()
    run = inference.EnumeratedELBO().run(pair.model, pair.guide, batch)
    with torch.no_grad():
        model, latent = losses_by_hand(pair, batch, player.module)
    assert_close(player.objective.rows(run), model, rtol=1e-10, atol=1e-10)
    assert_close(term.rows(run), 2 * latent, rtol=1e-10, atol=1e-10)


def test_each_side_trains_its_own():
    """The classifier's loss reaches no latent; the latents' reaches flow and assignments."""
    pair, batch, term, player = game()
    run = inference.EnumeratedELBO().run(pair.model, pair.guide, batch)
    own, classifier = list(pair.parameters()), list(player.module.parameters())
    how = {"allow_unused": True, "retain_graph": True}
    loss = player.objective.rows(run).sum()
    assert all(g is None for g in torch.autograd.grad(loss, own, **how))
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, classifier, **how))
    named = dict(pair.named_parameters())
    grads = torch.autograd.grad(term.rows(run).sum(), list(named.values()), **how)
    for name, grad in zip(named, grads, strict=True):
        there = grad is not None and bool(grad.any())
        assert there == ("flow" in name or "blocks" in name), name


def test_a_step_moves_the_classifier_on_its_own_turn_alone():
    rows = data.load("entangled_vectors", train=60, validation=5, test=5)
    fits = []
    for weight in (0.0, 2.0):
        pair = zoo.build("citris_nf", rows, seed=0, **{**SIZES, "target_weight": weight})
        (stage,) = pair.stages()
        inference.fit(pair, rows.train.only("x", "x_next", "targets"), stages=(stage,), steps=2,
                      batch_size=20, progress=False)  # fmt: skip
        fits.append((pair.state_dict(), stage.players[0].module.state_dict()))
    (alone, _), (beside, _) = fits
    changed = {n for n in alone if not torch.equal(alone[n], beside[n])}
    assert any("flow" in n for n in changed) and "frames.blocks.logits" in changed
    told = rows.train.sites["targets"].mean(0)  # counted at the start
    assert_close(alone["frames.blocks.told"][0, 0], told)


def test_masks_are_drawn_by_the_blocks_probabilities():
    blocks = Blocks(2, 3)
    with torch.no_grad():
        blocks.logits.copy_(torch.tensor([[0.0, 1.0, -1.0, 0.5], [2.0, 0.0, 0.0, 0.0]]))
    torch.manual_seed(0)
    batch = Noise(blocks)(Batch({"targets": torch.zeros(20_000, 3)}))
    masks = blocks.masks(batch[NOISE])
    assert masks.shape == (5, 20_000, 2) and (masks[4] == 1).all()
    with torch.no_grad():
        assert_close(masks[:4].sum(0), torch.ones(20_000, 2))
        share = masks[:4].mean(1).T
        assert_close(share, blocks.probabilities, rtol=0, atol=4 * 0.5 / 20_000**0.5)
    (grad,) = torch.autograd.grad((masks[1] * torch.tensor([1.0, 0.0])).mean(), blocks.logits)
    assert float(grad[0, 1]) > 0 and float(grad[0].sum().abs()) < 1e-6


def test_blocks_of_two_frames_are_combined():
    """The first's latents, those of chosen blocks the second's; none gives the first back."""
    pair = built("vectors")
    batch = batch_for(pair)
    first, second = Batch({"x": batch["x"]}), Batch({"x": batch["x_next"]})
    frames = pair.frames
    with torch.no_grad():
        assert_close(frames.combined(first, second, ()), batch["x"], rtol=1e-8, atol=1e-8)
        every = range(pair.config.variables + 1)
        assert_close(frames.combined(first, second, every), batch["x_next"], rtol=1e-8, atol=1e-8)
        one = int(frames.blocks.assigned[0])
        made = frames.flow(frames.combined(first, second, (one,)))
        own = frames.blocks.assigned == one
        assert_close(made[:, own], frames.code(second)[:, own])
        assert_close(made[:, ~own], frames.code(first)[:, ~own])


def test_the_autoencoder_is_trained_first_and_then_stays():
    rows = data.load("entangled_vectors", train=60, validation=5, test=5)
    settings = {**SIZES, "latent": 3, "hidden": (6,)}
    pair = zoo.build("citris_nf", rows, seed=0, **settings)
    states = []
    inference.fit(pair, rows.train.only("x", "x_next", "targets"), steps=(3, 3), batch_size=20,
                  progress=False, callbacks=(lambda run, step: states.append(
                      {n: v.clone() for n, v in pair.state_dict().items()}),))  # fmt: skip
    code = {n for n in states[0] if "encoder" in n or "decoder" in n}
    first, last = states[2], states[-1]
    assert all(torch.equal(first[n], last[n]) for n in code)
    assert not torch.equal(first["frames.flow.steps.0.hyper.0.weight"],
                           last["frames.flow.steps.0.hyper.0.weight"])  # fmt: skip
    assert set(pair.card.latents) == {"psi", "z_next", "e_next"}


class TestCode(PairContract):
    """With an autoencoder."""

    pair = "citris_nf"
    settings = {"latent": 3, "variables": 2}  # noqa: RUF012


class TestShort(PairContract):
    """With so few latents that a loop can sum over their blocks."""

    pair = "citris_nf"
    settings = {"data_dim": 3, "variables": 2}  # noqa: RUF012


@pytest.mark.long
@pytest.mark.parametrize("name", ["citris_nf", "citris_vae"])
def test_the_whole_life(name, tmp_path):
    if name == "citris_nf":
        rows = data.load("entangled_vectors", train=60, validation=10, test=12)
        settings = SIZES
    else:
        rows = data.load("ball_in_boxes", side=8, train=60, validation=10, test=12)
        settings = {**SIZES, "latent": 3, "channels": (4,), "hidden": (6,)}
    run, idata = whole_life(
        lambda: zoo.build(name, rows, seed=0, **settings), rows, tmp_path,
        epochs=2, batch_size=20, seed=3,
    )  # fmt: skip
    assert idata.posterior["z_next"].shape[-2:] == (12, len(run.pair.frames.blocks.logits))
    assert "psi" in idata.posterior or "psi_probs" in idata.posterior
