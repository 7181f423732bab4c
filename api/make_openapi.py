"""Writes openapi.json from the program: `python api/make_openapi.py`.

A test compares the two, so that every change of the API changes the committed contract.
"""

import json
from pathlib import Path

from maas.control.app import create_app
from maas.control.openapi.document import describe

CONTRACT = Path(__file__).with_name("openapi.json")


def document() -> str:
    return json.dumps(describe(create_app(None)), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    CONTRACT.write_text(document(), encoding="utf-8")
