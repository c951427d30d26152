"""Steps of MVAE and MMVAE beside those of multivae, on the same networks and rows.

    pip install -e '.[multimodal]'
    python benchmarks/peer_multivae.py [--repeats 20] [--rows 128]

Interleaved in one process, on one thread: median milliseconds of loss, gradient and one step of
Adam, and medians of the ratios to multivae's step beside it. Rows are complete, or have all 31
patterns of five modalities in one batch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import pyro
import torch
from interleaved import Step, compiled, measure, ratio, stepping
from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset
from multivae.models import MMVAE, MVAE, MMVAEConfig, MVAEConfig
from multivae.models.base import ModelOutput
from multivae.models.nn.base_architectures import BaseDecoder, BaseEncoder
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models import Pair
from ppl_models.data import Table
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.inference.training.merged_rows import merged
from ppl_models.modalities import mark

LATENT, HIDDEN, SCALE = 16, 256, 0.15
SIZES = {"a": 64, "b": 144, "c": 100, "d": 40, "e": 200}
KINDS = ((2, False), (5, False), (5, True))  # modalities, and whether rows lack some


class Encoder(BaseEncoder):
    """One hidden layer, as the zoo's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.latent_dim = LATENT
        self.body = nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, LATENT) for _ in range(2))

    def forward(self, x: Tensor) -> ModelOutput:
        """Mean and log variance."""
        loc, log_variance = (head(self.body(x)) for head in self.heads)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Likewise."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> ModelOutput:
        """Medians of Laplace pixels."""
        return ModelOutput(reconstruction=self.net(z))


def pair_of(name: str, sites: tuple[str, ...]) -> Pair:
    settings = {"subsets": 0} if name == "mvae" else {"particles": 1}
    return zoo.build(
        name, modalities=sites, sizes=tuple(SIZES[s] for s in sites), latent=LATENT,
        kinds=("laplace",) * len(sites), scales=(SCALE,) * len(sites), hidden=(HIDDEN,),
        **settings,
    )  # fmt: skip


def theirs(name: str, sites: tuple[str, ...]) -> nn.Module:
    common = {
        "n_modalities": len(sites), "latent_dim": LATENT,
        "input_dims": {s: (SIZES[s],) for s in sites},
        "decoders_dist": dict.fromkeys(sites, "laplace"),
        "decoder_dist_params": {s: {"scale": SCALE} for s in sites},
    }  # fmt: skip
    networks = {s: Encoder(SIZES[s]) for s in sites}, {s: Decoder(SIZES[s]) for s in sites}
    if name == "mvae":
        return MVAE(MVAEConfig(**common, use_subsampling=True, k=0, warmup=0), *networks)
    options = {"prior_and_posterior_dist": "normal", "learn_prior": False, "loss": "iwae_looser"}
    return MMVAE(MMVAEConfig(**common, **options, K=1), *networks)


def steps(name: str, count: int, gaps: bool, rows: int) -> dict[str, Step]:
    torch.manual_seed(0)
    sites = tuple(SIZES)[:count]
    values = {s: torch.rand(rows, SIZES[s]) for s in sites}
    patterns = [p for k in range(1, count + 1) for p in itertools.combinations(sites, k)]
    if not gaps:
        patterns = patterns[-1:]
    masks = {
        s: torch.tensor([s in patterns[row % len(patterns)] for row in range(rows)]) for s in sites
    }
    table = Table("rows", values, observed=masks if gaps else {})
    pair = pair_of(name, sites)
    (batch,) = merged(pair, table).batches()
    objective = pair.objective()
    objective.at(Progress(0.5, 100))
    other = theirs(name, sites)
    known = {s: batch[s] for s in sites}
    if gaps:
        there = {s: batch[mark(s)] > 0 for s in sites}
        inputs = IncompleteDataset(data=known, masks=there)
    else:
        inputs = MultimodalBaseDataset(data=known)
    return {
        "eager": stepping(
            pair, lambda: objective.differentiable_loss(pair.model, pair.guide, (batch,))
        ),
        "compiled": compiled(pair_of(name, sites), objective, batch),
        "multivae": stepping(other, lambda: other(inputs, epoch=2).loss),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    for name, (count, gaps) in itertools.product(("mvae", "mmvae"), KINDS):
        every = steps(name, count, gaps, options.rows)
        times = measure(every, options.repeats)
        told = " | ".join(f"{statistics.median(times[what]):.1f}" for what in every)
        ratios = [ratio(times, w, "multivae") for w in ("eager", "compiled")]
        what = f"{name}, {count}{', 31 patterns' if gaps else ''}"
        print(f"| {what} | {told} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
