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
    sample,
)

LOGITS = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))


def sampler(top_k: int = 40, **fields: Any) -> SequenceSampler:
    return SequenceSampler(
        Generation(prompt="x", **({"temperature": 0.0} | fields)), SamplingDefaults(top_k=top_k)
    )


def tokens(samplers: list[SequenceSampler], logits: Any = LOGITS) -> list[int]:
    results = sample(logits[: len(samplers)], samplers)
    return [result.token for result in results if isinstance(result, SampledToken)]


def test_each_row_is_sampled_with_the_parameters_of_its_sequence() -> None:
    likeliest = LOGITS.argmax(-1).tolist()
    rows = [
        sampler(), sampler(logit_bias={7: 50.0}), sampler(presence_penalty=20.0),
        sampler(temperature=1.0, top_p=0.0, seed=1),
    ]  # fmt: skip
    assert tokens(rows) == [likeliest[0], 7, likeliest[2], likeliest[3]]
    again = tokens(rows)
    assert again[:2] == [likeliest[0], 7] and again[2] != likeliest[2]
    assert again[3] == likeliest[3]


def test_a_seed_gives_the_same_tokens_in_any_batch() -> None:
    alone = [tokens([sampler(temperature=1.0, seed=3)], LOGITS[1:]) for _ in range(2)]
    in_batch = tokens([sampler(temperature=1.0), sampler(temperature=1.0, seed=3), sampler()])
    assert alone[0] == alone[1] == [in_batch[1]]


def test_draws_have_the_probabilities_of_the_most_likely_tokens() -> None:
    drawing = sampler(top_k=3, temperature=0.7, top_p=1.0, seed=3)
    counts = Counter(tokens([drawing])[0] for _ in range(3000))
    best = LOGITS[0].topk(3)
    shares = torch.softmax(best.values / 0.7, -1).tolist()
    for token, share in zip(best.indices.tolist(), shares, strict=True):
        assert abs(counts[token] / 3000 - share) < 0.04  # four standard errors
    assert sum(counts.values()) == 3000 and len(counts) == 3


def test_logprobs_are_those_of_the_unchanged_logits() -> None:
    (one,) = sample(LOGITS[:1], [sampler(logprobs=2, logit_bias={7: 50.0})])
    assert isinstance(one, SampledToken) and one.token == 7
    logprobs = torch.log_softmax(LOGITS[0], -1)
    assert one.logprob == pytest.approx(float(logprobs[7]), abs=1e-5)
    assert [token for token, _ in one.top] == logprobs.topk(2).indices.tolist()


def test_logits_that_are_nan_fail_only_their_own_sequence() -> None:
    broken = LOGITS.clone()
    broken[0] = float("nan")
    first, second = sample(broken[:2], [sampler(temperature=1.0), sampler()])
    assert isinstance(first, InferenceFailed)
    assert isinstance(second, SampledToken) and second.token == int(LOGITS[1].argmax())
