"""A batch of sequences in transformers' continuous batching, stepped by its owner.

The library's own manager runs a thread that samples all sequences alike, does not report when a
request has been cancelled, and copies the whole output for each new token. The layer below it is
useful and used here: a paged KV cache, a scheduler that splits long prompts, and the forward pass
of any model. Each step returns logits, and the owner says which tokens follow.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

from maas.domain.errors import InferenceFailed, InvalidInput

PAGE = 32
"""Tokens per page of the KV cache."""


class PagedBatch:
    """The sequences of a model, each with a number. Used by one thread."""

    def __init__(self, model: Any, sequences: int, tokens: int, batch: int) -> None:
        """Room for `sequences` at a time with `tokens` in total; a step processes at most `batch`.

        Raises InvalidInput for a model with layers that the cache does not support.
        """
        settings = ContinuousBatchingConfig(
            page_size=PAGE,
            # Each sequence wastes at most a part of a page.
            num_blocks=-(-tokens // PAGE) + sequences,
            max_batch_tokens=max(batch, sequences),
            max_requests_per_batch=sequences,
            # Cached prefixes of earlier prompts would make seeded answers differ.
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            # Would download a kernel from the hub.
            auto_switch_to_flash=False,
            safety_margin=0.0,
        )
        plain = GenerationConfig(do_sample=False, eos_token_id=-1)
        if not model._supports_logits_to_keep():
            raise InvalidInput(
                f"the engine transformers cannot batch this model: {type(model).__name__} computes "
                "the logits of every token"
            )
        self._model = model
        try:
            with torch.no_grad():
                manager = model.init_continuous_batching(plain, settings)
                self._processor: Any = manager._create_batch_processor()
        except (ValueError, KeyError, AttributeError, NotImplementedError) as wrong:
            raise InvalidInput(
                f"the engine transformers cannot batch this model: {str(wrong)[:300]}"
            ) from None

    def add(self, number: int, tokens: list[int]) -> None:
        """Adds a sequence that begins with `tokens`, until it is dropped."""
        state = RequestState(str(number), tokens, max_new_tokens=None, eos_token_id=-1)
        self._processor.scheduler.add_waiting_request(state)

    def drop(self, number: int) -> None:
        """Removes a sequence from the batch, and its tokens from the cache."""
        self._processor.scheduler.set_request_cancellation(str(number))
        self._processor.scheduler.clear_cancelled_requests()

    def position(self, number: int) -> int:
        """Number of computed tokens of a sequence."""
        scheduler = self._processor.scheduler
        position = 0
        for states in (scheduler.active_requests, scheduler.waiting_requests):
            if str(number) in states:
                position = max(position, states[str(number)].position_offset)
        return position

    @torch.no_grad()
    def step(self) -> tuple[list[int], torch.Tensor]:
        """Computes one step.

        Returns the numbers of the n sequences whose prompt is processed, and their logits [n, v],
        valid until the next step. For other sequences it processed a part of the prompt, or
        nothing.
        """
        if not self._processor.prepare_next_batch():
            raise InferenceFailed("the engine could not schedule any sequence")
        inputs = self._processor.inputs_and_outputs
        due = [int(r.state.request_id) for r in inputs.requests_in_batch if r.has_new_token]
        return due, self._computed(inputs, len(due))

    def _computed(self, inputs: Any, due: int) -> torch.Tensor:
        """The logits [due, v] of a batch that the library has prepared."""
        # Rows behind the first `due` ones are padding.
        rows = inputs.logits_indices[: max(1, due)]
        arguments = dict(inputs.get_model_kwargs()) | {"logits_to_keep": rows}
        logits: torch.Tensor = self._model(**arguments).logits[0, :due]
        return logits

    def put(self, tokens: list[int]) -> None:
        """Sets the next tokens, in the order of the numbers from `step`; once after each step."""
        outputs = self._processor.inputs_and_outputs.output_ids
        outputs[0, : len(tokens)] = torch.tensor(tokens, dtype=outputs.dtype)
        self._processor.update_batch()
