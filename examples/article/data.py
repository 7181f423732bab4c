"""Rows for the example: ten numbers, and a value that is almost a weighted sum of them."""

import numpy as np


def rows(count: int = 2000, seed: int = 0) -> dict[str, object]:
    """x [count, 10] from 0 to 10; y = a weighted sum, bent where x0 exceeds x1, with noise."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 10, size=(count, 10)).astype(np.float32)
    weights = np.array([0.8, -0.5, 0.3, 0.9, -0.2, 0.6, -0.7, 0.1, 0.4, -0.3])
    y = x @ weights + np.maximum(0, x[:, 0] - x[:, 1]) + random.normal(0, 0.1, count)
    return {"x": x, "y": y, "target_name": "y", "name": "article rows"}
