"""The sequences that an engine admits, once their prompts are tokenized."""

from __future__ import annotations

from dataclasses import dataclass

from maas.runtimes.text.options import fitting


@dataclass
class Reservation:
    reserved: int
    is_cancelled: bool = False


def test_sequences_that_fit_are_admitted_in_order() -> None:
    ready = [Reservation(30), Reservation(50), Reservation(10)]
    assert fitting(ready, [Reservation(40)], 100) == (ready[:1], ready[1:])
    assert fitting(ready, [Reservation(40)], 130) == (ready, [])
    # The small one does not overtake; otherwise the large one might wait for ever.
    assert fitting(ready, [Reservation(60)], 100) == (ready[:1], ready[1:])


def test_one_is_admitted_if_none_runs_and_cancelled_ones_always() -> None:
    large, cancelled = Reservation(500), Reservation(500, is_cancelled=True)
    assert fitting([large, cancelled, large], [], 100) == ([large, cancelled], [large])
    assert fitting([large, cancelled], [Reservation(1)], 100) == ([cancelled], [large])
