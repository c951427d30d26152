"""One training step, ours beside Pyro's SVI and hand-written PyTorch.

    python benchmarks/step.py [--repeats 30] [--device cpu] [--only vae] [--out step.json]

All contenders of a row run interleaved in one process, on one thread where the device is the
CPU; the table gives the median time of a step: loss, gradient and one step of Adam, on the same
unlabelled rows of 784 pixels.

- pyro: `SVI.step` with Pyro's Adam on a pair as it is usually written, x copied per label:
  `TraceEnum_ELBO` for M2, `TraceMeanField_ELBO` for the VAE. Pyro has no bound that sums a label
  outside an importance-weighted inner one (`RenyiELBO` samples the label), so IWELBO has none;
- eager: the zoo's pair and objective, torch's fused Adam;
- compiled: the same, as `fit(..., compile=True)` steps;
- torch: hand-written PyTorch with x copied per label, fused Adam;
- torch compiled: the same, its loss under `torch.compile`;
- floor: hand-written PyTorch without copies, fused Adam.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.inference import ELBO, IWELBO, EnumeratedELBO
from ppl_models.inference.training.compiled_step import Compiled, inductor

D, C, L, N = 784, 10, 50, 50_000


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))


class PyroM2(nn.Module):
    """M2 as most tutorials write it: one-hot labels concatenated with x, x copied per label."""

    elbo = TraceEnum_ELBO

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.enc_y, self.enc_z = mlp(D, hidden, C), mlp(D + C, hidden, 2 * L)
        self.dec = mlp(C + L, hidden, D)

    def cat(self, y, other):
        one_hot = F.one_hot(y, C).to(other.dtype)
        shape = torch.broadcast_shapes(one_hot.shape[:-1], other.shape[:-1])
        return torch.cat([one_hot.expand(*shape, C), other.expand(*shape, other.shape[-1])], -1)

    def model(self, x, rows):
        pyro.module("pair", self)
        with pyro.plate("data", N, subsample=rows):
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(C)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            logits = self.dec(self.cat(y, z))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, rows):
        with pyro.plate("data", N, subsample=rows):
            q = dist.Categorical(logits=self.enc_y(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            loc, log_var = self.enc_z(self.cat(y, x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


class PyroVAE(nn.Module):
    elbo = TraceMeanField_ELBO

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.enc, self.dec = mlp(D, hidden, 2 * L), mlp(L, hidden, D)

    def model(self, x, rows):
        pyro.module("pair", self)
        with pyro.plate("data", N, subsample=rows):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.dec(z)).to_event(1), obs=x)

    def guide(self, x, rows):
        with pyro.plate("data", N, subsample=rows):
            loc, log_var = self.enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


def log_bernoulli(logits, x):
    entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return -entropy.sum(-1)


class TorchM2(nn.Module):
    """The bound of K draws per label, by hand; ``copies`` as in the usual code."""

    def __init__(self, hidden: int, copies: bool, particles: int = 1) -> None:
        super().__init__()
        self.copies, self.particles = copies, particles
        self.enc_y = mlp(D, hidden, C)
        self.enc_z, self.dec = mlp(D + C, hidden, 2 * L), mlp(C + L, hidden, D)

    def joint(self, net, other):  # (..., C, B, outputs) for other (B, .) or (K, C, B, .)
        if self.copies:
            shape = (*other.shape[:-3], C, other.shape[-2])
            one_hot = torch.eye(C, device=other.device).unsqueeze(1).expand(*shape, C)
            return net(torch.cat([one_hot, other.expand(*shape, other.shape[-1])], -1))
        first = net[0]
        by_label = first.weight[:, :C].T.unsqueeze(1)
        hidden = F.linear(other, first.weight[:, C:], first.bias) + by_label
        return net[2](net[1](hidden))

    def loss(self, x):
        log_q = self.enc_y(x).log_softmax(-1).T
        loc, log_var = self.joint(self.enc_z, x).chunk(2, -1)
        scale = (0.5 * log_var).exp()
        z = loc + scale * torch.randn(self.particles, *loc.shape, device=x.device)
        log_x = log_bernoulli(self.joint(self.dec, z), x)
        log_z = -0.5 * (z.square() - ((z - loc) / scale).square() - log_var).sum(-1)
        ell = torch.logsumexp(log_x + log_z, 0) - math.log(self.particles * C)
        return -(log_q.exp() * (ell - log_q)).sum() * (N / len(x))


class TorchVAE(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.enc, self.dec = mlp(D, hidden, 2 * L), mlp(L, hidden, D)

    def loss(self, x):
        loc, log_var = self.enc(x).chunk(2, -1)
        z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + log_var.exp() - 1 - log_var).sum(-1)
        return (kl - log_bernoulli(self.dec(z), x)).sum() * (N / len(x))


def m2(hidden, objective, particles=1):
    pair = zoo.build("m2", hidden=(hidden,), likelihood="bernoulli")
    by_hand = TorchM2(hidden, True, particles), TorchM2(hidden, False, particles)
    return pair, objective, PyroM2(hidden) if particles == 1 else None, *by_hand


def vae(hidden):
    pair = zoo.build("vae", hidden=(hidden,), latent=L, likelihood="bernoulli")
    return pair, ELBO(kl="analytic"), PyroVAE(hidden), TorchVAE(hidden), None


ROWS: dict[str, tuple[int, Callable]] = {  # rows per batch, and what takes the step
    "m2 64/32": (32, lambda: m2(64, EnumeratedELBO())),
    "m2 256/100": (100, lambda: m2(256, EnumeratedELBO())),
    "m2 500/200": (200, lambda: m2(500, EnumeratedELBO())),
    "vae 500/100": (100, lambda: vae(500)),
    "iwelbo(8) m2 64/32": (32, lambda: m2(64, IWELBO(8), 8)),
}
NAMES = ["pyro", "eager", "compiled", "torch", "torch compiled", "floor"]


def contenders(name: str, device: torch.device) -> dict[str, Callable[[], object]]:
    rows, build = ROWS[name]
    pair, objective, pyro_pair, by_hand, floor = build()
    cuda = device.type == "cuda"
    x = torch.rand(rows, D, device=device).round()
    batch = Batch({"x": x}, size=N)
    for module in (pair, pyro_pair, by_hand, floor):
        if module is not None:
            module.to(device)

    def adam(module):
        return torch.optim.Adam(module.parameters(), lr=3e-4, fused=True)

    def step(module, loss):
        optimiser = adam(module)

        def run():
            optimiser.zero_grad(set_to_none=True)
            loss().backward()
            optimiser.step()

        return run

    def eager():
        with pyro.validation_enabled(False):
            return objective.differentiable_loss(pair.model, pair.guide, (batch,))

    ours = Compiled(objective, pair, list(pair.parameters()), (), inductor)
    optimiser = adam(pair)

    def compiled():
        if cuda:
            torch.compiler.cudagraph_mark_step_begin()
        optimiser.zero_grad(set_to_none=True)
        ours.gradient((batch,), N)
        optimiser.step()

    mode = "reduce-overhead" if cuda else None
    loss = torch.compile(by_hand.loss, fullgraph=True, dynamic=False, mode=mode)
    runs = {
        "eager": step(pair, eager),
        "compiled": compiled,
        "torch": step(by_hand, lambda: by_hand.loss(x)),
        "torch compiled": step(by_hand, lambda: loss(x)),
    }
    if pyro_pair is not None:
        elbo = pyro_pair.elbo(
            **({"max_plate_nesting": 1} if pyro_pair.elbo is TraceEnum_ELBO else {})
        )
        svi = SVI(pyro_pair.model, pyro_pair.guide, pyro.optim.Adam({"lr": 3e-4}), elbo)
        runs["pyro"] = lambda: svi.step(x, batch.rows)
    if floor is not None:
        runs["floor"] = step(floor, lambda: floor.loss(x))
    return runs


def measure(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(t) for name, t in times.items()}


def row(name: str, ms: dict[str, float]) -> str:
    def ratio(a: str, b: str) -> str:
        return f"{ms[a] / ms[b]:.2f}" if a in ms and b in ms else "-"

    cells = [name, *(f"{ms[n]:.1f}" if n in ms else "-" for n in NAMES)]
    cells += [ratio("compiled", "torch"), ratio("pyro", "compiled"), ratio("pyro", "eager")]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ratios = ["compiled / torch", "pyro / compiled", "pyro / eager"]
    print("| H/B, ms | " + " | ".join([*NAMES, *ratios]) + " |")
    print("|---" * (1 + len(NAMES) + len(ratios)) + "|", flush=True)
    found = []
    for name in ROWS:
        if args.only in name:
            ms = measure(contenders(name, args.device), args.repeats, args.device)
            pyro.clear_param_store()
            found.append({"row": name, "ms": ms})
            print(row(name, ms), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
