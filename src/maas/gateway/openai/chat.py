"""`POST /v1/chat/completions`: OpenAI's chat, whole and streamed."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob, ToolCallPiece
from maas.gateway.http.request import Request
from maas.gateway.openai.answers import StreamedAnswer, answer_head, token_logprob, usage_of
from maas.gateway.openai.request import GenerationRequest, chat_request
from maas.gateway.text.answers import ChoiceText, WholeAnswer
from maas.gateway.text.generation import TextRequest, TextService
from maas.gateway.text.json_body import model_and_fields
from maas.protocols.openai_requests import CalledFunction, ToolCall
from maas.protocols.openai_responses import AnswerMessage, ChatChoice, ChatCompletion

OPERATION = "chat"


class ChatHandler:
    def __init__(self, service: TextService) -> None:
        self._service = service

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = model_and_fields(request.body)
        try:
            generation_request = chat_request(body)
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


class _Whole(WholeAnswer):
    def __init__(self, text_request: TextRequest, generation_request: GenerationRequest) -> None:
        super().__init__(text_request, len(generation_request.generations))
        self._model = generation_request.model
        self._with_logprobs = generation_request.generations[0].logprobs is not None

    def body(self) -> ChatCompletion:
        head = answer_head(self.text_request, self._model, "chatcmpl", "chat.completion")
        choices = []
        for index, choice in enumerate(self.choices):
            logprobs = _logprobs(choice.logprobs) if self._with_logprobs else None
            choices.append(ChatChoice(index, _message(choice), logprobs, choice.reason))
        return ChatCompletion(**head, choices=choices, usage=usage_of(self.text_request.usage))


class _Stream(StreamedAnswer):
    def __init__(self, text_request: TextRequest, generation_request: GenerationRequest) -> None:
        head = answer_head(
            text_request, generation_request.model, "chatcmpl", "chat.completion.chunk"
        )
        super().__init__(text_request, head, generation_request.include_usage)
        self._with_logprobs = generation_request.generations[0].logprobs is not None
        self._begun: set[int] = set()

    def write(self, choice: int, piece: Piece) -> None:
        events = self._begin(choice)
        if piece.text or piece.logprobs:
            logprobs = _logprobs(piece.logprobs) if self._with_logprobs else None
            events += self._delta(choice, {"content": piece.text}, logprobs)
        if piece.tool_calls:
            calls = [_call_delta(part) for part in piece.tool_calls]
            events += self._delta(choice, {"tool_calls": calls})
        self.stream.send(events)

    def end_choice(self, choice: int, ending: Ending) -> None:
        self.stream.send(self._begin(choice) + self._delta(choice, {}, reason=ending.reason))

    def _begin(self, choice: int) -> bytes:
        """The first chunk of a choice, once."""
        if choice in self._begun:
            return b""
        self._begun.add(choice)
        # Clients concatenate contents, so the first must not be null.
        return self._delta(choice, {"role": "assistant", "content": ""})

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        return self.chunk(
            {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        )


def _message(choice: ChoiceText) -> AnswerMessage:
    calls = [ToolCall(call.id, CalledFunction(call.name, call.arguments)) for call in choice.calls]
    if not calls:
        return AnswerMessage("assistant", choice.text, None, UNSET)
    return AnswerMessage("assistant", choice.text or None, None, calls)


def _call_delta(part: ToolCallPiece) -> dict[str, Any]:
    if not part.id:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }


def _logprobs(logprobs: list[TokenLogprob]) -> dict[str, Any]:
    return {"content": [token_logprob(token) for token in logprobs], "refusal": None}
