"""A server on which a small real model writes text: SmolLM2-135M-Instruct."""

from __future__ import annotations

from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import Stack

WRITER = "smollm2"


def deploy_writer(stack: Stack) -> None:
    """Returns once callers reach it; skips the test without the weights or their engine."""
    client = stack.client()
    client.publish_prepared(text_model(smollm2(), WRITER))
    client.deploy(WRITER)
    stack.wait_ready(WRITER)
