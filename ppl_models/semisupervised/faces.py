"""Faces: who is seen under which light, with a decoder that knows how light falls.

Story   i ~ Cat(1/I)   l ~ N(m, diag s^2) in R^3   x | i, l ~ N(a_i max(n_i . l), sigma^2)
Guide   q(i | x) q(l | x): i enumerated where it is missing, l reparameterised
Paper   Siddharth et al. NIPS 2017, arXiv 1706.00400, Section 4.2 (intrinsic faces)
Shapes  E enumeration and particle dimensions on the left, B rows, I identities, D pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclass(frozen=True)
class FacesConfig(Config):
    """Settings for procedural faces of 16 x 16 pixels."""

    data_dim: int = setting(256, "D, pixels", from_data="x", minimum=1)
    identities: int = setting(8, "I, number of people", from_data="identity", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior(of="identity")
    hidden: tuple[int, ...] = setting((128, 128), "units of each hidden layer", minimum=1)
    decoder: str = setting("lambertian", "mean of x", choices=("lambertian", "free"))
    gamma: float = setting(1.0, "gamma, weight of a labelled row's bound", minimum=0)
    identity_weight: float = setting(20.0, "weight of log q(i | x); N / N_lab inside", minimum=0)
    light_weight: float = setting(6.0, "weight of log q(l | x); N / N_lab inside", minimum=0)


class Lambertian(nn.Module):
    """A relief with an albedo per identity, lit from one side.

    Args:
        identities: Number I of reliefs.
        pixels: Number D of pixels.
    """

    def __init__(self, identities: int, pixels: int) -> None:
        super().__init__()
        towards = torch.tensor([0.0, 0.0, 1.0])
        self.raw_normals = nn.Parameter(towards + 0.1 * torch.randn(identities, pixels, 3))
        self.raw_albedo = nn.Parameter(0.1 * torch.randn(identities, pixels))

    def forward(self, identity: Tensor, light: Tensor) -> Tensor:
        """Identities ``(...)`` and lights ``(..., 3)`` to pixels ``(..., D)``."""
        normals = F.normalize(self.raw_normals, dim=-1)[identity]  # ... x D x 3
        shade = (normals @ light.unsqueeze(-1)).squeeze(-1)
        # A slope on the dark side, so that a light that starts on the wrong one can turn.
        return self.raw_albedo.sigmoid()[identity] * F.leaky_relu(shade, 0.05)


class Faces(Pair):
    """Identity and light are labelled in a few rows, relief and albedo never."""

    Config = FacesConfig
    config: FacesConfig
    card = Card(
        name="faces",
        title="Learning Disentangled Representations with Semi-Supervised Deep Generative Models",
        authors="N. Siddharth, Brooks Paige, Jan-Willem van de Meent, Alban Desmaison, "
        "Noah D. Goodman, Pushmeet Kohli, Frank Wood, Philip H. S. Torr",
        year=2017,
        arxiv="1706.00400",
        task="semi-supervised inverse graphics",
        data={"x": "picture (D)"},
        latents={"identity": "who (I)", "light": "direction of the light (3)"},
        labels=("identity", "light"),
        objectives=("self_normalised", "enumerated", "iwelbo"),
        departs=(
            "reliefs and albedos are parameters, one per identity, where the paper has latents",
            "perceptrons instead of convolutions, and procedural faces instead of Yale B",
        ),
        limits=("knows the identities it was trained with; shadows that parts cast are missing",),
        picture="faces of the test set, and each under the lights of the line above, beside truth",
    )

    def __init__(self, config: FacesConfig) -> None:
        super().__init__(config)
        D, H, who = config.data_dim, config.hidden, Label(config.identities)
        self.label_prior = LabelPrior(config.label_prior, {"identity": who})
        free = config.decoder == "free"
        self.decoder = (
            Net({"identity": who, "light": 3}, H, D, "relu") if free else Lambertian(who, D)
        )
        self.light_mean = nn.Parameter(torch.tensor([0.0, 0.0, 1.0]))
        self.light_log_scale = nn.Parameter(torch.full((3,), -0.7))
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))
        self.guide = guides.Factored(
            identity=guides.Categorical(who, {"x": D}, H, "relu"),
            light=guides.Normal(3, {"x": D}, H, "relu"),
        )

    def model(self, batch: Batch) -> None:
        """p(i) p(l) p(x | i, l)."""
        people = self.label_prior("identity")
        lights = dist.Normal(self.light_mean, self.light_log_scale.exp()).to_event(1)
        with self.plate(batch):
            i = pyro.sample("identity", people, obs=batch.get("identity"))  # E x B
            light = pyro.sample("light", lights, obs=batch.get("light"))  # E x B x 3
            x = dist.Normal(self.decoder(identity=i, light=light), self.log_sigma.exp())
            pyro.sample("x", x.to_event(1), obs=batch.get("x"))  # E x B x D

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and both factors of the guide as supervised learners."""
        c = self.config
        bound = bound or inference.SelfNormalisedELBO(particles=1, gamma=c.gamma)
        who = inference.Classification("identity", c.identity_weight)
        return bound + who + inference.Classification("light", c.light_weight)
