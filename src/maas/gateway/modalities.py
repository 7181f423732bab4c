"""The doors to embeddings, speech and rerank, and their routes."""

from __future__ import annotations

from maas.domain.keys import Scope
from maas.gateway.http.forms import FORM
from maas.gateway.http.routes import Route
from maas.gateway.openai.audio import AudioHandler
from maas.gateway.openai.embeddings import EmbeddingsHandler
from maas.gateway.openai.errors import openai_shape
from maas.gateway.openai.rerank import RerankHandler
from maas.gateway.text.task_service import TaskService


class Modalities:
    def __init__(self, service: TaskService) -> None:
        self.embeddings = EmbeddingsHandler(service)
        self.rerank = RerankHandler(service)
        self.audio = AudioHandler(service)


def modality_routes(doors: Modalities, max_json: int, max_body: int) -> list[Route]:
    json = (
        ("/v1/embeddings", doors.embeddings.handle),
        ("/v1/rerank", doors.rerank.handle),
        ("/rerank", doors.rerank.handle),
    )
    forms = (
        ("/v1/audio/transcriptions", doors.audio.transcribe),
        ("/v1/audio/translations", doors.audio.translate),
    )
    return [
        *(
            Route("POST", path, Scope.CALL, handler, max_json, error_shape=openai_shape)
            for path, handler in json
        ),
        *(
            Route("POST", path, Scope.CALL, handler, max_body, (FORM,), error_shape=openai_shape)
            for path, handler in forms
        ),
    ]
