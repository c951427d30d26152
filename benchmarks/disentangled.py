"""Steps of the disentanglement papers beside hand-written PyTorch and beside the plain VAE.

    python benchmarks/disentangled.py [--repeats 30] [--only hfs nashae] [--compile]

A step is what a fit takes: loss, gradient and move of every side of a game. Interleaved in one
process, on one thread: each step of a fit is followed by one of the hand-written loss and one of
the hand-written plain VAE, on a batch of the same images. Medians of the ratios turn by turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import disentangled_by_hand as by_hand
import pyro
import torch
from interleaved import Step, Times, adam, ratio, stepping
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training.steps import Steps

WARM, BATCH = 5, 64
# By name: pair, its settings, the hand-written loss if there is one.
METHODS: dict[str, tuple[str, dict[str, Any], Callable[[], nn.Module] | None]] = {
    "beta_vae": ("beta_vae", {}, by_hand.BetaVAE),
    "annealed_vae": ("annealed_vae", {}, by_hand.AnnealedVAE),
    "dip_vae II": ("dip_vae", {"kind": "II", "lambda_d": 10.0}, by_hand.DIPVAE),
    "factor_vae": ("factor_vae", {"halves": False}, by_hand.FactorVAE),
    "beta_tcvae": ("beta_tcvae", {"beta": 6.0}, by_hand.BetaTCVAE),
    "hfs": ("hfs", {"beta": 1.0}, by_hand.HFS),
    "cr_vae": ("cr_vae", {"latent": 10}, by_hand.CRVAE),
    "guided_vae": ("guided_vae", {"channels": (32, 32, 64, 64), "hidden": (256,)}, None),
    "vlae": ("vlae", {}, None),
    "ladder_vae": ("ladder_vae", {}, None),
}
OF_OTHER_DATA = {
    "overlap_vae": ("overlap_vae", {}, by_hand.Overlap),
    "nashae": ("nashae", {}, by_hand.NashAE),
}


def beside(run: Callable[..., object], peers: dict[str, Step], repeats: int, fast: bool) -> Times:
    """Milliseconds of every step of a fit, and of the peers' steps, which follow each of them."""
    times: Times = {name: [] for name in ("ours", *peers)}
    take = Steps.take

    def timed(self: Steps, step: int, batches: Any) -> Any:
        spent = {}

        def clocked(name: str, act: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            made = act()
            spent[name] = 1e3 * (time.perf_counter() - began)
            return made

        taken = clocked("ours", lambda: take(self, step, batches))
        for name, peer in peers.items():
            clocked(name, peer)
        if step >= WARM:
            for name, spell in spent.items():
                times[name].append(spell)
        return taken

    with patch.object(Steps, "take", timed):
        run(steps=WARM + repeats, progress=False, compile=fast)
    return times


def factor_step(net: by_hand.FactorVAE, x: Tensor) -> Step:
    """Both networks in one step, as disentanglement_lib has it."""
    parts = nn.ModuleList([net.enc, net.dec])
    ours, critic = adam(parts, 1e-4), adam(net.critic, 1e-4)

    def step() -> None:
        ours.zero_grad(set_to_none=True)
        net.loss(x).backward()
        critic.zero_grad(set_to_none=True)
        net.critic_loss().backward()
        ours.step()
        critic.step()

    return step


def nash_step(net: by_hand.NashAE, x: Tensor) -> Step:
    """Five steps of the predictors, then one of the autoencoder."""
    parts = nn.ModuleList([net.enc, net.dec])
    ours, predictors = adam(parts, 1e-3), adam(net.predictors, 1e-2)

    def step() -> None:
        for _ in range(5):
            predictors.zero_grad(set_to_none=True)
            net.predictor_loss(x).backward()
            predictors.step()
        ours.zero_grad(set_to_none=True)
        net.loss(x).backward()
        ours.step()

    return step


def peers_of(
    make: Callable[[], nn.Module] | None, images: Tensor, flat: Tensor
) -> dict[str, Step]:
    """The hand-written method, and the plain VAE where the data are those of the study."""
    torch.manual_seed(0)
    found: dict[str, Step] = {}
    if make is not None:
        net: Any = make()
        if isinstance(net, by_hand.FactorVAE):
            found["torch"] = factor_step(net, images)
        elif isinstance(net, by_hand.NashAE):
            found["torch"] = nash_step(net, flat)
        else:
            found["torch"] = stepping(net, lambda: net.loss(images))
    if images.shape[1:] == (1, 64, 64):
        vae = by_hand.VAE()
        found["torch VAE"] = stepping(vae, lambda: vae.loss(images))
    return found


def measured(name: str, repeats: int, fast: bool) -> Times:
    """Times of a method and its peers."""
    source = {"overlap_vae": "xysquares", "nashae": "beamsynthesis"}.get(name, "dsprites")
    sizes = {} if source == "beamsynthesis" else {"train": 512, "validation": 8, "test": 8}
    rows = data.load(source, **sizes)
    pair_name, settings, make = {**METHODS, **OF_OTHER_DATA}[name]
    pair = zoo.build(pair_name, rows, seed=0, **settings)
    count = 100 if source == "beamsynthesis" else BATCH
    flat = rows.train.sites["x"][:count]
    shape = rows.shapes["x"]
    images = flat.reshape(-1, *shape, *[1] * (3 - len(shape))).movedim(-1, 1).contiguous()
    table = rows.train.only("x")
    return beside(
        lambda **options: inference.fit(pair, table, batch_size=count, **options),
        peers_of(make, images, flat), repeats, fast,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=[*METHODS, *OF_OTHER_DATA])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    print("| method | ours, ms | by hand, ms | ours / by hand | ours / plain VAE by hand |")
    print("|---|---|---|---|---|")
    for name in options.only:
        times = measured(name, options.repeats, options.compile)
        shown = [f"{statistics.median(times['ours']):.1f}"]
        shown.append(f"{statistics.median(times['torch']):.1f}" if "torch" in times else "-")
        for peer in ("torch", "torch VAE"):
            shown.append(f"{ratio(times, 'ours', peer):.2f}" if peer in times else "-")
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
