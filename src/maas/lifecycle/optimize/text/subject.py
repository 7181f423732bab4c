"""The language model under optimization, and the text to judge candidates with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.models import Manifest
from maas.domain.signature import Signature
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.text.evaluation_text import PROMPTS, TEXT
from maas.runtimes.catalog import SCORERS

MOST_TEXT = 4 << 20
"""Most bytes read from a text file; `kind.MOST_CHUNKS` limits how much of it is scored."""


@dataclass(frozen=True)
class TextSubject:
    """A version whose first variant is one GGUF file."""

    original: Candidate
    signature: Signature
    text: str = TEXT
    """Text whose perplexity is compared."""
    name: str = "the text that comes with OpenMaaS"
    prompts: tuple[str, ...] = PROMPTS
    """Prompts whose greedy answers are compared."""

    @property
    def how(self) -> Mapping[str, Any]:
        return {"text": self.name, "data_digest": self.digest, "prompts": len(self.prompts)}

    @property
    def digest(self) -> str:
        """SHA-256 of text and prompts."""
        content = "\0".join([self.text, *self.prompts])
        return hashlib.sha256(content.encode()).hexdigest()


def generates_text(manifest: Manifest) -> bool:
    """Whether the version's first variant is one GGUF file for an engine that scores texts."""
    variant = manifest.variants[0]
    return (
        variant.runtime in SCORERS
        and len(variant.files) == 1
        and variant.files[0].name.endswith(".gguf")
    )


def text_subject(manifest: Manifest, original: Path, text: Path | None = None) -> TextSubject:
    """Subject with `original`, the file of the first variant, and `text`, a file in UTF-8.

    Raises InvalidInput if the text cannot be read.
    """
    variant = manifest.variants[0]
    candidate = Candidate(
        name=variant.name,
        runtime=variant.runtime,
        files={variant.files[0].name: original},
        options=variant.options,
        how={"by": "published"},
    )
    if text is None:
        return TextSubject(candidate, manifest.signature)
    try:
        with text.open("rb") as stream:
            content = stream.read(MOST_TEXT).decode(errors="ignore")
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(f"the text {text} cannot be read: {reason}", field="text") from None
    return TextSubject(candidate, manifest.signature, content, str(text))
