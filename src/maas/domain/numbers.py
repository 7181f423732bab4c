"""Numbers as people write them, for reports, charts, tables and messages."""

from __future__ import annotations

import math

SMALLEST_DECIMAL = 1e-4
LARGEST_DECIMAL = 1e15
"""Floats outside these two are written with an exponent."""
UNDEFINED = "–"


def format_number(value: float | None, unit: str = "", digits: int = 4) -> str:
    """`value` with thousands separators and `digits` significant digits, followed by `unit`.

    Integers are exact, and so is the integer part of a float from 1e-4 to 1e15: 0.9612, 12.35,
    10,630. A fraction has no zeros at its end. Other floats have an exponent: 2.1e-7. NaN and the
    infinities are written as words; None, an undefined value, is a dash.
    """
    if value is None:
        return UNDEFINED
    text = f"{value:,d}" if isinstance(value, int) else _float_text(float(value), digits)
    return f"{text} {unit}" if unit else text


def format_change(value: float | None, unit: str = "", digits: int = 4) -> str:
    """`value` as `format_number` writes it, with a plus sign if it is positive."""
    sign = "+" if value is not None and value > 0 else ""
    return sign + format_number(value, unit, digits)


def format_range(low: float, high: float, unit: str = "", digits: int = 4) -> str:
    """Both ends of an interval, `0.951 to 0.983`, followed by `unit`."""
    return f"{format_number(low, digits=digits)} to {format_number(high, unit, digits)}"


def _float_text(value: float, digits: int) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{max(digits, 1) - 1}e}".partition("e")
    if not SMALLEST_DECIMAL <= abs(value) < LARGEST_DECIMAL:
        return f"{_without_end_zeros(mantissa)}e{int(exponent)}"
    decimals = max(0, max(digits, 1) - 1 - int(exponent))
    return _without_end_zeros(f"{value:,.{decimals}f}")


def _without_end_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
