"""One training step of an enumerated M2, ours beside Pyro's SVI and hand-written PyTorch.

    python benchmarks/step.py [--repeats 30] [--out benchmarks/step.json]

All contenders run interleaved in one process on one thread; a row gives the median time of a
step and the ratio to ours. Every contender minimises the same loss on the same unlabelled rows
and takes one Adam step:

- ours: `EnumeratedELBO` on the zoo's M2, torch's fused Adam;
- pyro: `SVI.step` with `TraceEnum_ELBO` and Pyro's Adam on a pair that copies x per label, as
  it is usually written;
- torch: hand-written PyTorch with x copied per label, fused Adam;
- floor: hand-written PyTorch without copies, fused Adam.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO

SIZES = [(64, 32), (256, 100), (500, 200)]
D, C, L, N = 784, 10, 50, 50_000


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))


class Naive(nn.Module):
    """M2 as most tutorials write it: one-hot labels concatenated with x, x copied per label."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.enc_y, self.enc_z = mlp(D, hidden, C), mlp(D + C, hidden, 2 * L)
        self.dec = mlp(C + L, hidden, D)

    def cat(self, y, other):
        one_hot = F.one_hot(y, C).to(other.dtype)
        shape = torch.broadcast_shapes(one_hot.shape[:-1], other.shape[:-1])
        return torch.cat([one_hot.expand(*shape, C), other.expand(*shape, other.shape[-1])], -1)

    def model(self, x):
        pyro.module("naive", self)
        with pyro.plate("data", N, subsample_size=len(x), subsample=torch.arange(len(x))):
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(C)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            logits = self.dec(self.cat(y, z))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", N, subsample_size=len(x), subsample=torch.arange(len(x))):
            q = dist.Categorical(logits=self.enc_y(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            loc, log_var = self.enc_z(self.cat(y, x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


class HandWritten(nn.Module):
    """The same loss without a probabilistic language; ``copies`` as in the usual code."""

    def __init__(self, hidden: int, copies: bool) -> None:
        super().__init__()
        self.copies = copies
        self.enc_y = mlp(D, hidden, C)
        self.enc_z, self.dec = mlp(D + C, hidden, 2 * L), mlp(C + L, hidden, D)

    def joint(self, net, other):  # (C, B, outputs) for other (B, .) or (C, B, .)
        if self.copies:
            one_hot = torch.eye(C).unsqueeze(1).expand(C, other.shape[-2], C)
            full = other.expand(C, *other.shape[-2:])
            return net(torch.cat([one_hot, full], -1))
        first = net[0]
        by_label = first.weight[:, :C].T.unsqueeze(1)
        hidden = F.linear(other, first.weight[:, C:], first.bias) + by_label
        return net[2](net[1](hidden))

    def loss(self, x):
        log_q = self.enc_y(x).log_softmax(-1).T
        loc, log_var = self.joint(self.enc_z, x).chunk(2, -1)
        scale = (0.5 * log_var).exp()
        z = loc + scale * torch.randn_like(loc)
        logits = self.joint(self.dec, z)
        log_x = -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(-1)
        log_z = -0.5 * (z.square() - ((z - loc) / scale).square() - log_var).sum(-1)
        ell = log_x + log_z - torch.log(torch.tensor(float(C)))
        return -(log_q.exp() * (ell - log_q)).sum() * (N / len(x))


def contenders(hidden: int, rows: int):
    x = torch.rand(rows, D).round()
    pair = zoo.build("m2", hidden=(hidden,), likelihood="bernoulli")
    batch = Batch({"x": x}, size=N)
    objective = EnumeratedELBO()

    def step(parameters, loss):
        adam = torch.optim.Adam(parameters, lr=3e-4, fused=True)

        def run():
            adam.zero_grad(set_to_none=True)
            loss().backward()
            adam.step()

        return run

    def ours():
        with pyro.validation_enabled(False):
            return objective.differentiable_loss(pair.model, pair.guide, batch)

    naive = Naive(hidden)
    svi = SVI(
        naive.model,
        naive.guide,
        pyro.optim.Adam({"lr": 3e-4}),
        TraceEnum_ELBO(max_plate_nesting=1),
    )
    torch_copies, torch_floor = HandWritten(hidden, True), HandWritten(hidden, False)
    return {
        "ours": step(pair.parameters(), ours),
        "pyro": lambda: svi.step(x),
        "torch": step(torch_copies.parameters(), lambda: torch_copies.loss(x)),
        "floor": step(torch_floor.parameters(), lambda: torch_floor.loss(x)),
    }


def measure(runs, repeats: int) -> dict[str, float]:
    times = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        f"{'H/B':>8} {'ours ms':>8} {'pyro ms':>8} {'torch ms':>8} {'floor ms':>8}"
        f" {'pyro/ours':>10} {'ours/torch':>10} {'floor/torch':>11}"
    )
    for hidden, batch in SIZES:
        ms = measure(contenders(hidden, batch), args.repeats)
        pyro.clear_param_store()
        ratios = (ms["pyro"] / ms["ours"], ms["ours"] / ms["torch"], ms["floor"] / ms["torch"])
        rows.append({"hidden": hidden, "batch": batch, "ms": ms})
        print(
            f"{f'{hidden}/{batch}':>8} "
            + " ".join(f"{v:8.2f}" for v in ms.values())
            + f" {ratios[0]:10.2f} {ratios[1]:10.2f} {ratios[2]:11.2f}",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
