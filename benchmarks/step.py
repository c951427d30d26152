"""One training step, ours beside Pyro's SVI and hand-written PyTorch.

    python benchmarks/step.py [--repeats 30] [--device cpu] [--only vae] [--out step.json]

All contenders of a row run interleaved in one process, on one thread where the device is the
CPU; the table gives the median time of a step: loss, gradient and one step of Adam, on the same
unlabelled rows of 784 pixels, or images of 64 x 64. Ratios are medians, too, of the ratios of
turns that follow each other, so that what else the machine does falls on both.

- pyro: `SVI.step` with Pyro's Adam on a pair as it is usually written, x copied per label:
  `TraceEnum_ELBO` for M2, `TraceMeanField_ELBO` for the VAE. Pyro has no bound that sums a label
  outside an importance-weighted inner one (`RenyiELBO` samples the label), so IWELBO has none;
- expert: the same bound on a pair as the floor, its validation off, torch's fused Adam;
- eager: the zoo's pair and objective, torch's fused Adam;
- compiled: the same, as `fit(..., compile=True)` steps;
- torch: hand-written PyTorch with x copied per label, fused Adam;
- torch compiled: the same, its loss under `torch.compile`;
- floor: hand-written PyTorch without copies, of convolutions in the channels-last layout, fused
  Adam;
- floor compiled: the same, its loss under `torch.compile`. A VAE of vectors has no label, so
  nothing is copied and `torch` is the floor.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import opponents as by_hand
import pyro
import torch
from interleaved import Step, Times, compiled, measure, ratio, stepping
from opponents import D, L, N
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn

import ppl_models as zoo
from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.inference import ELBO, IWELBO, EnumeratedELBO, Objective


@dataclass(frozen=True)
class Row:
    """Who takes the step, on how many rows of how many numbers."""

    rows: int
    pair: nn.Module
    objective: Objective
    torch: nn.Module
    floor: nn.Module | None = None
    pyro: Any = None
    expert: Any = None
    size: int = D


def m2(rows: int, hidden: int, objective: Objective, particles: int = 1) -> Row:
    return Row(
        rows,
        zoo.build("m2", hidden=(hidden,), likelihood="bernoulli"),
        objective,
        by_hand.TorchM2(hidden, True, particles),
        by_hand.TorchM2(hidden, False, particles),
        by_hand.PyroM2(hidden) if particles == 1 else None,
        by_hand.ExpertM2(hidden) if particles == 1 else None,
    )


def vae(rows: int, hidden: int) -> Row:
    def networks() -> tuple[nn.Module, nn.Module]:
        return by_hand.mlp(D, hidden, 2 * L), by_hand.mlp(L, hidden, D)

    return Row(
        rows,
        zoo.build("vae", hidden=(hidden,), latent=L, likelihood="bernoulli"),
        ELBO(kl="analytic"),
        by_hand.TorchVAE(*networks()),
        None,
        by_hand.PyroVAE(*networks()),
        by_hand.PyroVAE(*networks()),
    )


def conv_vae(rows: int, channels: int) -> Row:
    """The VAE of the disentanglement study (Locatello et al. 2019) at 64 x 64."""
    latent, shape = 10, (64, 64, channels)
    size = 64 * 64 * channels
    pair: Any = zoo.build("vae", data_dim=size, hidden=(1,), latent=latent, likelihood="bernoulli")
    pair.decoder = conv_decoder({"z": latent}, shape)
    encoder = conv_encoder(shape, 2 * latent)
    pair.guide = guides.Factored(z=guides.Normal(latent, {"x": size}, net=encoder))

    def networks(last: bool) -> tuple[nn.Module, nn.Module]:
        return by_hand.conv_networks(channels, latent, last)

    return Row(
        rows,
        pair,
        ELBO(kl="analytic"),
        by_hand.TorchVAE(*networks(False)),
        by_hand.TorchVAE(*networks(True)),
        by_hand.PyroVAE(*networks(False), latent),
        by_hand.PyroVAE(*networks(True), latent),
        size,
    )


ROWS: dict[str, Callable[[], Row]] = {
    "m2 64/32": lambda: m2(32, 64, EnumeratedELBO()),
    "m2 256/100": lambda: m2(100, 256, EnumeratedELBO()),
    "m2 500/200": lambda: m2(200, 500, EnumeratedELBO()),
    "vae 500/100": lambda: vae(100, 500),
    "iwelbo(8) m2 64/32": lambda: m2(32, 64, IWELBO(8), 8),
    "conv vae 64 x 64/64": lambda: conv_vae(64, 1),
    "conv vae 64 x 64 x 3/64": lambda: conv_vae(64, 3),
}
NAMES = [
    *("pyro", "expert", "eager", "compiled"),
    *("torch", "torch compiled", "floor", "floor compiled"),
]
RATIOS = [
    *(("eager", "torch"), ("compiled", "torch"), ("compiled", "torch compiled")),
    *(("eager", "floor"), ("compiled", "floor compiled")),
    *(("pyro", "compiled"), ("pyro", "eager"), ("expert", "compiled")),
]
RATE = 3e-4


def ours(row: Row, batch: Batch) -> dict[str, Step]:
    pair: Any = row.pair

    def eager() -> Any:
        with pyro.validation_enabled(False):
            return row.objective.differentiable_loss(pair.model, pair.guide, (batch,))

    fast = compiled(pair, row.objective, batch, RATE)
    return {"eager": stepping(pair, eager, RATE), "compiled": fast}


def pyros(row: Row, batch: Batch) -> dict[str, Step]:
    if row.pyro is None:
        return {}
    x, usual, expert = batch["x"], row.pyro, row.expert
    nesting = {"max_plate_nesting": 1} if usual.elbo is TraceEnum_ELBO else {}
    svi = SVI(usual.model, usual.guide, pyro.optim.Adam({"lr": RATE}), usual.elbo(**nesting))
    bound = expert.elbo(**nesting)

    def loss() -> Any:
        with pyro.validation_enabled(False):
            return bound.differentiable_loss(expert.model, expert.guide, x, batch.rows)

    return {"pyro": lambda: svi.step(x, batch.rows), "expert": stepping(expert, loss, RATE)}


def contenders(row: Row, device: torch.device) -> dict[str, Step]:
    x = torch.rand(row.rows, row.size, device=device).round()
    batch = Batch({"x": x}, size=N)
    for module in (row.pair, row.torch, row.floor, row.pyro, row.expert):
        if module is not None:
            module.to(device)
    runs = {**pyros(row, batch), **ours(row, batch)}
    mode = "reduce-overhead" if device.type == "cuda" else None
    for name, module in (("torch", row.torch), ("floor", row.floor)):
        if module is not None:
            loss: Any = module.loss
            fast = torch.compile(loss, fullgraph=True, dynamic=False, mode=mode)
            runs[name] = stepping(module, lambda loss=loss: loss(x), RATE)
            runs[f"{name} compiled"] = stepping(module, lambda fast=fast: fast(x), RATE)
    return runs


def known_ratio(times: Times, one: str, other: str) -> float | None:
    if other not in times:  # where nothing is copied
        other = other.replace("floor", "torch")
    return ratio(times, one, other) if one in times else None


def line(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def head(first: str, others: list[str]) -> None:
    line([first, *others])
    print("|---" * (1 + len(others)) + "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    head("H/B, ms", NAMES)
    found = []
    for name, build in ROWS.items():
        if args.only in name:
            times = measure(contenders(build(), args.device), args.repeats, args.device.type)
            pyro.clear_param_store()
            ms = {n: statistics.median(t) for n, t in times.items()}
            ratios = {f"{a} / {b}": known_ratio(times, a, b) for a, b in RATIOS}
            found.append({"row": name, "ms": ms, "ratios": ratios})
            line([name, *(f"{ms[n]:.1f}" if n in ms else "-" for n in NAMES)])
    print()
    head("H/B, ratios", [f"{a} / {b}" for a, b in RATIOS])
    for row in found:
        line([row["row"], *("-" if r is None else f"{r:.2f}" for r in row["ratios"].values())])
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
