"""The part of the KV cache for control's probe."""

from __future__ import annotations

import pytest

from maas.runtimes.text.options import Sizes

openvino = pytest.importorskip("maas.runtimes.openvino.engine")


@pytest.mark.parametrize(
    ("context", "slots", "tokens"), [(4096, 1, 512), (128, 1, 128), (4096, 32, 33 * 32)]
)
def test_a_probe_has_room_for_a_chat_template_also_with_few_slots(
    context: int, slots: int, tokens: int
) -> None:
    assert openvino._probe_tokens(Sizes(context, slots, 4096)) == tokens
