"""Write measurements.npz: three classes of 5 measurements, which examples/factor_mixture.py fits.

Each class has a mean of its own and two directions in which its rows spread: ``x`` is 600 x 5,
``y`` holds 600 classes.
"""

import numpy as np

draws = np.random.default_rng(0)
y = np.arange(600) % 3
means, directions = 4 * draws.standard_normal((3, 5)), draws.standard_normal((3, 5, 2))
z = draws.standard_normal((600, 2))
x = means[y] + np.einsum("bdl,bl->bd", directions[y], z) + 0.3 * draws.standard_normal((600, 5))
np.savez("measurements.npz", x=x.astype("float32"), y=y)
