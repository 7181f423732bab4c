"""Numbers in reports, charts, tables and messages."""

from __future__ import annotations

import math

import pytest

from maas.domain.numbers import format_change, format_number, format_range


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (-7, "-7"),
        (1234, "1,234"),
        (223766, "223,766"),
        (10**18 + 1, "1,000,000,000,000,000,001"),
    ],
)
def test_an_integer_is_exact(value: int, expected: str) -> None:
    assert format_number(value) == expected
    assert format_number(value, digits=1) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (0.5, "0.5"),
        (0.96123, "0.9612"),
        (-0.96123, "-0.9612"),
        (0.99996, "1"),
        (5.958, "5.958"),
        (9.99996, "10"),
        (47.4649, "47.46"),
        (999.6, "999.6"),
        (999.96, "1,000"),
        (1234.5, "1,234"),
        (1234.56, "1,235"),
        (10630.0, "10,630"),
        (10630.4, "10,630"),
        (223766.0, "223,766"),
        (-223766.2, "-223,766"),
        (0.0001, "0.0001"),
        (0.00012345, "0.0001234"),
        (1e7, "10,000,000"),
        (999_999_999_999_999.0, "999,999,999,999,999"),
    ],
)
def test_a_float_has_four_digits_and_no_exponent(value: float, expected: str) -> None:
    assert format_number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.00009999, "9.999e-5"),
        (2.1e-7, "2.1e-7"),
        (-5e-06, "-5e-6"),
        (5e-324, "4.941e-324"),
        (1e15, "1e15"),
        (1.23456e20, "1.235e20"),
    ],
)
def test_very_small_and_very_large_floats_have_an_exponent(value: float, expected: str) -> None:
    assert format_number(value) == expected


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.96123, 3, "0.961"),
        (12.3456, 3, "12.3"),
        (1234.56, 3, "1,235"),
        (12.6, 1, "13"),
        (12.6, 0, "13"),
        (0.123456789, 6, "0.123457"),
        (2.14e-7, 2, "2.1e-7"),
    ],
)
def test_digits_limit_the_fraction_only(value: float, digits: int, expected: str) -> None:
    assert format_number(value, digits=digits) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "-infinity"), (None, "–")],
)
def test_values_that_are_no_number_are_named(value: float | None, expected: str) -> None:
    assert format_number(value) == expected


def test_the_unit_follows_after_a_space_where_there_is_a_value() -> None:
    assert format_number(12.5, "ms") == "12.5 ms"
    assert format_number(3, "%") == "3 %"
    assert format_number(None, "ms") == "–"


def test_a_change_has_a_sign_unless_it_is_zero() -> None:
    assert format_change(0.0125) == "+0.0125"
    assert format_change(-3, "rows") == "-3 rows"
    assert format_change(0.0) == "0"
    assert format_change(None) == "–"


def test_a_range_has_its_unit_once() -> None:
    assert format_range(0.95123, 0.98) == "0.9512 to 0.98"
    assert format_range(1, 2.5, "ms", digits=1) == "1 to 2 ms"
