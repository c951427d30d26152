"""Pictures of codes of blob: the parts of their KL, and where the cells of the grid lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Fits = Mapping[str, Sequence[Mapping[str, Any]]]
COLOURS = {"VAE": "tab:grey", "beta-VAE": "tab:orange", "FactorVAE": "tab:blue",
           "beta-TCVAE": "tab:green"}  # fmt: skip
PARTS = {
    "mutual_information": "information I(z; n)",
    "total_correlation": "total correlation",
    "dimension_wise": "dimension-wise KL",
}
SIDE = 24


def _cells(axes: Sequence[Any], fit: Mapping[str, Any], way: str) -> None:
    """The two codes that tell most of the cells, against the bump's column and row."""
    codes, scale = fit["codes"], fit["scale"]
    first, second = np.sort(np.argsort(scale.mean(0) / codes.std(0))[:2])
    place = np.indices((SIDE, SIDE)).reshape(2, -1)
    for ax, factor, values in zip(axes, ("column", "row"), place, strict=True):
        points = ax.scatter(codes[:, first], codes[:, second], c=values, s=5, cmap="viridis")
        ax.set_xlabel(f"mean of z[{first}]")
        ax.set_ylabel(f"mean of z[{second}]")
        ax.set_title(f"{way}, cells by {factor}", fontsize=9)
        ax.figure.colorbar(points, ax=ax, label=f"{factor} of the bump")


def information_and_codes(fits: Fits) -> Any:
    """TC against information of every fit, and the cells' mean codes of the first of two."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["parts", "a", "b"], ["parts", "c", "d"]], figsize=(12, 6), width_ratios=[1.25, 1, 1],
        layout="constrained",
    )  # fmt: skip
    ax = axes["parts"]
    for way, of_seeds in fits.items():
        x, y = ([fit[k] for fit in of_seeds] for k in ("mutual_information", "total_correlation"))
        ax.scatter(x, y, color=COLOURS[way], label=way, s=45)
    ax.set_xlabel("information of code and image I(z; n), nats")
    ax.set_ylabel("total correlation, nats")
    ax.set_title("blob, positions correlated; three seeds", fontsize=9)
    ax.legend()
    for names, way in (("ab", "VAE"), ("cd", "FactorVAE")):
        best = min(fits[way], key=lambda fit: fit["total_correlation"])
        _cells([axes[name] for name in names], best, way)
    return figure


def parts_and_codes(fits: Fits, shown: Sequence[str]) -> Any:
    """Parts of the KL of every way, and the cells' mean codes of two of them.

    Args:
        fits: By way; those at likelihood weight 1 end in ``w 1``.
        shown: Ways whose codes are shown, two of them.
    """
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["parts", "a", "b"], ["parts", "c", "d"]], figsize=(12, 6), width_ratios=[1.35, 1, 1],
        layout="constrained",
    )  # fmt: skip
    ax, base = axes["parts"], np.zeros(len(fits))
    for part, label in PARTS.items():
        value = np.array([np.mean([fit[part] for fit in of]) for of in fits.values()])
        error = [np.std([fit[part] for fit in of], ddof=1) for of in fits.values()]
        ax.bar(range(len(fits)), value, 0.6, base, label=label, yerr=error, capsize=3)
        base += value
    labels = [f"{way}\nw 4" if "w 1" not in way else way.replace(", ", "\n") for way in fits]
    ax.set_xticks(range(len(fits)), labels, fontsize=8)
    ax.set_ylabel("parts of the mean KL, nats")
    ax.set_xlabel("pair, and weight w of the likelihood")
    ax.set_title("blob, positions correlated; three seeds", fontsize=9)
    ax.legend()
    for names, way in zip(("ab", "cd"), shown, strict=True):
        best = min(fits[way], key=lambda fit: fit["total_correlation"])
        _cells([axes[name] for name in names], best, way)
    return figure
