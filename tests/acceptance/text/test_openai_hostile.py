"""Hostile requests for generated text: a 4xx each, and the model stays available."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.maas import Stack, running
from tests.support.servers.text import TEXT_MODEL, deploy_text_model

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": TEXT_MODEL, "messages": HELLO, "max_tokens": 1},
    COMPLETIONS: {"model": TEXT_MODEL, "prompt": "Hi", "max_tokens": 1},
    MESSAGES: {"model": TEXT_MODEL, "messages": HELLO, "max_tokens": 1},
    COUNT: {"model": TEXT_MODEL, "messages": HELLO},
}
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000]
"""Numbers, as text, that JSON does not have or that are out of range."""
NOT_NUMBERS: list[Any] = ["1", True, [], {}, [1], {"a": 1}]
NOT_TEXTS: list[Any] = [1, 1.5, True, [1], {"a": "b"}]
SSTI = [
    "{{ 7*7 }}", "{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{config}}", "${7*7}",
    "<%= 7*7 %>", "#{7*7}", "{{ messages.append(1) }}", "{% include '/etc/passwd' %}",
    "{{ raise_exception('x') }}",
]  # fmt: skip
"""Texts with the syntax of templates, which must not be evaluated."""


def nested(depth: int, inner: Any = None) -> Any:
    value = inner
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value or {"type": "string"}}}
    return value


def linked(count: int, around: Any) -> Any:
    """Definitions that each refer to the next: libraries follow them by recursion."""
    definitions = {f"d{n}": around({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{count}": {"type": "array"}}}


SCHEMAS: list[Any] = [
    "x", [], True, {"type": "nothing"}, {"type": 5}, {"properties": []}, {"properties": 3},
    {"anyOf": "x"}, {"enum": "x"}, {"required": "x"}, {"$ref": "https://example.com/schema.json"},
    {"$ref": "file:///etc/passwd"}, {"$ref": 5}, {"type": "string", "pattern": 5},
    {"type": "string", "pattern": "(a+)+$"}, {"type": "string", "pattern": "^(a*)*b"},
    {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
    {"type": "string", "pattern": "a{1,1000000000}"}, {"type": "string", "pattern": "a" * 10_000},
    {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"},
    {"type": "string", "maxLength": 10**9}, {"type": "string", "minLength": -1},
    {"type": "array", "items": {"type": "string"}, "maxItems": 10**12},
    {"type": "string", "maxLength": True}, {"type": "string", "maxLength": 1.5},
    {"type": "number", "minimum": 10**40}, nested(40), nested(300),
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(6000)}},
    {"patternProperties": {"(a+)+": {"type": "string"}}},
    linked(1600, lambda inner: {"items": inner}), linked(1200, lambda inner: {"anyOf": [inner]}),
    linked(990, lambda inner: {"patternProperties": {"^a": inner}}),
    linked(2400, lambda inner: inner), {"type": "integer", "minimum": 0, "multipleOf": 99_999_989},
    {"allOf": [{"type": "integer", "minimum": 0, "multipleOf": n} for n in (9973, 9967)]},
]  # fmt: skip
MESSAGE_LISTS: list[Any] = [
    [], {}, "Hi", 5, [5], ["Hi"], [{}], [{"role": "user"}], [{"content": "Hi"}],
    [{"role": "root", "content": "Hi"}], [{"role": 5, "content": "Hi"}],
    [{"role": "function", "name": "f", "content": "Hi"}],
    [{"role": "user", "content": 5}], [{"role": "user", "content": {"a": 1}}],
    [{"role": "user", "content": [5]}], [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}],
    [{"role": "tool", "content": "Hi"}], [{"role": "user", "content": "Hi", "tool_call_id": "x"}],
    [{"role": "user", "content": "Hi", "tool_calls": [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}],
    [{"role": "assistant", "tool_calls": [{"id": "x"}]}],
    [{"role": "assistant", "tool_calls": "x"}], [{"role": "assistant", "content": None}],
    [{"role": "user", "content": "Hi", "chat_template": "{{ 1 }}"}],
    [{"role": "user", "content": "Hi"}] * 5000,
]  # fmt: skip
FIELDS: dict[str, list[Any]] = {
    "model": [*NOT_TEXTS, "", "x" * 300, "nobody", "../../etc/passwd", "\u0000", {"$ne": ""}],
    "messages": MESSAGE_LISTS,
    "n": [*NOT_NUMBERS, 0, -1, 17, 10**7, 10**30, 1.5],
    "temperature": [*NOT_NUMBERS, -0.1, 2.1, 10**30],
    "top_p": [*NOT_NUMBERS, -0.1, 1.1, -1e-9],
    "presence_penalty": [*NOT_NUMBERS, -2.1, 2.1],
    "frequency_penalty": [*NOT_NUMBERS, -2.1, 2.1],
    "seed": [*NOT_NUMBERS, 1.5, 10**30, -(10**30)],
    "max_tokens": [*NOT_NUMBERS, 0, -1, 1.5, 10**9, 10**30],
    "max_completion_tokens": [*NOT_NUMBERS, 0, -1, 10**9, 3],
    "stop": [5, True, {}, [5], [""], "", ["a"] * 5, "x" * 2000, [["a"]], [None]],
    "stream": ["true", 1, 0, [], {}],
    "stream_options": [[], "x", {"include_usage": "yes"}, {"include_usage": True}, {"x": 1}],
    "logprobs": ["true", 1, []],
    "top_logprobs": [*NOT_NUMBERS, -1, 21, 5],
    "logit_bias": [[], "x", 5, {"-1": 1}, {"a": 1}, {"1.5": 1}, {"": 1}, {" 1": 1}, {"1": "x"},
                   {"1": 101}, {"1": -101}, {"1": True}, {"99999999999": 1}, {"4000000000": 1},
                   {"49152": 1}, {"\u0661": 1}, {str(i): 1 for i in range(1025)}],
    "response_format": ["json", [], {}, {"type": "xml"}, {"type": "json_schema"},
                        {"type": "json_schema", "json_schema": {"name": "x"}},
                        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
                        {"type": "grammar", "grammar": "root ::= x"}],
    "tools": ["x", {}, [5], [{}], [{"type": "function"}],
              [{"type": "function", "function": {"name": ""}}],
              [{"type": "function", "function": {"name": "a b"}}],
              [{"type": "function", "function": {"name": "f", "parameters": []}}],
              [{"type": "web_search"}], [{"type": "custom", "custom": {"name": "x"}}],
              [{"type": "function", "function": {"name": "f"}}] * 2,
              [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]],
    "tool_choice": ["always", 5, {}, "required", {"type": "function", "function": {"name": "g"}},
                    {"type": "allowed_tools"}],
    "parallel_tool_calls": ["no", 0, []],
    "functions": [[{"name": "f"}]], "function_call": ["auto"], "chat_template": ["{{ 1 }}"],
    "chat_template_kwargs": [{"x": 1}], "audio": [{"voice": "x"}], "modalities": [["audio"]],
    "store": [True], "reasoning_effort": ["high"], "verbosity": ["low"], "top_k": [5],
    "min_p": [0.1], "grammar": ["root ::= x"], "json_schema": [{}], "n_predict": [5],
    "cache_prompt": [True], "id_slot": [0], "lora": [[]], "best_of": [5], "suffix": ["x"],
    "api_base": ["http://attacker.example"], "tokenize": [True], "__proto__": [{"a": 1}],
    "web_search_options": [{}],
}  # fmt: skip
PROMPTS: list[Any] = [
    5, True, {}, [], [[]], [True], [1.5], [-1], [[-1]], [2**31], ["a", 5], ["a", [1]], [None],
    ["a"] * 100, [[1], 2], [49152], [2**31 - 1],
]  # fmt: skip
ANTHROPIC_FIELDS: dict[str, list[Any]] = {
    "model": FIELDS["model"],
    "messages": [[], "Hi", [5], [{"role": "system", "content": "Hi"}],
                 [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "x"}]}],
                 [{"role": "user", "content": [{"type": "image", "source": {
                     "type": "url", "url": "http://169.254.169.254/"}}]}],
                 [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f",
                                                "input": {}}]}],
                 [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
                 [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f",
                                                     "input": nested(40)}]}],
                 [{"role": "user", "content": "Hi", "x": 1}]],
    "max_tokens": [*NOT_NUMBERS, 0, -1, 10**9, 10**30, 1.5],
    "temperature": [*NOT_NUMBERS, -0.1, 1.1],
    "top_p": [*NOT_NUMBERS, -0.1, 1.1],
    "top_k": [5],
    "system": [5, True, {}, [5], [{"type": "image"}]],
    "stop_sequences": ["x", 5, [5], [""], ["a"] * 17],
    "stream": ["true", 1],
    "thinking": [5, {"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}],
    "tools": ["x", [5], [{}], [{"name": "a b", "input_schema": {}}],
              [{"name": "f", "input_schema": []}], [{"type": "bash_20250124", "name": "bash"}],
              [{"name": "f", "input_schema": {"type": "string", "pattern": "(a+)+"}}],
              [{"name": "f", "input_schema": {}}] * 2],
    "tool_choice": ["auto", {}, {"type": "tool", "name": "g"}, {"type": "any"}, {"type": "x"}],
    "mcp_servers": [[]], "container": ["x"], "chat_template": ["{{ 1 }}"],
}  # fmt: skip


class Tally:
    """Number of refusals, and whether a good request follows each refusal or each test."""

    refusals = 0
    good_after_each = False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, full_size: bool) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("h")
    Tally.refusals, Tally.good_after_each = 0, full_size
    with running(home) as stack:
        deploy_text_model(stack)
        yield stack
    print(f"\n{Tally.refusals} hostile requests were refused")


@pytest.fixture(autouse=True)
def stays_available(served: Stack) -> Iterator[None]:
    """After every test the model answers, and no replica was replaced."""
    before = set(served.replica_pids(TEXT_MODEL))
    yield
    answers_well(served, "")
    assert set(served.replica_pids(TEXT_MODEL)) == before


def answers_well(stack: Stack, sent: str) -> None:
    status, _, answer = stack.request("POST", CHAT, GOOD[CHAT])
    assert status == 200, (sent, answer)
    assert json.loads(answer)["choices"][0]["finish_reason"] == "length"


def refused(stack: Stack, path: str, body: bytes | dict[str, Any], **headers: str) -> str:
    """The message of a refusal, which must be a 4xx in the shape of the protocol."""
    if isinstance(body, bytes):
        headers = {"Content-Type": "application/json"} | headers
    status, _, answer = stack.request("POST", path, body, headers)
    sent = str(body)[:300]
    assert 400 <= status < 500, (path, sent, status, answer[:300])
    error = json.loads(answer)
    if path.startswith(MESSAGES):
        assert error["type"] == "error", sent
        assert set(error["error"]) == {"type", "message"}, sent
    else:
        assert set(error["error"]) == {"message", "type", "param", "code"}, sent
    message = error["error"]["message"]
    assert " " in message, sent
    assert "Traceback" not in message, sent
    Tally.refusals += 1
    if Tally.good_after_each:
        answers_well(stack, sent)
    return str(message)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_fields_of_chat(served: Stack, field: str) -> None:
    for value in FIELDS[field]:
        message = refused(served, CHAT, GOOD[CHAT] | {field: value})
        synonym = {"max_completion_tokens": "max_tokens"}.get(field, field)
        is_named = field in message or synonym in message
        assert is_named or field in ("model", "messages", "tools"), message


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:60])
def test_schemas(served: Stack, schema: Any) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    refused(served, CHAT, GOOD[CHAT] | {"response_format": response_format})
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    refused(served, CHAT, GOOD[CHAT] | {"tools": [tool]})


def test_numbers_that_json_does_not_have(served: Stack) -> None:
    for path, fields in (
        (CHAT, ("temperature", "top_p", "n", "seed", "max_tokens", "presence_penalty")),
        (COMPLETIONS, ("temperature", "max_tokens")),
        (MESSAGES, ("temperature", "max_tokens")),
    ):
        for field in fields:
            good = {k: v for k, v in GOOD[path].items() if k != field}
            start = json.dumps(good)[:-1].encode()
            for number in RAW:
                refused(served, path, start + f', "{field}": {number}}}'.encode())
    for number in RAW:
        body = json.dumps(GOOD[CHAT])[:-1] + f', "logit_bias": {{"5": {number}}}}}'
        refused(served, CHAT, body.encode())


def test_prompts_of_completions(served: Stack) -> None:
    for prompt in PROMPTS:
        refused(served, COMPLETIONS, GOOD[COMPLETIONS] | {"prompt": prompt})
    for fields in ({"echo": True, "logprobs": 1}, {"echo": True, "prompt": [1]}, {"logprobs": 6},
                 {"best_of": 2}, {"suffix": "x"}, {"max_tokens": -1}):  # fmt: skip
        refused(served, COMPLETIONS, GOOD[COMPLETIONS] | fields)


@pytest.mark.parametrize("field", sorted(ANTHROPIC_FIELDS))
def test_fields_of_messages(served: Stack, field: str) -> None:
    for value in ANTHROPIC_FIELDS[field]:
        refused(served, MESSAGES, GOOD[MESSAGES] | {field: value})
        if field in ("messages", "model", "system", "tools", "thinking"):
            refused(served, COUNT, GOOD[COUNT] | {field: value})


def test_invalid_bodies(served: Stack) -> None:
    good = json.dumps(GOOD[CHAT]).encode()
    bodies = [
        b"", b"null", b"[]", b'"x"', b"5", b"{", good[:-1], good + b"x", b"\xff\xfe" + good,
        "{}".encode("utf-16"), b"\xef\xbb\xbf" + good, b"[" * 100_000, b'{"a":' * 100_000,
        good[:-1] + b', "model": "x"}', good[:-1] + b', "n": 1, "n": 2}',
        good.replace(b'"Hi"', b'"Hi", "content": "Ho"'), good.replace(b"Hi", b"\\ud800"),
        good.replace(b"Hi", b"\\udfff\\ud800"), good.replace(b"Hi", b"\x00"),
        good.replace(b"Hi", b"\xff"), b"{" * 200_000, b'{"messages": ' + b"{}," * 200_000,
        good.replace(b'"user"', b'"\\u0000"'), b"model=x&messages=y",
    ]  # fmt: skip
    for path in GOOD:
        for body in bodies:
            refused(served, path, body)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/xml", ""):
        refused(served, CHAT, good, **{"Content-Type": kind})
    refused(served, CHAT, good, **{"Content-Encoding": "gzip"})
    refused(served, CHAT, good, **{"X-Request-Timeout-Ms": "-5"})


def test_prompts_that_are_too_long(served: Stack) -> None:
    big = "word " * (2 << 20)  # 10 MB
    refused(served, CHAT, GOOD[CHAT] | {"messages": [{"role": "user", "content": big}]})
    refused(served, COMPLETIONS, GOOD[COMPLETIONS] | {"prompt": big})
    refused(served, MESSAGES, GOOD[MESSAGES] | {"system": big})
    for size in (9_000, 500_000):
        message = refused(
            served, CHAT, GOOD[CHAT] | {"messages": [{"role": "user", "content": "word " * size}]}
        )
        assert "tokens" in message
    refused(served, COMPLETIONS, GOOD[COMPLETIONS] | {"prompt": [1] * 500_000})


def test_templates_in_messages_are_not_evaluated(served: Stack) -> None:
    for text in SSTI:
        messages = [{"role": role, "content": text} for role in ("system", "user", "assistant")]
        status, _, answer = served.request(
            "POST", CHAT, GOOD[CHAT] | {"messages": messages + HELLO}
        )
        assert status == 200, (text, answer)
        assert b"uid=" not in answer
        counted = GOOD[COUNT] | {"messages": [{"role": "user", "content": text}]}
        status, _, answer = served.request("POST", COUNT, counted)
        # An evaluated text would have another number of tokens.
        plain = {"model": TEXT_MODEL, "prompt": text, "max_tokens": 0}
        _, _, alone = served.request("POST", COMPLETIONS, plain)
        tokens = json.loads(alone)["usage"]["prompt_tokens"]
        assert json.loads(answer)["input_tokens"] >= tokens, text


def test_keys_and_hosts(served: Stack) -> None:
    for path, body in GOOD.items():
        status, _, _ = served.request("POST", path, body, token=None)
        assert status == 401
        status, _, _ = served.request("POST", path, body, {"Host": "attacker.example"})
        assert status == 400
        status, _, _ = served.request("GET", path)
        assert status == 405
    key = served.client().keys.create("reader", ["read"])
    assert served.request("GET", "/v1/models", token=key.token)[0] == 403
