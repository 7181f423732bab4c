"""Generated rows: ten numbers and a target that is almost their weighted sum."""

import numpy as np


def rows(count: int = 2000, seed: int = 0) -> dict[str, object]:
    """x [count, 10] from 0 to 10; y [count] a weighted sum with noise and a kink at x0 = x1."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 10, size=(count, 10)).astype(np.float32)
    weights = np.array([0.8, -0.5, 0.3, 0.9, -0.2, 0.6, -0.7, 0.1, 0.4, -0.3])
    y = x @ weights + np.maximum(0, x[:, 0] - x[:, 1]) + random.normal(0, 0.1, count)
    return {"x": x, "y": y, "target_name": "y", "name": "article rows"}
