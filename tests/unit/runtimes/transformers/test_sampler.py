"""The next token of each sequence of a batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from maas.domain.errors import InferenceFailed
from maas.domain.generation import Generation

pytest.importorskip("torch", reason="needs the extra transformers")

import torch

from maas.runtimes.transformers.sampler import (
    SampledToken,
    SamplingDefaults,
    SequenceSampler,
    choose,
)

LOGITS = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))


def chooser(top_k: int = 40, **fields: Any) -> SequenceSampler:
    return SequenceSampler(
        Generation(prompt="x", **({"temperature": 0.0} | fields)), SamplingDefaults(top_k=top_k)
    )


def tokens(choosers: list[SequenceSampler], logits: Any = LOGITS) -> list[int]:
    found = choose(logits[: len(choosers)], choosers)
    return [one.token for one in found if isinstance(one, SampledToken)]


def test_each_row_is_chosen_as_its_own_sequence_wants() -> None:
    likeliest = LOGITS.argmax(-1).tolist()
    rows = [
        chooser(), chooser(logit_bias={7: 50.0}), chooser(presence_penalty=20.0),
        chooser(temperature=1.0, top_p=0.0, seed=1),
    ]  # fmt: skip
    assert tokens(rows) == [likeliest[0], 7, likeliest[2], likeliest[3]]
    again = tokens(rows)
    assert again[:2] == [likeliest[0], 7] and again[2] != likeliest[2]
    assert again[3] == likeliest[3]


def test_a_seed_means_the_same_alone_and_beside_others() -> None:
    alone = [tokens([chooser(temperature=1.0, seed=3)], LOGITS[1:]) for _ in range(2)]
    beside = tokens([chooser(temperature=1.0), chooser(temperature=1.0, seed=3), chooser()])
    assert alone[0] == alone[1] == [beside[1]]


def test_draws_have_the_shares_of_the_likeliest() -> None:
    drawing = chooser(top_k=3, temperature=0.7, top_p=1.0, seed=3)
    found = Counter(tokens([drawing])[0] for _ in range(3000))
    best = LOGITS[0].topk(3)
    shares = torch.softmax(best.values / 0.7, -1).tolist()
    for token, share in zip(best.indices.tolist(), shares, strict=True):
        assert abs(found[token] / 3000 - share) < 0.04  # four standard errors
    assert sum(found.values()) == 3000 and len(found) == 3


def test_logprobs_are_the_models_whatever_was_changed() -> None:
    (one,) = choose(LOGITS[:1], [chooser(logprobs=2, logit_bias={7: 50.0})])
    assert isinstance(one, SampledToken) and one.token == 7
    said = torch.log_softmax(LOGITS[0], -1)
    assert one.logprob == pytest.approx(float(said[7]), abs=1e-5)
    assert [token for token, _ in one.top] == said.topk(2).indices.tolist()


def test_numbers_that_are_none_fail_their_own_sequence_only() -> None:
    broken = LOGITS.clone()
    broken[0] = float("nan")
    first, second = choose(broken[:2], [chooser(temperature=1.0), chooser()])
    assert isinstance(first, InferenceFailed)
    assert isinstance(second, SampledToken) and second.token == int(LOGITS[1].argmax())
