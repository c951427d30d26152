"""Where pairs and rows may be: the devices whose random numbers and types training relies on."""

from __future__ import annotations

import torch

SUPPORTED = ("cpu", "cuda")


def device_of(name: str | torch.device) -> torch.device:
    """The device that an option asks for.

    Args:
        name: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or a
            device of torch.

    Raises:
        ValueError: If there is no such device, or it is not supported.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = f"expected auto, {' or '.join(SUPPORTED)}"
    if not isinstance(name, str | torch.device):
        raise ValueError(f"device is {name!r}, {expected}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}, {expected}") from None
    if device.type not in SUPPORTED:
        raise ValueError(f"device {str(name)!r} is not supported, {expected}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(name)!r} asked for, but no GPU is available; use cpu or auto"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise ValueError(f"device {str(name)!r} asked for, expected cuda:0 to cuda:{last}")
    return device


def check_device(what: str, device: torch.device) -> None:
    """Refuse what is elsewhere than on a supported device.

    Raises:
        ValueError: Naming what it is, the device, and those that are supported.
    """
    if device.type not in SUPPORTED:
        raise ValueError(
            f"{what} is on device {str(device)!r}, which is not supported, expected "
            f"{' or '.join(SUPPORTED)}"
        )
