"""Quantiles of Student's t distribution, for intervals of repeated measurements.

The two rows of the published table are enough here: scipy comes with an extra only, and series
that approximate the quantile are worst for the few degrees of freedom that are usual here.
"""

from __future__ import annotations

from collections.abc import Mapping

QUANTILES: Mapping[float, tuple[float, ...]] = {
    0.995: (
        63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
        3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845,
    ),
    0.9995: (
        636.619, 31.599, 12.924, 8.610, 6.869, 5.959, 5.408, 5.041, 4.781, 4.587,
        4.437, 4.318, 4.221, 4.140, 4.073, 4.015, 3.965, 3.922, 3.883, 3.850,
    ),
}  # fmt: skip
"""Quantiles for 1, 2, … degrees of freedom, by probability."""


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile for one of the probabilities of `QUANTILES` and at least one degree of freedom.

    Beyond the table it is that of the last entry, which is slightly too large.
    """
    row = QUANTILES[probability]
    return row[min(degrees, len(row)) - 1]
