"""Sequences in one batch of transformers' continuous batching, stepped by whoever owns it.

The library's own manager runs a thread that chooses tokens alike for all, tells nobody when a
request was cancelled, and copies all that was written for each token told. What is good is below
it: a cache in pages, a scheduler that splits long prompts, and the forward pass of any model. Those
are used here; each step gives the logits, and the caller says which tokens follow.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

from maas.domain.errors import InferenceFailed, InvalidInput

PAGE = 32
"""Tokens; the cache is handed out in such pages."""


class PagedBatch:
    """One model's sequences, each known by a number. Used by one thread."""

    def __init__(self, model: Any, sequences: int, tokens: int, batch: int) -> None:
        """`sequences` at once with `tokens` together, of which a step reads at most `batch`.

        Raises InvalidInput for a model whose layers the cache cannot hold.
        """
        settings = ContinuousBatchingConfig(
            page_size=PAGE,
            # Each sequence wastes at most a part of a page.
            num_blocks=-(-tokens // PAGE) + sequences,
            max_batch_tokens=max(batch, sequences),
            max_requests_per_batch=sequences,
            # Work that an earlier prompt left would make seeded answers differ.
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            # It would ask the hub for a kernel.
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
        """A sequence that begins with `tokens`. It is in the batch until it is dropped."""
        state = RequestState(str(number), tokens, max_new_tokens=None, eos_token_id=-1)
        self._processor.scheduler.add_waiting_request(state)

    def drop(self, number: int) -> None:
        """Takes a sequence out of the batch, and its tokens out of the cache."""
        self._processor.scheduler.set_request_cancellation(str(number))
        self._processor.scheduler.clear_cancelled_requests()

    def position(self, number: int) -> int:
        """How many tokens of a sequence in the batch were computed."""
        scheduler = self._processor.scheduler
        states = (scheduler.active_requests, scheduler.waiting_requests)
        return max(
            (of[str(number)].position_offset for of in states if str(number) in of), default=0
        )

    @torch.no_grad()
    def step(self) -> tuple[list[int], torch.Tensor]:
        """Computes one batch. The numbers of the sequences whose prompt is read, and for each a
        row of logits [n, v], there until the next step; whoever is not among them has read a part
        of its prompt, or waits."""
        if not self._processor.prepare_next_batch():
            raise InferenceFailed("the engine could schedule none of the sequences")
        inputs = self._processor.inputs_and_outputs
        due = [int(r.state.request_id) for r in inputs.requests_in_batch if r.has_new_token]
        return due, self._computed(inputs, len(due))

    def _computed(self, inputs: Any, due: int) -> torch.Tensor:
        """The logits [due, v] of a batch that the library made ready."""
        # Rows behind those that are due stand for none.
        rows = inputs.logits_indices[: max(1, due)]
        given = dict(inputs.get_model_kwargs()) | {"logits_to_keep": rows}
        logits: torch.Tensor = self._model(**given).logits[0, :due]
        return logits

    def put(self, tokens: list[int]) -> None:
        """What follows, in the order of what `step` gave. Once for each step."""
        outputs = self._processor.inputs_and_outputs.output_ids
        outputs[0, : len(tokens)] = torch.tensor(tokens, dtype=outputs.dtype)
        self._processor.update_batch()
