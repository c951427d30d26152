"""Pictures of cells that a drug makes swell and glow: what would they have been at another dose?

Story   dose   size | dose   glow | dose, size   z ~ N(0, I)   x ~ N(net(size, glow, z), s^2)
Guide   q(z | x, size, glow)
Paper   Pawlowski et al. NeurIPS 2020, arXiv 2006.06485
Shapes  B rows, D pixels, L latents
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.networks import Net
from ppl_models.parts.scm import SCM, Affine, Between, Mechanism, Positive


@dataclass(frozen=True)
class Settings(Config):
    data_dim: int = setting(64, "D", from_data="x", minimum=1)
    latent: int = setting(2, "L", minimum=1)
    hidden: tuple[int, ...] = setting((64, 64), "units of decoder and guide", minimum=1)


class Cells(Pair):
    Config = Settings
    card = Card(
        name="cells", title="Cells under a drug", authors="you", year=2026, arxiv="2006.06485",
        task="counterfactuals", latents={"z": "all else in the picture (L)"},
        data={"x": "picture (D)", "dose": "mg", "size": "um", "glow": "0 to 1"},
        objectives=("elbo",), causes=("dose", "size", "glow"),
    )  # fmt: skip

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        D, L, H = config.data_dim, config.latent, config.hidden
        self.scm = SCM(  # each a column, which is a vector of one number
            dose=Mechanism({}, Affine, outer=(Positive(0.0, 1.0),), size=1),
            size=Mechanism({"dose": 1}, Affine, outer=(Positive(1.0, 0.5),), size=1),
            glow=Mechanism({"dose": 1, "size": 1}, Affine, outer=(Between(0.0, 1.0),), size=1),
        )
        self.decoder = Net({"size": 1, "glow": 1, "z": L}, H, D)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D, "size": 1, "glow": 1}, H))

    def model(self, batch: Batch) -> None:
        unit = dist.Normal(self.log_scale.new_zeros(self.config.latent), 1.0).to_event(1)
        with self.plate(batch):
            causes = self.scm.sample(batch)  # B x 1 each
            z = pyro.sample("z", unit)  # B x L
            seen = self.scm.inner(causes, ("size", "glow"))  # of the order of one
            x = dist.Normal(self.decoder(z=z, **seen), self.log_scale.exp()).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))  # B x D
