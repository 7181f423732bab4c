"""Chat templates of strangers: rendered as publishers expect, and never more than that."""

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


def test_what_a_message_says_is_no_template() -> None:
    said = "{{ 7 * 7 }}{% for a in range(9) %}"
    assert said in rendered(PLAIN, [{"role": "user", "content": said}])


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
def test_a_template_that_would_go_on_for_ever_is_ended_and_the_next_works(source: str) -> None:
    guarded = "{% if messages[0]['content'] == 'boom' %}" + source + "{% endif %}" + PLAIN
    template = ChatTemplate(guarded, {"bos_token": "<s>"})
    with pytest.raises(InvalidInput, match="took more than"):
        template.render([{"role": "user", "content": "boom"}])
    assert template.render(HI) == "<s><user>Hi\n<assistant>"
    template.close()


def test_a_process_that_was_killed_between_two_prompts_is_replaced() -> None:
    with closing(ChatTemplate("{{ messages[0].content }}", {})) as template:
        assert template.render([{"role": "user", "content": "a"}]) == "a"
        worker = template._worker
        assert worker is not None
        worker.kill()
        worker.wait()
        assert template.render([{"role": "user", "content": "b"}]) == "b"


def test_a_flood_of_text_is_cut_off() -> None:
    with pytest.raises(InvalidInput, match="writes more than"):
        rendered("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}")


def test_pictures_are_not_dropped_in_silence() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(InvalidInput, match="text only"):
        rendered(PLAIN, picture)


@pytest.mark.parametrize("size", [2, 1 << 20])
def test_a_process_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whether it does not answer, or does not even take what it is asked."""
    with closing(ChatTemplate(PLAIN, {"bos_token": "<s>"})) as template:
        assert template._worker is not None
        os.kill(template._worker.pid, signal.SIGSTOP)
        monkeypatch.setattr(chat_template, "PATIENCE_SECONDS", 0.2)
        with pytest.raises(Unavailable, match="does not answer"):
            template.render([{"role": "user", "content": "i" * size}])
        monkeypatch.undo()
        assert template.render(HI) == "<s><user>Hi\n<assistant>"
