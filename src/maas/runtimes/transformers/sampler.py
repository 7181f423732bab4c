"""The next token of each sequence of a batch, from what the model says of all tokens.

Order: bias and penalties, the grammar's mask, temperature, the most likely `top_k`, then `top_p`
of those. Each sequence draws with a generator of its own, so that a seed means the same whoever
else is in the batch.
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
"""Those of llama.cpp, so that the choice of an engine does not change how answers sound."""
LARGEST_TOP_K = 1000
_COLDEST = 1e-4
"""Temperatures below are as good as 0."""


@dataclass(frozen=True)
class SamplingDefaults:
    """How a model's publisher recommends to draw."""

    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    top_k: int = TOP_K


@dataclass(frozen=True)
class SampledToken:
    token: int
    logprob: float = 0.0
    """Natural logarithm of the probability that the model gave it, before anything was changed."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """The likeliest tokens with theirs, as many as were asked for."""


class SequenceSampler:
    """How one sequence chooses, and what it has chosen so far."""

    def __init__(
        self, generation: Generation, manner: SamplingDefaults, matcher: Any = None
    ) -> None:
        """`matcher`: llguidance's, which says after each token what may follow."""
        g = generation
        heat = manner.temperature if g.temperature is None else g.temperature
        self.is_greedy = heat < _COLDEST
        self.temperature = heat
        self.top_p = manner.top_p if g.top_p is None else g.top_p
        self.top_k = manner.top_k
        self.logprobs = g.logprobs
        self._random = np.random.default_rng(None if g.seed is None else g.seed % (1 << 64))
        self._bias = g.logit_bias
        self._presence, self._frequency = g.presence_penalty, g.frequency_penalty
        self._written: Counter[int] = Counter()
        self._matcher = matcher

    @property
    def is_plain(self) -> bool:
        """Whether it takes the model's numbers as they are."""
        has_penalty = bool(self._presence or self._frequency)
        return not (self._bias or has_penalty or self._matcher)

    @property
    def is_complete(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    def added(self) -> dict[int, float]:
        """By token, what biases and penalties add to its logit."""
        if not (self._presence or self._frequency):
            return self._bias
        changes = {t: -self._presence - self._frequency * n for t, n in self._written.items()}
        for token, bias in self._bias.items():
            changes[token] = changes.get(token, 0.0) + bias
        return changes

    def forbidden(self, count: int) -> NDArray[np.bool_] | None:
        """Of `count` tokens those that the grammar does not allow, [v], if there is one. Raises
        InferenceFailed."""
        if self._matcher is None:
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise InferenceFailed(f"the grammar failed: {self._matcher.get_error()[:200]}")
        return ~np.unpackbits(bits, count=count, bitorder="little").astype(bool)

    def draw(self, tokens: NDArray[np.int64], logits: NDArray[np.float64]) -> int:
        """One of `tokens`, which come with the likeliest first."""
        tokens, logits = tokens[: self.top_k], logits[: self.top_k] / self.temperature
        shares = np.exp(logits - logits[0])
        shares /= shares.sum()
        # The fewest tokens that have `top_p` together; at least one.
        kept = int(np.searchsorted(np.cumsum(shares), self.top_p)) + 1
        sums = np.cumsum(shares[:kept])
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(tokens[min(at, len(sums) - 1)])

    def note(self, token: int) -> None:
        """Tells that `token` was written."""
        self._written[token] += 1
        if self._matcher is not None:
            self._matcher.consume_token(token)


def choose(logits: torch.Tensor, choosers: list[SequenceSampler]) -> list[SampledToken | MaasError]:
    """For each row of `logits`, [n, v] on any device, what its chooser takes; or its error."""
    raw = logits.float()
    changed, wrong = _changed(raw, choosers)
    best, values = _best(changed, choosers)
    tokens = []
    for row, chooser in enumerate(choosers):
        if not math.isfinite(values[row][0]):
            wrong.setdefault(row, InferenceFailed("the model's numbers are not finite"))
        ids = best[row]
        is_first = chooser.is_greedy or row in wrong
        tokens.append(int(ids[0]) if is_first else chooser.draw(ids, values[row]))
    told = _logprobs(raw, choosers, tokens)
    for row, chooser in enumerate(choosers):
        if row not in wrong:
            chooser.note(tokens[row])
    return [
        wrong.get(row) or told.get(row) or SampledToken(token) for row, token in enumerate(tokens)
    ]


def _changed(
    raw: torch.Tensor, choosers: list[SequenceSampler]
) -> tuple[torch.Tensor, dict[int, MaasError]]:
    """Logits with biases, penalties and grammars in them, and by row the error of who has none.
    All rows at once: on a GPU each change costs as much as a thousand."""
    if all(chooser.is_plain for chooser in choosers):
        return raw, {}
    changed = raw.clone()
    added = [(row, t, v) for row, c in enumerate(choosers) for t, v in c.added().items()]
    if added:
        rows, tokens, values = zip(*added, strict=True)
        where = torch.tensor([rows, tokens], device=raw.device)
        what = torch.tensor(values, dtype=raw.dtype, device=raw.device)
        changed.index_put_((where[0], where[1]), what, accumulate=True)
    wrong: dict[int, MaasError] = {}
    masks: dict[int, NDArray[np.bool_]] = {}
    for row, chooser in enumerate(choosers):
        try:
            mask = chooser.forbidden(raw.shape[-1])
        except MaasError as error:
            wrong[row] = error
            continue
        if mask is not None:
            masks[row] = mask
    if masks:
        mask_of = torch.from_numpy(np.stack(list(masks.values()))).to(raw.device)
        held = list(masks)
        changed[held] = changed[held].masked_fill_(mask_of, -math.inf)
    return changed, wrong


def _best(
    logits: torch.Tensor, choosers: list[SequenceSampler]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The likeliest tokens of each row, as many as anybody draws from, and their logits."""
    count = max(1 if c.is_greedy else c.top_k for c in choosers)
    found: Any
    if count == 1:
        found = logits.max(dim=-1, keepdim=True)
    else:
        found = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return found.indices.cpu().numpy(), found.values.double().cpu().numpy()


def _logprobs(
    raw: torch.Tensor, choosers: list[SequenceSampler], tokens: list[int]
) -> dict[int, SampledToken]:
    """By row, for those that asked."""
    rows = [row for row, chooser in enumerate(choosers) if chooser.logprobs is not None]
    if not rows:
        return {}
    of_rows = torch.log_softmax(raw[rows], dim=-1)
    most = max(choosers[row].logprobs or 0 for row in rows)
    top = of_rows.topk(most, dim=-1) if most else None
    found = {}
    for at, row in enumerate(rows):
        pairs: list[tuple[int, float]] = []
        if top is not None:
            count = choosers[row].logprobs or 0
            ids, values = top.indices[at][:count].tolist(), top.values[at][:count].tolist()
            pairs = list(zip(ids, values, strict=True))
        found[row] = SampledToken(tokens[row], float(of_rows[at, tokens[row]]), pairs)
    return found
