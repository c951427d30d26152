"""p3VAE: a material is seen under a light that a fixed formula, not a network, turns into x.

Story   y ~ Cat(1/C)   z_P ~ Beta(1, (1 - m) / m)   z_A ~ Dirichlet(1)
        x | y, z_P, z_A ~ exp(-R(x, rho(y, z_A) illumination(z_P)) / T), R squares and angle
Guide   q(y | x) q(z_P | x, y) q(z_A | x, y): y enumerated, Beta and Dirichlet reparameterised
Paper   Thoreau, Risser, Achard, Berthelot, Briottet. arXiv 2210.10418
Shapes  E enumeration and particles on the left, B rows, C classes, D bands, A endmembers
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ppl_models import Batch, Card, Config, Pair, guides, inference, setting
from ppl_models.data.render.sunlight import SUN
from ppl_models.guides.simplex import BetaShares, DirichletShares
from ppl_models.networks import Label, Net, Scalar
from ppl_models.parts.label_prior import LabelPrior, label_prior
from ppl_models.parts.physics import Surface, clear_sky
from ppl_models.parts.spectral_angle import SpectralAngle


@dataclass(frozen=True)
class P3VAEConfig(Config):
    """Settings of the authors' simulated scene."""

    data_dim: int = setting(95, "D, bands of x", from_data="x", minimum=2)
    classes: int = setting(5, "C, number of materials", from_data="y", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior()
    endmembers: int = setting(4, "A, spectra that a material mixes", minimum=2)
    hidden: tuple[int, ...] = setting((256,), "units of each hidden layer", minimum=1)
    light: str = setting("physics", "formula or network", choices=("physics", "free"))
    wavelengths: tuple[float, ...] = setting((), "micrometres; empty for those of spectra")
    sun: float = setting(SUN, "theta_s, zenith angle of the sun, degrees")
    stop: bool = setting(True, "unlabelled rows leave the decoder as it is")
    temperature: float = setting(1e-4, "T, the paper's beta: weight of KL beside R", minimum=1e-9)
    angle: float = setting(1.0, "l_sam, weight of the spectral angle in R", minimum=1e-9)
    label_entropy: float = setting(1e-2, "l_ent, weight of the entropy of q(y | x)", minimum=0)
    mix_entropy: float = setting(1e-2, "l_enc, weight of the entropy of drawn z_A", minimum=0)
    norms: float = setting(1e-2, "l_clf, weight of the classifier's mean row norms", minimum=0)


class P3VAE(Pair):
    """Materials in sun and shade."""

    Config = P3VAEConfig
    config: P3VAEConfig
    card = Card(
        name="p3vae",
        title="p3VAE: a physics-integrated generative model",
        authors="R. Thoreau, L. Risser, V. Achard, B. Berthelot, X. Briottet",
        year=2022,
        arxiv="2210.10418",
        task="semi-supervised classification with physics in the decoder",
        data={"x": "reflectance as measured (D)"},
        latents={"y": "material (C)", "z_P": "direct irradiance", "z_A": "endmember shares (A)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "the loss over beta: T = beta in the likelihood and KL counts once, a true bound",
            "importance-sampled labels weigh by p(x | y, z) = exp(-R / T), not by exp(-R)",
            "softplus over the least concentrations, perceptrons, one learning rate",
        ),
        limits=(
            "the likelihood is not normalised: no log evidence, bounds compare on the same data",
            "diffuse light follows z_P: shade that sees much of the sky is misread, loam as tile",
            "only colour tells dark from unlit: z_P may be off by a factor, q(z_P) is too narrow",
        ),
        picture="materials and direct irradiance of a scene with cast shadows, true and inferred",
    )

    def __init__(self, config: P3VAEConfig) -> None:
        super().__init__(config)
        D, C, A, H = config.data_dim, config.classes, config.endmembers, config.hidden
        sky, free = clear_sky(D, config.sun, config.wavelengths), config.light == "free"
        self.cos_theta = sky.cos_theta
        light = Net({"z_P": Scalar()}, H, D, "relu") if free else sky
        self.label_prior = LabelPrior(config.label_prior, {"y": C})
        self.decoder = Surface(C, A, D, H, light)
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": D}, H, "relu"),
            z_P=guides.Beta({"x": D, "y": Label(C)}, H, "relu"),
            z_A=guides.Dirichlet(A, {"x": D, "y": Label(C)}, H, "relu"),
        )

    def model(self, batch: Batch) -> None:
        """p(y) p(z_P) p(z_A) p(x | y, z_P, z_A)."""
        c, m, one = self.config, self.cos_theta, self.like().new_ones
        with self.plate(batch):
            y = pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))  # E x B
            z_P = pyro.sample("z_P", BetaShares(one(()), (1 - m) / m * one(())))  # E x B
            z_A = pyro.sample("z_A", DirichletShares(one(c.endmembers)))  # E x B x A
            f = self.decoder(y, z_A, z_P=z_P)
            pyro.sample("x", SpectralAngle(f, c.temperature, c.angle), obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The paper's loss over beta: labelled and unlabelled rows as two means."""
        c, T = self.config, self.config.temperature
        bound = bound or inference.EnumeratedELBO(kl="analytic", beta={"y": c.label_entropy / T})
        if c.stop:
            bound = inference.StopGradient(bound, self.decoder, missing="y")
        mix = inference.Penalty("H(z_A) where y is seen", self.mix_entropy, c.mix_entropy / T)
        norms = inference.Penalty("row norms of q(y|x)", self.norms, c.norms / T)
        return inference.Weighted(bound, "y") + inference.Classification("y", 1 / T) + mix + norms

    def mix_entropy(self, run: inference.Evaluation) -> Tensor:
        """Entropy of the drawn shares in labelled rows, as a mean over them."""
        if "y" not in run.batch:
            return self.like().new_zeros(run.batch.count)
        drawn = run.codes("z_A")
        entropy = -drawn.mean((drawn.values * drawn.values.log()).sum(-1))
        return run.batch.total / run.batch.observed["y"] * entropy

    def norms(self, run: inference.Evaluation) -> Tensor:
        """Mean length of the rows of the classifier's weights."""
        weights = (p for p in self.guide.factors["y"].parameters() if p.dim() == 2)
        return torch.stack([w.norm(dim=1).mean() for w in weights]).mean()
