"""What our steps are timed against: Pyro as it is usually and as an expert writes it, and PyTorch.

Modules with ``loss(x)`` are hand-written PyTorch; those with ``model`` and ``guide`` are Pyro's.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

D, C, L, N = 784, 10, 50, 50_000


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))


def by_label(net: nn.Sequential, label, other):
    """An mlp of one-hot label and vector without a copy: their products are summed."""
    first = net[0]
    return net[2](net[1](F.linear(other, first.weight[:, C:], first.bias) + label))


def log_bernoulli(logits, x):
    entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return -entropy.sum(-1)


# ---- Pyro ------------------------------------------------------------------------------------


class PyroM2(nn.Module):
    """M2 as most tutorials write it: one-hot labels concatenated with x, x copied per label."""

    elbo = TraceEnum_ELBO

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.enc_y, self.enc_z = mlp(D, hidden, C), mlp(D + C, hidden, 2 * L)
        self.dec = mlp(C + L, hidden, D)

    def joint(self, net, y, other):
        one_hot = F.one_hot(y, C).to(other.dtype)
        shape = torch.broadcast_shapes(one_hot.shape[:-1], other.shape[:-1])
        parts = [one_hot.expand(*shape, C), other.expand(*shape, other.shape[-1])]
        return net(torch.cat(parts, -1))

    def model(self, x, rows):
        pyro.module("pair", self)
        with pyro.plate("data", N, subsample=rows):
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(C)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            logits = self.joint(self.dec, y, z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, rows):
        with pyro.plate("data", N, subsample=rows):
            q = dist.Categorical(logits=self.enc_y(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            loc, log_var = self.joint(self.enc_z, y, x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


class ExpertM2(PyroM2):
    """The same without copies: the label's column of the first weights is added late."""

    def joint(self, net, y, other):
        return by_label(net, F.embedding(y, net[0].weight[:, :C].T), other)


class PyroVAE(nn.Module):
    elbo = TraceMeanField_ELBO

    def __init__(self, enc: nn.Module, dec: nn.Module, latent: int = L) -> None:
        super().__init__()
        self.enc, self.dec, self.latent = enc, dec, latent

    def model(self, x, rows):
        pyro.module("pair", self)
        with pyro.plate("data", N, subsample=rows):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.dec(z)).to_event(1), obs=x)

    def guide(self, x, rows):
        with pyro.plate("data", N, subsample=rows):
            loc, log_var = self.enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


# ---- PyTorch ---------------------------------------------------------------------------------


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
        return by_label(net, net[0].weight[:, :C].T.unsqueeze(1), other)

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
    def __init__(self, enc: nn.Module, dec: nn.Module) -> None:
        super().__init__()
        self.enc, self.dec = enc, dec

    def loss(self, x):
        loc, log_var = self.enc(x).chunk(2, -1)
        z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + log_var.exp() - 1 - log_var).sum(-1)
        return (kl - log_bernoulli(self.dec(z), x)).sum() * (N / len(x))


class ChannelsLast(nn.Module):
    """Flat images, the channels of a pixel beside each other, as maps without a copy."""

    def forward(self, x):
        return x.view(len(x), 64, 64, -1).permute(0, 3, 1, 2)


class Flat(nn.Module):
    """Maps in the channels-last layout as flat images."""

    def forward(self, maps):
        return maps.permute(0, 2, 3, 1).flatten(1)


def conv_networks(channels: int, latent: int, last: bool) -> tuple[nn.Module, nn.Module]:
    """The disentanglement study's networks at 64 x 64, as its ports to PyTorch write them.

    ``last``: in the channels-last layout, weights too, which takes knowing that it is faster.
    """
    act = nn.ReLU
    enc = nn.Sequential(
        ChannelsLast() if last else nn.Unflatten(1, (channels, 64, 64)),
        *(nn.Conv2d(channels, 32, 4, 2, 1), act(), nn.Conv2d(32, 32, 4, 2, 1), act()),
        *(nn.Conv2d(32, 64, 2, 2), act(), nn.Conv2d(64, 64, 2, 2), act()),
        *(nn.Flatten(), nn.Linear(1024, 256), act(), nn.Linear(256, 2 * latent)),
    )
    dec = nn.Sequential(
        *(nn.Linear(latent, 256), act(), nn.Linear(256, 1024), act()),
        nn.Unflatten(1, (64, 4, 4)),
        *(nn.ConvTranspose2d(64, 64, 4, 2, 1), act(), nn.ConvTranspose2d(64, 32, 4, 2, 1), act()),
        *(nn.ConvTranspose2d(32, 32, 4, 2, 1), act()),
        *(nn.ConvTranspose2d(32, channels, 4, 2, 1), Flat() if last else nn.Flatten()),
    )
    if last:
        enc, dec = (net.to(memory_format=torch.channels_last) for net in (enc, dec))
    return enc, dec
