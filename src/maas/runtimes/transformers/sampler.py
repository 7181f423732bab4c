"""Samples the next token of each sequence of a batch from the model's logits.

Order: bias and penalties, the grammar's mask, temperature, the most likely `top_k`, then `top_p`
of those. Each sequence has a random generator of its own, so that a seed gives the same tokens
whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maas.domain.errors import InferenceFailed, MaasError
from maas.domain.generation import Generation

TEMPERATURE, TOP_P, TOP_K = 0.8, 0.95, 40
"""The defaults of llama.cpp, so that answers do not depend on the engine."""
LARGEST_TOP_K = 1000
_COLDEST = 1e-4
"""Lower temperatures count as 0."""


@dataclass(frozen=True)
class SamplingDefaults:
    """Sampling parameters that a model's publisher recommends."""

    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    top_k: int = TOP_K


@dataclass(frozen=True)
class SampledToken:
    """A token, with logprobs if the sequence requests them."""

    token: int
    logprob: float = 0.0
    """Natural logarithm of the model's probability, before bias, penalties and grammar."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """The most likely tokens and their logprobs, as many as requested."""


class SequenceSampler:
    """Sampling parameters of one sequence, and the tokens that penalties count."""

    def __init__(
        self, generation: Generation, defaults: SamplingDefaults, matcher: Any = None
    ) -> None:
        """`matcher`: llguidance's LLMatcher, which computes the allowed tokens of each step."""
        g = generation
        self.temperature = defaults.temperature if g.temperature is None else g.temperature
        self.is_greedy = self.temperature < _COLDEST
        self.top_p = defaults.top_p if g.top_p is None else g.top_p
        self.top_k = defaults.top_k
        self.logprobs = g.logprobs
        self._random = np.random.default_rng(None if g.seed is None else g.seed % (1 << 64))
        self._bias = g.logit_bias
        self._presence, self._frequency = g.presence_penalty, g.frequency_penalty
        self._counts: Counter[int] = Counter()
        self._matcher = matcher

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the model's logits unchanged."""
        has_penalty = bool(self._presence or self._frequency)
        return not (self._bias or has_penalty or self._matcher)

    @property
    def candidates(self) -> int:
        """Number of the most likely tokens that it draws from."""
        return 1 if self.is_greedy else self.top_k

    @property
    def is_complete(self) -> bool:
        """Whether the grammar allows no further token."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    def added(self) -> dict[int, float]:
        """Sum of bias and penalties by token."""
        if not (self._presence or self._frequency):
            return self._bias
        changes = {t: -self._presence - self._frequency * n for t, n in self._counts.items()}
        for token, bias in self._bias.items():
            changes[token] = changes.get(token, 0.0) + bias
        return changes

    def forbidden(self, count: int) -> NDArray[np.bool_] | None:
        """Mask [count] of the tokens that the grammar forbids; None without a grammar. Raises
        InferenceFailed."""
        if self._matcher is None:
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise InferenceFailed(f"the grammar failed: {self._matcher.get_error()[:200]}")
        return ~np.unpackbits(bits, count=count, bitorder="little").astype(bool)

    def draw(self, tokens: NDArray[np.int64], logits: NDArray[np.float64]) -> int:
        """Draws one of `tokens`, which are sorted by descending logit."""
        tokens, logits = tokens[: self.top_k], logits[: self.top_k] / self.temperature
        shares = np.exp(logits - logits[0])
        shares /= shares.sum()
        # The fewest tokens with a total probability of `top_p`; at least one.
        count = int(np.searchsorted(np.cumsum(shares), self.top_p)) + 1
        sums = np.cumsum(shares[:count])
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(tokens[min(at, len(sums) - 1)])

    def accept(self, token: int) -> None:
        """Advances grammar and penalties by `token`."""
        self._counts[token] += 1
        if self._matcher is not None:
            self._matcher.consume_token(token)


def sample(logits: torch.Tensor, samplers: list[SequenceSampler]) -> list[SampledToken | MaasError]:
    """The next token, or an error, for each row of `logits`, [n, v] on any device."""
    raw = logits.float()
    adjusted, errors = _adjusted(raw, samplers)
    best, values = _best(adjusted, samplers)
    tokens = []
    for row, sampler in enumerate(samplers):
        if not math.isfinite(values[row][0]):
            errors.setdefault(row, InferenceFailed("the model's numbers are not finite"))
        ids = best[row]
        is_first = sampler.is_greedy or row in errors
        tokens.append(int(ids[0]) if is_first else sampler.draw(ids, values[row]))
    with_logprobs = _with_logprobs(raw, samplers, tokens)
    results: list[SampledToken | MaasError] = []
    for row, sampler in enumerate(samplers):
        if row in errors:
            results.append(errors[row])
            continue
        sampler.accept(tokens[row])
        results.append(with_logprobs.get(row) or SampledToken(tokens[row]))
    return results


def _adjusted(
    raw: torch.Tensor, samplers: list[SequenceSampler]
) -> tuple[torch.Tensor, dict[int, MaasError]]:
    """Logits with biases, penalties and grammars applied, and errors by row. All rows at once: on a
    GPU one change costs as much as a thousand."""
    if all(sampler.is_plain for sampler in samplers):
        return raw, {}
    adjusted = raw.clone()
    rows: list[int] = []
    tokens: list[int] = []
    values: list[float] = []
    for row, sampler in enumerate(samplers):
        added = sampler.added()
        rows += [row] * len(added)
        tokens += added.keys()
        values += added.values()
    if rows:
        places = torch.tensor([rows, tokens], device=raw.device)
        changes = torch.tensor(values, dtype=raw.dtype, device=raw.device)
        adjusted.index_put_((places[0], places[1]), changes, accumulate=True)
    errors: dict[int, MaasError] = {}
    masks: dict[int, NDArray[np.bool_]] = {}
    for row, sampler in enumerate(samplers):
        try:
            mask = sampler.forbidden(raw.shape[-1])
        except MaasError as error:
            errors[row] = error
            continue
        if mask is not None:
            masks[row] = mask
    if masks:
        forbidden = torch.from_numpy(np.stack(list(masks.values()))).to(raw.device)
        masked = list(masks)
        adjusted[masked] = adjusted[masked].masked_fill_(forbidden, -math.inf)
    return adjusted, errors


def _best(
    logits: torch.Tensor, samplers: list[SequenceSampler]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most likely tokens of each row, as many as any sampler draws from, and their logits."""
    count = max(sampler.candidates for sampler in samplers)
    best: Any
    if count == 1:
        best = logits.max(dim=-1, keepdim=True)
    else:
        best = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return best.indices.cpu().numpy(), best.values.double().cpu().numpy()


def _with_logprobs(
    raw: torch.Tensor, samplers: list[SequenceSampler], tokens: list[int]
) -> dict[int, SampledToken]:
    """Tokens with logprobs by row, for the sequences that request them."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.logprobs is not None]
    if not rows:
        return {}
    logprobs = torch.log_softmax(raw[rows], dim=-1)
    most = max(samplers[row].logprobs or 0 for row in rows)
    top = logprobs.topk(most, dim=-1) if most else None
    sampled = {}
    for at, row in enumerate(rows):
        pairs: list[tuple[int, float]] = []
        if top is not None:
            count = samplers[row].logprobs or 0
            ids, values = top.indices[at][:count].tolist(), top.values[at][:count].tolist()
            pairs = list(zip(ids, values, strict=True))
        sampled[row] = SampledToken(tokens[row], float(logprobs[at, tokens[row]]), pairs)
    return sampled
