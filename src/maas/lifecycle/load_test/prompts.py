"""Reproducible prompts that differ from their first word, so that no prefix is cached."""

from __future__ import annotations

import random

_TEXT = """
water people light house paper river money music night story world morning garden winter summer
market number letter window street school father mother doctor teacher student writer picture
problem question answer reason moment minute second history science nature animal forest island
mountain ocean valley desert village city country nation party office company business industry
engine machine metal stone wood glass table chair kitchen dinner bread butter coffee sugar apple
orange flower grass horse cattle sheep bird fish color shape size weight length speed power
energy force heat fire smoke cloud rain snow wind storm season month week year future past start
finish journey travel train plane ship road bridge tower church hall room floor wall door roof
corner center north south east west left right above below early late quick slow strong weak
large small happy quiet simple common special public private modern ancient open closed empty
full clean bright dark deep high long short wide build carry change choose count cross dance
draw dream drive enter explain feel follow gather grow help hold join keep know learn leave
listen live look make measure meet move notice
"""
WORDS = _TEXT.split()
"""Short common words, most of which are a single token."""


def prompt(seed: int, level: int, number: int, words: int) -> str:
    """`words` words for the request `number` of a level."""
    draw = random.Random(f"{seed} {level} {number}")
    return " ".join(draw.choices(WORDS, k=words))


def words_for(tokens: int, words: int, counted: int) -> int:
    """Number of words with about `tokens` tokens, if `words` words have `counted` tokens."""
    return max(1, round(tokens * words / max(1, counted)))
