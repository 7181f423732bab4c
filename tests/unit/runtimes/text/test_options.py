"""Which sequences an engine takes in, when it knows how long their prompts are."""

from __future__ import annotations

from dataclasses import dataclass

from maas.runtimes.text.options import fitting


@dataclass
class Sequence:
    reserved: int
    is_cancelled: bool = False


def test_as_many_as_fit_are_taken_in_their_order() -> None:
    ready = [Sequence(30), Sequence(50), Sequence(10)]
    assert fitting(ready, [Sequence(40)], 100) == (ready[:1], ready[1:])
    assert fitting(ready, [Sequence(40)], 130) == (ready, [])
    # The small one does not overtake: the large one would wait for ever.
    assert fitting(ready, [Sequence(60)], 100) == (ready[:1], ready[1:])


def test_one_is_taken_if_none_runs_and_who_was_cancelled_always() -> None:
    large, gone = Sequence(500), Sequence(500, is_cancelled=True)
    assert fitting([large, gone, large], [], 100) == ([large, gone], [large])
    assert fitting([large, gone], [Sequence(1)], 100) == ([gone], [large])
