"""Chat templates are rendered as publishers expect, without access to anything else."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import Any

import pytest

from maas.domain.errors import InvalidInput, Unavailable
from maas.runtimes.text import chat_template
from maas.runtimes.text.chat_template import ChatTemplate

pytest.importorskip("jinja2", reason="needs the extra openvino")

HI = [{"role": "user", "content": "Hi"}]
PLAIN = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def rendered(source: str, messages: list[dict[str, Any]] = HI) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    try:
        return template.render(messages)
    finally:
        template.close()


def test_messages_become_a_prompt() -> None:
    assert rendered(PLAIN) == "<s><user>Hi\n<assistant>"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]
    assert rendered(PLAIN, parts) == "<s><user>a\nb\n<assistant>"


def test_a_message_is_not_a_template() -> None:
    content = "{{ 7 * 7 }}{% for a in range(9) %}"
    assert content in rendered(PLAIN, [{"role": "user", "content": content}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception('no system message, please') }}",
        "{% include '/etc/passwd' %}",
        "{% if",
    ],
)
def test_a_template_reaches_nothing(source: str) -> None:
    with pytest.raises(InvalidInput, match="chat template: "):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
    ],
)
def test_an_endless_template_is_terminated_and_the_next_request_works(source: str) -> None:
    guarded = "{% if messages[0]['content'] == 'boom' %}" + source + "{% endif %}" + PLAIN
    template = ChatTemplate(guarded, {"bos_token": "<s>"})
    with pytest.raises(InvalidInput, match="took more than"):
        template.render([{"role": "user", "content": "boom"}])
    assert template.render(HI) == "<s><user>Hi\n<assistant>"
    template.close()


def test_a_process_that_is_killed_between_two_prompts_is_replaced() -> None:
    with closing(ChatTemplate("{{ messages[0].content }}", {})) as template:
        assert template.render([{"role": "user", "content": "a"}]) == "a"
        worker = template._worker
        assert worker is not None
        worker.kill()
        worker.wait()
        assert template.render([{"role": "user", "content": "b"}]) == "b"


def test_a_prompt_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the prompt has more than"):
        rendered("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}")


def test_images_are_refused() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(InvalidInput, match="text only"):
        rendered(PLAIN, image)


@pytest.mark.parametrize("size", [2, 1 << 20])
def test_a_process_that_does_not_answer_times_out(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whether it does not answer, or does not even read the request."""
    with closing(ChatTemplate(PLAIN, {"bos_token": "<s>"})) as template:
        assert template._worker is not None
        os.kill(template._worker.pid, signal.SIGSTOP)
        monkeypatch.setattr(chat_template, "ANSWER_TIMEOUT_SECONDS", 0.2)
        with pytest.raises(Unavailable, match="does not answer"):
            template.render([{"role": "user", "content": "i" * size}])
        monkeypatch.undo()
        assert template.render(HI) == "<s><user>Hi\n<assistant>"
