"""A text classifier whose scores are sums over the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.domain import standard_signatures
from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.models import Task
from maas.lifecycle.sources.recognize import recognize
from maas.runtimes.base import LoadRequest
from tests.support.models.onnx import mood_model

pytest.importorskip("tokenizers", reason="the runtime's own library")

from maas.runtimes.encoders.text_classifier import TextClassifier

LABELS = ["bad", "good", "neither"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    mood_model(tmp_path)
    return {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def classifier(files: dict[str, bytes], top: int = 3, **options: Any) -> TextClassifier:
    runtime = TextClassifier()
    signature = standard_signatures.text_classification(top)
    runtime.load(LoadRequest(files, signature, 1, {"labels": LABELS} | options))
    return runtime


def labels(runtime: TextClassifier, *texts: str) -> list[str]:
    outputs = runtime.predict({"text": np.array(texts, object)})
    return [row[0] for row in outputs["label"]]


def test_texts_in_one_batch_get_their_own_labels(files: dict[str, bytes]) -> None:
    runtime = classifier(files)
    texts = ["great", "awful awful great", "table", "great " * 90 + "awful", ""]
    assert labels(runtime, *texts) == ["good", "bad", "neither", "good", "neither"]


def test_scores_are_probabilities_by_default(files: dict[str, bytes]) -> None:
    row = {"text": np.array(["great"], object)}
    shares = classifier(files).predict(row)["score"][0]
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    logits = classifier(files, scale="none").predict(row)["score"][0]
    assert np.exp(logits)[:2].tolist() == pytest.approx(
        (shares * np.exp(logits).sum())[:2].tolist(), rel=1e-4
    )
    each = classifier(files, scale="independent").predict(row)["score"][0]
    assert each.tolist() == pytest.approx((1 / (1 + np.exp(-logits))).tolist())
    assert classifier(files, top=1).predict(row)["label"].tolist() == [["good"]]


def test_other_files_and_options_are_refused(files: dict[str, bytes]) -> None:
    for options in ({"labels": ["a"]}, {"labels": "abc"}, {"scale": "x"}, {"max_tokens": 0}):
        with pytest.raises(InvalidInput):
            classifier(files, 1, **options)
    for name in ("model.onnx", "tokenizer.json"):
        with pytest.raises(InvalidInput, match=name):
            classifier({k: v for k, v in files.items() if k != name})
    with pytest.raises(ContextLengthExceeded, match="100 tokens"):
        labels(classifier(files), "great " * 101)


def test_pull_recognizes_it_by_its_configuration(files: dict[str, bytes], tmp_path: Path) -> None:
    recognized = recognize({name: tmp_path / name for name in files})
    assert (recognized.runtime, recognized.task) == ("text_classifier", Task.TEXT_CLASSIFICATION)
    assert recognized.options == {"labels": LABELS, "scale": "probabilities"}
    config = json.loads(files["config.json"])
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"1": "x"}}))
    with pytest.raises(InvalidInput, match="id2label"):
        recognize({name: tmp_path / name for name in files})
