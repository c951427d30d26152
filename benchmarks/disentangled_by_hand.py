"""Losses of disentanglement papers as their published code has them, in hand-written PyTorch.

Formulas of disentanglement_lib (vae.py: beta, annealed, DIP, FactorVAE, beta-TCVAE), of
facebookresearch/disentangling-correlated-factors (HFS), ericyeats/nashae-beamsynthesis,
nmichlo/disent (overlap loss) and sinhasam/CRVAE, with the sums and signs that make each the
objective of its paper. Networks are those of the zoo's pairs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = 10


def conv_encoder(channels: int = 1, latent: int = LATENT) -> nn.Sequential:
    """Of the study by Locatello et al. (2019), for 64 x 64 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 2, 2), nn.ReLU(), nn.Conv2d(64, 64, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 2 * latent),
    )  # fmt: skip


def conv_decoder(channels: int = 1, latent: int = LATENT) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, 256), nn.ReLU(), nn.Linear(256, 1024), nn.ReLU(),
        nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, channels, 4, 2, 1),
    )  # fmt: skip


class VAE(nn.Module):
    """Bernoulli reconstruction plus KL, means over the batch, and a penalty of a subclass."""

    def __init__(self, channels: int = 1, latent: int = LATENT) -> None:
        super().__init__()
        self.enc, self.dec = conv_encoder(channels, latent), conv_decoder(channels, latent)
        self.shape = (channels, 64, 64)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        mean, log_variance = self.enc(x).chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(self.dec(z), x, reduction="none")
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return error.flatten(1).sum(1).mean(), kl.mean(), mean, log_variance, z

    def loss(self, x: Tensor) -> Tensor:
        error, kl, *_ = self.parts(x)
        return error + kl


class BetaVAE(VAE):
    def loss(self, x: Tensor) -> Tensor:
        error, kl, *_ = self.parts(x)
        return error + 4 * kl


class AnnealedVAE(VAE):
    def loss(self, x: Tensor) -> Tensor:
        error, kl, *_ = self.parts(x)
        return error + 1000 * (kl - 5.0).abs()


class DIPVAE(VAE):
    """Kind II; kind I leaves the variances out."""

    second = True

    def loss(self, x: Tensor) -> Tensor:
        error, kl, mean, log_variance, _ = self.parts(x)
        covariance = mean.T @ mean / len(mean) - mean.mean(0).outer(mean.mean(0))
        if self.second:
            covariance = covariance + log_variance.exp().mean(0).diag()
        diagonal = covariance.diagonal()
        off = (covariance - diagonal.diag()).square().sum()
        return error + kl + 10 * off + 10 * (diagonal - 1).square().sum()


class BetaTCVAE(VAE):
    def loss(self, x: Tensor) -> Tensor:
        error, kl, mean, log_variance, z = self.parts(x)
        gap = (z.unsqueeze(1) - mean).square() * (-log_variance).exp()
        log_q = -0.5 * (gap + log_variance + math.log(2 * math.pi))  # row x posterior x code
        joint = log_q.sum(2).logsumexp(1)
        return error + kl + 5 * (joint - log_q.logsumexp(1).sum(1)).mean()


class FactorVAE(VAE):
    """The study's: one batch for both kinds of codes, both networks in the same step."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (LATENT, *[1000] * 5):
            layers += [nn.Linear(size, 1000), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Linear(1000, 2))

    def loss(self, x: Tensor) -> Tensor:
        error, kl, _, _, self.z = self.parts(x)
        for parameter in self.critic.parameters():
            parameter.requires_grad_(False)
        logits = self.critic(self.z)
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)
        return error + kl + 35 * (logits[:, 0] - logits[:, 1]).mean()

    def critic_loss(self) -> Tensor:
        z = self.z.detach()
        moved = torch.stack([c[torch.randperm(len(c))] for c in z.T], 1)
        real = torch.zeros(len(z), dtype=torch.long)
        joint = F.cross_entropy(self.critic(z), real)
        return 0.5 * (joint + F.cross_entropy(self.critic(moved), 1 - real))


class HFS(VAE):
    """25 of the pairs of codes; every distance of a pair's product to its support at once."""

    def loss(self, x: Tensor) -> Tensor:
        error, kl, mean, _, _ = self.parts(x)
        pairs = torch.triu_indices(LATENT, LATENT, 1)
        pairs = pairs[:, torch.randperm(pairs.shape[1])[:25]]
        total = mean.new_zeros(())
        for i, j in pairs.T.tolist():
            support = mean[:, [i, j]]
            product = torch.cartesian_prod(mean[:, i], mean[:, j])
            distance = (product.unsqueeze(1) - support).square().sum(-1)
            total = total + distance.min(1).values.max()
        return error + kl + 300 * total


class Overlap(nn.Module):
    """Squared error plus that of blurred images; the blur as a 63 x 63 convolution."""

    def __init__(self, channels: int = 3, latent: int = 25, radius: int = 31) -> None:
        super().__init__()
        self.enc, self.dec = conv_encoder(channels, latent), conv_decoder(channels, latent)
        side = 2 * radius + 1
        kernel = torch.full((channels, 1, side, side), 1 / side**2)
        self.register_buffer("kernel", kernel)
        self.radius, self.weight = radius, float(side**2)

    def loss(self, x: Tensor) -> Tensor:
        mean, log_variance = self.enc(x).chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        y = self.dec(z)
        blurred = [
            F.conv2d(v, self.kernel, padding=self.radius, groups=v.shape[1]) for v in (y, x)
        ]
        error = (y - x).square() + self.weight * (blurred[0] - blurred[1]).square()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return error.flatten(1).sum(1).mean() + kl.mean()


class CRVAE(VAE):
    """Both images through encoder and decoder, and the KL between their codes."""

    def loss(self, x: Tensor) -> Tensor:
        angle = (2 * torch.rand(len(x)) - 1) * math.radians(15)
        size = 0.9 + 0.2 * torch.rand(len(x))
        shift = 0.2 * torch.rand(len(x), 2) - 0.1
        cos, sin = angle.cos() / size, angle.sin() / size
        theta = torch.stack(
            [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        moved = F.grid_sample(x, grid, align_corners=False).clamp(0, 1)
        error, kl, mean, log_variance, _ = self.parts(x)
        error_2, kl_2, mean_2, log_variance_2, _ = self.parts(moved)
        gap = (log_variance_2.exp() + (mean_2 - mean).square()) * (-log_variance).exp()
        between = 0.5 * (log_variance - log_variance_2 + gap - 1).sum(1).mean()
        return error + kl + error_2 + kl_2 + 0.1 * between


class NashAE(nn.Module):
    """The published one on Beamsynthesis: predictors one after the other, five steps of them."""

    def __init__(self, size: int = 1000, latent: int = 4) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Linear(size, 200), nn.SELU(), nn.Linear(200, 80), nn.SELU(), nn.Linear(80, 40),
            nn.SELU(), nn.Linear(40, latent), nn.Sigmoid(),
        )  # fmt: skip
        self.dec = nn.Sequential(
            nn.Linear(latent, 40), nn.SELU(), nn.Linear(40, 80), nn.SELU(), nn.Linear(80, 200),
            nn.SELU(), nn.Linear(200, size),
        )  # fmt: skip
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent, 40), nn.SELU(), nn.Linear(40, 40), nn.SELU(), nn.Linear(40, 1)
            )
            for _ in range(latent)
        )

    def told(self, z: Tensor) -> Tensor:
        seen = 1 - torch.eye(z.shape[1])
        return torch.cat([p(z * m) for p, m in zip(self.predictors, seen, strict=True)], 1)

    def predictor_loss(self, x: Tensor) -> Tensor:
        z = self.enc(x).detach()
        return 0.5 * (self.told(z) - z).square().mean()

    def loss(self, x: Tensor) -> Tensor:
        z = self.enc(x)
        told, true = self.told(z), z.detach()
        covariance = (true * told).mean(0) - true.mean(0) * told.mean(0)
        return 0.8 * 0.5 * (self.dec(z) - x).square().mean() + 0.2 * covariance.sum()
