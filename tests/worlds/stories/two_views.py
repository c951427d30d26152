"""BYOL, told: what one view of an image predicts is where the other view's code lies.

Story   z | x ~ vMF(prediction(net(x)), kappa)
Guide   q(z | other view) = vMF(target(other), narrow)   target: moving average of net
Paper   Grill et al. Bootstrap your own latent. NeurIPS 2020, arXiv 2006.07733; with contrast > 0
        the term of He et al. Momentum Contrast. CVPR 2020, arXiv 1911.05722
Shapes  B rows, A rows of all processes, S draws of a row, D = H W C pixels, M entries of a code
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ppl_models import Batch, Card, Config, Pair, data, guides, inference, setting
from ppl_models.image_networks import SMALL, conv_encoder
from ppl_models.networks import Net
from ppl_models.spherical import VonMisesFisher, direction

STEPS = (data.Crop(area=(0.5, 1)), data.Flip(), data.Noise((0.02, 0.02)))


@dataclass(frozen=True)
class TwoViewsConfig(Config):
    """Settings."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x", shape_from="x")
    latent: int = setting(16, "M, entries of z", minimum=2)
    channels: tuple[int, ...] = setting(SMALL, "maps of each layer", minimum=1)
    hidden: tuple[int, ...] = setting((64,), "units of each dense layer", minimum=1)
    kappa: float = setting(10.0, "concentration about the prediction", minimum=0)
    narrow: float = setting(1000.0, "concentration about the target's code", minimum=0)
    decay: float = setting(0.99, "of the moving average at first; 1 at last", minimum=0)
    contrast: float = setting(0.0, "weight of the InfoNCE term", minimum=0)


class OtherView(guides.Conditional):
    """q(z | other): about the target's code of the other view, of the image without one."""

    def __init__(self, net: torch.nn.Module, concentration: float) -> None:
        super().__init__(("x", "other?"))
        self.net, self.concentration = inference.target_of(net), concentration

    def forward(self, **values: Tensor) -> VonMisesFisher:
        """Batch shape ``(B,)``, event shape ``(M,)``."""
        code = direction(self.net(x=values.get("other", values["x"])))
        return VonMisesFisher(code, code.new_tensor(self.concentration))


class TwoViews(Pair):
    """Codes that two views of an image share."""

    Config = TwoViewsConfig
    config: TwoViewsConfig
    card = Card(
        name="two-views",
        title="Bootstrap your own latent",
        authors="Jean-Bastien Grill et al.",
        year=2020,
        arxiv="2006.07733",
        task="codes that two views of an image share",
        data={},
        latents={"z": "code, a direction (M)"},
        covariates={"x": "image (D)"},
        density="codes",
        objectives=("elbo",),
    )

    def __init__(self, config: TwoViewsConfig) -> None:
        super().__init__(config)
        M, H = config.latent, config.hidden
        self.net = conv_encoder(config.shape, M, channels=config.channels, hidden=H)
        self.predictor = Net({"code": M}, H, M, "relu")
        self.guide = guides.Factored(z=OtherView(self.net, config.narrow))

    def model(self, batch: Batch) -> None:
        """p(z | x)."""
        with self.plate(batch):
            loc = direction(self.predictor(code=self.net(x=batch["x"])))  # B x M
            pyro.sample("z", VonMisesFisher(loc, loc.new_tensor(self.config.kappa)))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Waves of pixels."""
        size = math.prod(self.config.shape)
        waves = torch.arange(1.0, rows * size + 1, dtype=self.like().dtype).sin().abs()
        return {"x": waves.reshape(rows, size).to(self.like().device)}

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, whose log p(z | x) is BYOL's loss; with contrast, InfoNCE beside it."""
        bound = bound or inference.ELBO()
        weight = self.config.contrast
        term = inference.Penalty("infonce", info_nce, weight, across_rows=True)
        return bound + term if weight else bound

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One stage: fresh views in each step, and then the target follows."""
        decay = inference.Anneal(self.config.decay, 1, shape="cosine")
        target = self.guide.factors["z"].net
        return (
            inference.Stage(
                self.objective(bound),
                sites=("x",),  # labels split no batch
                prepare=data.views("x", ("x", "other"), STEPS, self.config.shape),
                after=inference.moving_average(target, self.net, decay),
            ),
        )


def info_nce(run: inference.Evaluation) -> Tensor:
    """-log p(own row | prediction, codes of all rows) ``(B,)``."""
    codes, p = run.codes("z"), run.likelihood("z")
    z = run.every_row(codes.values, 1)  # S x A x M
    loc = (p.concentration.unsqueeze(-1) * p.loc).expand(*codes.shape, -1)
    scores = torch.einsum("sbm,sam->sba", loc.reshape(codes.values.shape), z)
    own = scores.diagonal(run.first_row, 1, 2)[:, : run.batch.count]
    return codes.mean(scores.logsumexp(-1) - own)
