"""Beamsynthesis (Yeats, Liu, Womble, Li 2022, arXiv 2209.10677): trains of pulses in a linac."""

from __future__ import annotations

import numpy as np

from ppl_models.data.factors.grid import FactorData
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.tables.from_parts import Array

POINTS, END, DELAY = 1_000, 800, 3  # points of a signal; where its pulses end; how late it is
FREQUENCIES = (10.0, 15.0, 20.0)  # periods in a signal
DUTIES = tuple(round(0.2 + 0.005 * k, 3) for k in range(120))
RISE = ((0, 50, 100, 200, 280, 400), (0.0, 0.03, 0.25, 0.72, 0.95, 1.0))  # points, heights
SMOOTH = 7  # points of the Hann window that rounds the edges


def beamsynthesis() -> FactorData:
    """Current in a linear accelerator: 360 signals of 1,000 points from 0 to 1.

    Factors frequency 3 (10, 15, 20 periods in 1,000 points) and duty 120 (0.200 to 0.795, the
    share of a period in which the current is on). Pulses rise to full height over 400 points and
    end at 800; their edges are rounded. A pulse is a whole number of points long, so that some
    duties are alike: 212 signals differ. Made by a formula that explains 99.2 % of the variance of
    the published signals, which have a small ripple on their tops besides. A signal is an image of
    one line, 1 x 1000.
    """
    time = np.arange(POINTS)
    rise = np.interp(time, *RISE)
    window = np.hanning(SMOOTH)
    window /= window.sum()

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        frequency, duty = np.array(FREQUENCIES)[classes[:, :1]], np.array(DUTIES)[classes[:, 1:]]
        period = POINTS / frequency
        gate = ((time % period < duty * period) & (time < END)).astype(float)
        padded = np.pad(gate, ((0, 0), (SMOOTH // 2, SMOOTH // 2)))
        rounded = np.lib.stride_tricks.sliding_window_view(padded, SMOOTH, axis=1) @ window
        late = np.pad(rounded * rise, ((0, 0), (DELAY, 0)))[:, :POINTS]
        return {"x": late[:, None].astype(np.float32)}

    return FactorData("beamsynthesis", {"frequency": FREQUENCIES, "duty": DUTIES}, draw)


load = sampled(beamsynthesis)
