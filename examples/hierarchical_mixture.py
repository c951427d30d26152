"""Kinds of subjects, each measured a few times: a mixture with variances that all of them share.

Story   p ~ Dir(1)   mean_c ~ N(0, 10^2)   between, within ~ LogNormal(0, 1)   once
        y ~ Cat(p)   z | y ~ N(mean_y, between^2)   x_d | z ~ N(z, within^2)   for each subject
Guide   q(p) q(means) q(between) q(within) once, q(z | x, globals) for each; y is the model's
Paper   Kingma, Welling. Auto-encoding variational Bayes, Appendix F. ICLR 2014, arXiv 1312.6114
Shapes  E enumeration dimensions on the left, B rows, C kinds, D visits

    python examples/hierarchical_mixture.py --data subjects.csv --out runs/subjects

The table has a column ``kind``, known for few subjects, and a column for each visit; it is
simulated without ``--data``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal, init_to_feasible, init_to_value
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, data, guides, inference, register, setting
from ppl_models.networks import Scalar

TRUTH = {
    "shares": np.array([0.5, 0.3, 0.2]),
    "means": np.array([-4.0, 0.0, 3.0]),
    "between": np.array(0.8),
    "within": np.array(0.5),
}
KINDS = ("low", "middle", "high")
SHORT = 40  # steps that are too few


@dataclass(frozen=True)
class Settings(Config):
    visits: int = setting(4, "D, measurements of a subject", from_data="x", minimum=1)
    kinds: int = setting(3, "C", from_data="kind", minimum=2)
    start: tuple[float, ...] = setting((-1.0, 0.0, 1.0), "where q(means) starts, one per kind")
    hidden: tuple[int, ...] = setting((16,), "units of the guide", minimum=1)


@register("hierarchical_mixture")
class HierarchicalMixture(Pair):
    Config = Settings
    card = Card(
        name="hierarchical_mixture", title="Kinds of subjects", authors="you", year=2026,
        arxiv="1312.6114", task="clustering", data={"x": "measurements (D)"}, labels=("kind",),
        objectives=("enumerated",),
        latents={
            "shares": "of the kinds (C)", "means": "of each kind (C)", "kind": "which (C)",
            "between": "deviation of subjects of a kind", "within": "of visits of a subject",
            "z": "the subject's own level",
        },
    )  # fmt: skip

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.zero = nn.Buffer(torch.zeros(()))
        rows = Batch({"x": torch.zeros(2, config.visits)})
        seen = {"x": config.visits, "means": config.kinds, "between": Scalar(), "within": Scalar()}
        start = init_to_value(
            values={"means": torch.tensor(config.start)}, fallback=init_to_feasible
        )
        normal = partial(AutoNormal, init_loc_fn=start, init_scale=0.02)
        self.guide = guides.Mixed(
            guides.Globals(self.model, rows, normal),
            guides.Factored(z=guides.Normal(Scalar(), seen, config.hidden)),
        )

    def model(self, batch: Batch) -> None:
        C, D, zero = self.config.kinds, self.config.visits, self.zero
        shares = pyro.sample("shares", dist.Dirichlet(zero.new_ones(C)))
        means = pyro.sample("means", dist.Normal(zero.new_zeros(C), 10.0).to_event(1))
        between = pyro.sample("between", dist.LogNormal(zero, 1.0))
        within = pyro.sample("within", dist.LogNormal(zero, 1.0))
        with self.plate(batch):
            kind, listed = dist.Categorical(shares), {"enumerate": "parallel"}
            y = pyro.sample("kind", kind, obs=batch.get("kind"), infer=listed)  # E x B
            z = pyro.sample("z", dist.Normal(means[y], between))  # E x B
            x = dist.Normal(z.unsqueeze(-1), within).expand((*z.shape, D)).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))  # E x B x D


def simulate(subjects: int, seed: int, visits: int = 4) -> pd.DataFrame:
    """Subjects of three kinds; the kind of one in ten is known."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, subjects, p=TRUTH["shares"])
    level = TRUTH["means"][kind] + TRUTH["between"] * rng.standard_normal(subjects)
    x = level[:, None] + TRUTH["within"] * rng.standard_normal((subjects, visits))
    frame = pd.DataFrame(x, columns=[f"visit_{d + 1}" for d in range(visits)])
    known = np.where(rng.random(subjects) < 0.1, kind, -1)
    return frame.assign(kind=pd.Categorical.from_codes(known, KINDS))


def intervals(run: inference.Run, mass: float = 0.9) -> dict[str, Tensor]:
    """Lower and upper ends ``(2, ...)`` of what all subjects share, by name."""
    ends = torch.tensor([(1 - mass) / 2, (1 + mass) / 2])
    drawn = {name: run.global_posterior(name).sample((4000,)) for name in TRUTH}
    return {name: values.quantile(ends, 0) for name, values in drawn.items()}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit a table for too short and for long enough; returns intervals and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CSV file; simulated if left out")
    parser.add_argument("--out", type=Path, help="folder for the run, labels.csv and report.html")
    parser.add_argument("--subjects", type=int, default=300)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    simulated = simulate(asked.subjects, asked.seed)
    frame = simulated if asked.data is None else pd.read_csv(asked.data)
    rows = data.from_frame(frame, labels="kind", splits=(1, 0, 0))  # all are trained on
    level = frame.drop(columns="kind").mean(axis=1)
    known = level.groupby(frame["kind"].astype(str)).mean()
    start = tuple(known[list(rows.train.classes["kind"])])

    def fitted(steps: int, **options: Any) -> inference.Run:
        pair = zoo.build("hierarchical_mixture", rows, start=start)
        options |= {"batch_size": len(frame), "learning_rate": 0.05, "seed": asked.seed}
        return inference.fit(pair, rows, steps=steps, **options)

    early = fitted(SHORT).check()
    print(f"After {SHORT} steps:", early, sep="\n")
    run = fitted(asked.steps, schedule="cosine(last=0.01)")
    late, ends = run.check(), intervals(run)
    print(f"After {asked.steps} steps:", late, sep="\n")
    for name, (low, high) in ends.items():
        truth = f", simulated with {TRUTH[name]}" if asked.data is None else ""
        print(f"{name:>8} {low.numpy().round(2)} to {high.numpy().round(2)}{truth}")
    if asked.out is not None:
        run.save(asked.out, overwrite=True)
        run.predict(rows.train).to_csv(asked.out / "labels.csv")
        run.report(asked.out / "report.html")
    return {"early": early, "late": late, "intervals": ends, "run": run}


if __name__ == "__main__":
    main()
