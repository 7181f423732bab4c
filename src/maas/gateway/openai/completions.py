"""`POST /v1/completions`: OpenAI's older protocol, which continues a text as it is."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob
from maas.gateway.http.request import Request
from maas.gateway.openai.answers import UNLIKELY, StreamedAnswer, answer_head, usage_of
from maas.gateway.openai.request import GenerationRequest, completion_request
from maas.gateway.text.answers import WholeAnswer
from maas.gateway.text.generation import TextRequest, TextService
from maas.gateway.text.json_body import model_and_fields
from maas.protocols.openai_responses import Completion, CompletionChoice

OPERATION = "completions"
KIND = "text_completion"


class CompletionsHandler:
    def __init__(self, service: TextService) -> None:
        self._service = service

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = model_and_fields(request.body)
        try:
            generation_request = completion_request(body)
            text_request = self._service.begin(request, generation_request.model, OPERATION)
        except MaasError as error:
            self._service.refuse(request, OPERATION, model, error)
            return
        writer = (_Stream if generation_request.stream else _Whole)(
            text_request, generation_request
        )
        text_request.start(
            writer, generation_request.generations, generation_request.choices_per_prompt
        )


def _echoes(generation_request: GenerationRequest) -> list[str]:
    """The text before each choice: its prompt if the client asked for it, else empty."""
    echoes = []
    for generation in generation_request.generations:
        prompt = generation.prompt
        echoes.append(prompt if generation_request.echo and isinstance(prompt, str) else "")
    return echoes


class _Whole(WholeAnswer):
    def __init__(self, text_request: TextRequest, generation_request: GenerationRequest) -> None:
        super().__init__(text_request, len(generation_request.generations))
        self._model = generation_request.model
        self._with_logprobs = generation_request.generations[0].logprobs is not None
        self._echoes = _echoes(generation_request)

    def body(self) -> Completion:
        head = answer_head(self.text_request, self._model, "cmpl", KIND)
        choices = []
        for index, choice in enumerate(self.choices):
            text = self._echoes[index] + choice.text
            logprobs = _logprobs(choice.logprobs, 0) if self._with_logprobs else None
            choices.append(CompletionChoice(index, text, logprobs, choice.reason))
        return Completion(**head, choices=choices, usage=usage_of(self.text_request.usage))


class _Stream(StreamedAnswer):
    def __init__(self, text_request: TextRequest, generation_request: GenerationRequest) -> None:
        head = answer_head(text_request, generation_request.model, "cmpl", KIND)
        super().__init__(text_request, head, generation_request.include_usage)
        self._with_logprobs = generation_request.generations[0].logprobs is not None
        self._echoes = _echoes(generation_request)
        self._characters = [0] * len(generation_request.generations)
        """Characters written per choice."""

    def write(self, choice: int, piece: Piece) -> None:
        echo, self._echoes[choice] = self._echoes[choice], ""
        logprobs = None
        if self._with_logprobs:
            logprobs = _logprobs(piece.logprobs, self._characters[choice])
        self._characters[choice] += len(piece.text)
        if echo or piece.text or piece.logprobs:
            self.stream.send(self._choice(choice, echo + piece.text, logprobs))

    def end_choice(self, choice: int, ending: Ending) -> None:
        self.stream.send(self._choice(choice, self._echoes[choice], None, ending.reason))

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None = None
    ) -> bytes:
        return self.chunk(
            {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        )


def _logprobs(logprobs: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """Parallel lists over the tokens; `offset` is the character offset of the first token."""
    offsets, alternatives = [], []
    for token in logprobs:
        offsets.append(offset)
        offset += len(token.token)
        alternatives.append({other.token: max(other.logprob, UNLIKELY) for other in token.top})
    return {
        "tokens": [token.token for token in logprobs],
        "token_logprobs": [max(token.logprob, UNLIKELY) for token in logprobs],
        "top_logprobs": alternatives,
        "text_offset": offsets,
    }
