from __future__ import annotations

import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.metrics.text_metrics import chrf, word_error_rate


def test_equal_texts_score_100_and_disjoint_ones_0() -> None:
    assert chrf(["The cat sat."], ["The cat sat."]) == pytest.approx(100)
    assert chrf(["aaaa"], ["bbbb"]) == 0
    assert chrf([""], [""]) == 0


def test_chrf_is_the_mean_over_n_of_precision_and_recall() -> None:
    # "abcd" and "abce": 3 of 4, 2 of 3, 1 of 2 and 0 of 1 n-grams; longer ones do not exist.
    mean = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert chrf(["abcd"], ["abce"]) == pytest.approx(100 * mean)
    # Recall weighs four times as much as precision: "ab" of "abab".
    precision, recall = (1 + 1) / 2, (2 / 4 + 1 / 3) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf(["ab"], ["abab"]) == pytest.approx(expected)


def test_white_space_does_not_count_and_texts_add_up() -> None:
    assert chrf(["a b c"], ["abc"]) == pytest.approx(100)
    both = chrf(["abcdef", "xxxxxx"], ["abcdef", "yyyyyy"])
    assert both == pytest.approx(50)


def test_inserted_deleted_and_substituted_words() -> None:
    assert word_error_rate(["Try again! Fail, again."], ["try again fail again"]) == 0
    assert word_error_rate(["a x c"], ["a b c"]) == pytest.approx(1 / 3)
    assert word_error_rate(["a c"], ["a b c"]) == pytest.approx(1 / 3)
    assert word_error_rate(["a b b c"], ["a b c"]) == pytest.approx(1 / 3)
    assert word_error_rate(["", "a"], ["a b", "a"]) == pytest.approx(2 / 3)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput):
        chrf("abc", ["abc"])
    with pytest.raises(InvalidInput):
        word_error_rate(["a"], ["a", "b"])
    with pytest.raises(InvalidInput):
        word_error_rate(["a"], [""])
