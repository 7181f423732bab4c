"""The doors for text before a replica that writes what it is told."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maas.domain.errors import ContextLengthExceeded, InvalidInput, ReplicaLost
from maas.domain.generation import Generation, Piece, TokenLogprob, ToolCallPiece
from maas.gateway.http import sse
from maas.gateway.http.connection import Connection
from maas.gateway.metering import COMPLETION, PROMPT
from maas.serving.usage.usage_file import UsageFile
from tests.support.fakes.text_replica import CALLER, TOKEN, Doors, Script, doors, words
from tests.support.gateway import read_all, wait_for

HELLO = {"model": "writer", "messages": [{"role": "user", "content": "Hi"}]}
CHAT, MESSAGES, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/completions"
SLOW = words(*["word "] * 2000, pause=0.005)
CALLS = Script(
    [
        Piece("Let me see. ", 3),
        Piece(tool_calls=[ToolCallPiece(0, "call_1", "weather", "")]),
        Piece(tokens=2, tool_calls=[ToolCallPiece(0, arguments='{"city": ')]),
        Piece(tokens=2, tool_calls=[ToolCallPiece(0, arguments='"Lisbon"}')]),
    ],
    reason="tool_calls",
)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Doors]:
    with doors(tmp_path) as running:
        yield running


def asked(door: Doors, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, _, answer = door.post(path, body)
    assert status == 200, answer
    value: dict[str, Any] = json.loads(answer)
    return value


def events(door: Doors, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, data) of each event."""
    status, headers, answer = door.post(path, body | {"stream": True})
    assert status == 200, answer
    assert headers["content-type"].startswith("text/event-stream")
    return parsed(answer)


def parsed(answer: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in answer.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def metered(door: Doors) -> tuple[int, int]:
    """Tokens read and written, as the metrics say."""
    totals = door.totals().values()
    return sum(t[PROMPT] for t in totals), sum(t[COMPLETION] for t in totals)


# -- OpenAI -----------------------------------------------------------------------------------


def test_an_answer_has_all_that_the_protocol_requires(door: Doors) -> None:
    answer = asked(door, CHAT, HELLO)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "writer"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello there", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert answer["usage"]["total_tokens"] == 9
    (generation,) = door.writer.asked
    assert generation == Generation(messages=[{"role": "user", "content": "Hi"}])


def test_everything_that_is_asked_reaches_the_engine(door: Doors) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    asked(
        door,
        CHAT,
        {
            "model": "writer",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be"},
                                                  {"type": "text", "text": " brief"}]},
                {"role": "user", "content": "Hi", "name": "ann"},
                {"role": "assistant", "content": None, "refusal": None, "annotations": [],
                 "tool_calls": [{"id": "c", "type": "function",
                                 "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "3"},
            ],
            "max_completion_tokens": 9,
            "temperature": 1,
            "top_p": 0.5,
            "seed": -3,
            "presence_penalty": 1.5,
            "frequency_penalty": -2,
            "logit_bias": {"5": -100},
            "stop": "end",
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "x", "schema": {"type": "object"}}},
            "tools": [tool],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto",
            "stream_options": None,
        },
    )  # fmt: skip
    (generation,) = door.writer.asked
    assert generation == Generation(
        messages=[
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
        ],
        max_tokens=9, temperature=1.0, top_p=0.5, seed=-3, presence_penalty=1.5,
        frequency_penalty=-2.0, logit_bias={5: -100.0}, stop=["end"], logprobs=2,
        response_format={"type": "json_schema", "schema": {"type": "object"}},
        tools=[tool], tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
    )  # fmt: skip


def test_a_stream_has_the_shape_that_clients_add_up(door: Doors) -> None:
    chunks = events(door, CHAT, HELLO)
    assert chunks.pop() == ("", "[DONE]")
    data = [chunk for _, chunk in chunks]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in data}) == 1
    assert all("usage" not in c for c in data)
    choices = [c["choices"][0] for c in data]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["delta"].get("content") for c in choices] == ["", "Hello", " there", None]
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]


def test_usage_ends_a_stream_that_asks_for_it(door: Doors) -> None:
    chunks = events(door, CHAT, HELLO | {"stream_options": {"include_usage": True}, "n": 2})
    assert chunks.pop()[1] == "[DONE]"
    last = chunks.pop()[1]
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 7
    assert last["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for _, chunk in chunks)


def test_choices_are_generations_of_their_own_and_share_their_prompt(door: Doors) -> None:
    answer = asked(door, CHAT, HELLO | {"n": 3, "seed": 5})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [generation.seed for generation in door.writer.asked] == [5, 6, 7]
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 6
    assert metered(door) == (7, 6)


def test_logprobs_are_given_for_each_token_and_are_finite(door: Doors) -> None:
    unlikely = TokenLogprob(" you", -1e9)
    door.use(Script([Piece("Hi", 1, [TokenLogprob("Hi", -0.5, [72, 105], [unlikely])])]))
    expected = {
        "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
        "top_logprobs": [{"token": " you", "logprob": -9999.0, "bytes": None}],
    }  # fmt: skip
    more = {"logprobs": True, "top_logprobs": 1}
    answer = asked(door, CHAT, HELLO | more)
    assert answer["choices"][0]["logprobs"] == {"content": [expected], "refusal": None}
    chunk = events(door, CHAT, HELLO | more)[1][1]
    assert chunk["choices"][0]["logprobs"]["content"] == [expected]
    answer = asked(door, COMPLETIONS, {"model": "writer", "prompt": "Say", "logprobs": 1})
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{" you": -9999.0}],
        "text_offset": [0],
    }  # fmt: skip


def test_tools_are_called_whole_and_in_fragments(door: Doors) -> None:
    door.use(CALLS)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    (choice,) = asked(door, CHAT, HELLO | {"tools": tools})["choices"]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "weather", "arguments": '{"city": "Lisbon"}'}
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": function}
    ]
    chunks = [c for _, c in events(door, CHAT, HELLO | {"tools": tools})[:-1]]
    parts = [c["choices"][0]["delta"].get("tool_calls") for c in chunks]
    assert [p[0] for p in parts if p] == [
        {"index": 0, "id": "call_1", "type": "function",
         "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Lisbon"}'}},
    ]  # fmt: skip


def test_completions_continue_each_prompt(door: Doors) -> None:
    body = {"model": "writer", "prompt": ["One", "Two"], "n": 2, "echo": True}
    answer = asked(door, COMPLETIONS, body)
    assert answer["object"] == "text_completion"
    assert [c["text"] for c in answer["choices"]] == [
        "OneHello there", "OneHello there", "TwoHello there", "TwoHello there",
    ]  # fmt: skip
    assert answer["usage"]["prompt_tokens"] == 14
    assert [g.prompt for g in door.writer.asked] == ["One", "One", "Two", "Two"]
    assert {g.max_tokens for g in door.writer.asked} == {16}
    door.writer.asked.clear()
    asked(door, COMPLETIONS, {"model": "writer", "prompt": [1, 2, 3]})
    asked(door, COMPLETIONS, {"model": "writer", "prompt": [[1, 2], [3]]})
    assert [g.prompt for g in door.writer.asked] == [[1, 2, 3], [1, 2], [3]]
    chunks = events(door, COMPLETIONS, {"model": "writer", "prompt": "One", "echo": True})
    assert chunks.pop()[1] == "[DONE]"
    texts = [chunk["choices"][0]["text"] for _, chunk in chunks]
    assert texts == ["OneHello", " there", ""]
    assert chunks[-1][1]["choices"][0]["finish_reason"] == "stop"


# -- Anthropic --------------------------------------------------------------------------------

ASKED = HELLO | {"max_tokens": 50}


def test_a_message_is_answered(door: Doors) -> None:
    door.use(words("Hello", " there", stop="\n", prompt_tokens=11))
    answer = asked(door, MESSAGES, ASKED | {"system": "Be kind", "stop_sequences": ["\n"]})
    assert answer["type"] == "message"
    assert answer["content"] == [{"type": "text", "text": "Hello there"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "\n")
    assert answer["usage"]["input_tokens"] == 11
    assert answer["usage"]["output_tokens"] == 2
    (generation,) = door.writer.asked
    assert generation.stop == ["\n"]
    assert generation.messages is not None
    assert generation.messages[0] == {"role": "system", "content": "Be kind"}


def test_blocks_become_messages_and_back(door: Doors) -> None:
    door.use(CALLS)
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
    answer = asked(
        door,
        MESSAGES,
        {
            "model": "writer",
            "max_tokens": 5,
            "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Wait"},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
                     "content": [{"type": "text", "text": "no"}]},
                    {"type": "text", "text": "So?"}]},
            ],
            "tools": [tool],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    )  # fmt: skip
    assert answer["stop_reason"] == "tool_use"
    assert answer["content"][1] == {
        "type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Lisbon"},
    }  # fmt: skip
    (generation,) = door.writer.asked
    assert generation.messages == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Wait", "tool_calls": [
            {"id": "t1", "type": "function",
             "function": {"name": "weather", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    assert generation.tool_choice == "required"
    assert generation.parallel_tool_calls is False
    assert generation.tools[0]["function"]["parameters"] == {"type": "object"}


def test_a_message_is_streamed_block_by_block(door: Doors) -> None:
    door.use(CALLS)
    found = events(door, MESSAGES, ASKED)
    assert [name for name, _ in found] == [
        "message_start", "ping",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert all(data["type"] == name for name, data in found)
    assert [d["index"] for n, d in found if n.startswith("content_block")] == [0] * 3 + [1] * 4
    assert found[6][1]["delta"] == {"type": "input_json_delta", "partial_json": '{"city": '}
    last = found[-2][1]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == 7


def test_tokens_are_counted_without_being_used(door: Doors) -> None:
    assert asked(door, f"{MESSAGES}/count_tokens", HELLO) == {"input_tokens": 7}
    (generation,) = door.writer.asked
    assert generation.max_tokens == 0
    assert metered(door) == (0, 0)


# -- errors -----------------------------------------------------------------------------------


def test_errors_keep_the_shape_of_their_protocol(door: Doors) -> None:
    for token, status, kind, code in (
        ("wrong", 401, "authentication_error", "invalid_api_key"),
        ("maas_k2_secret", 403, "permission_error", "forbidden"),
    ):
        got, _, body = door.post(CHAT, HELLO, token)
        error = json.loads(body)["error"]
        assert (got, error["type"], error["code"], error["param"]) == (status, kind, code, None)
        got, _, body = door.post(MESSAGES, ASKED, token)
        said = json.loads(body)
        assert (got, said["type"], said["error"]["type"]) == (status, "error", kind)
    for name in ("nobody", "digits"):
        got, _, body = door.post(CHAT, HELLO | {"model": name})
        error = json.loads(body)["error"]
        assert (got, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert name in error["message"]
    assert "regression" in error["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthExceeded("9 of 8"), 400, "context_length_exceeded"),
        (InvalidInput("logit_bias: no token 9"), 400, "invalid_input"),
        (ReplicaLost("gone", retry_after=2.0), 503, "replica_lost"),
    ],
)
def test_what_only_the_engine_sees_has_its_status_also_for_streams(
    door: Doors, error: Any, status: int, code: str
) -> None:
    door.use(Script([], error=error))
    for more in ({}, {"stream": True}):
        got, headers, body = door.post(CHAT, HELLO | more)
        assert (got, json.loads(body)["error"]["code"]) == (status, code)
        assert ("retry-after" in headers) is (status == 503)


def test_a_stream_that_fails_says_so_and_closes(door: Doors) -> None:
    door.use(words("Hel", error=ReplicaLost("the process ended", retry_after=1.0)))
    for path, body, name in ((CHAT, HELLO, ""), (MESSAGES, ASKED, "error")):
        with door.send(path, body | {"stream": True}) as client:
            answer = read_all(client, 2.0)  # until the server closes
            last = parsed(answer.rpartition(b"data: ")[2].partition(b"\n")[0].join(
                [b"data: ", b"\n\n"]))[0][1]  # fmt: skip
            assert last["error"]["message"] == "the process ended"
            assert b"event: error" in answer if name else b"[DONE]" not in answer
            assert client.recv(1) == b""
    wait_for(lambda: metered(door) == (0, 2))  # the callers have read both


def test_a_stream_ends_with_the_key_that_began_it(door: Doors) -> None:
    door.use(SLOW)
    with door.send(CHAT, HELLO | {"stream": True}) as client:
        wait_for(lambda: door.writer.running)
        door.call(lambda: door.service.stop_revoked(lambda _: True))
        assert door.writer.running
        door.call(lambda: door.service.stop_revoked(lambda key: key != CALLER))
        answer = read_all(client, 2.0)
    assert b"this key was revoked" in answer and b"[DONE]" not in answer
    wait_for(lambda: door.writer.cancelled == 1 and not door.service.active)


def test_what_the_engine_took_is_counted_and_rows_only_of_answers(
    door: Doors, tmp_path: Path
) -> None:
    def usage() -> tuple[int, int, int, int]:
        _, (found,), _ = UsageFile.read(tmp_path / "usage" / "g1.usage")
        return found.requests, found.rows, found.errors, found.compute_us

    door.use(words("Hi", compute_us=1500))
    assert door.post(CHAT, HELLO | {"n": 2})[0] == 200
    assert usage() == (1, 2, 0, 3000)
    door.use(Script([], error=ContextLengthExceeded("9 of 8")))
    assert door.post(CHAT, HELLO | {"n": 2})[0] == 400
    assert usage() == (1, 2, 1, 3000)


def test_overload_is_a_429_with_a_time_to_come_back(door: Doors) -> None:
    door.use(SLOW)
    clients = [door.send(CHAT, HELLO | {"n": 16}) for _ in range(4)]
    wait_for(lambda: len(door.writer.running) == 64)
    status, headers, body = door.post(CHAT, HELLO)
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1
    status, _, body = door.post(MESSAGES, ASKED)
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    for client in clients:
        client.close()
    wait_for(lambda: not door.writer.running)
    wait_for(lambda: not door.service.active)


def test_a_deadline_ends_a_generation(tmp_path: Path) -> None:
    with doors(tmp_path, longest=0.3) as door:
        door.use(SLOW)
        status, _, body = door.post(CHAT, HELLO)
        assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
        _, _, answer = door.post(CHAT, HELLO | {"stream": True})
        assert parsed(answer)[-1][1]["error"]["code"] == "deadline_exceeded"
        wait_for(lambda: not door.service.active)
        assert metered(door) == (door.writer.prompt_tokens, door.writer.completion_tokens)


# -- clients that leave, or hardly read -------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO | {"n": 2}), (MESSAGES, ASKED)])
def test_a_client_that_leaves_stops_its_generations_and_pays_for_them(
    door: Doors, path: str, body: dict[str, Any], stream: bool
) -> None:
    door.use(SLOW)
    client = door.send(path, body | {"stream": stream})
    wait_for(lambda: door.writer.running)
    time.sleep(0.05)
    client.close()
    wait_for(lambda: not door.writer.running, 1.0)
    wait_for(lambda: not door.service.active)
    assert door.writer.cancelled == body.get("n", 1)
    assert door.writer.completion_tokens > 0
    assert metered(door) == (7, door.writer.completion_tokens)
    usage_file = next(door.service.meter._run_dir.glob("usage/*.usage"))
    _, (usage,), _ = UsageFile.read(usage_file)
    assert usage.completion_tokens == door.writer.completion_tokens
    assert (usage.requests, usage.errors) == (1, 0)


def test_a_reader_that_stalls_has_a_bounded_backlog_and_delays_nobody(
    door: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_BACKLOG_BYTES", 50_000)
    door.use(lambda g: words("x" * 5000, "end") if g.messages != HELLO["messages"] else
             words(*["x" * 20_000] * 2000, pause=0.0005))  # fmt: skip
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", door.port))
    data = json.dumps(HELLO | {"stream": True}).encode()
    stalled.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
        + TOKEN.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(data) + data
    )  # fmt: skip
    other = HELLO | {"messages": [{"role": "user", "content": "other"}]}
    wait_for(lambda: door.writer.cancelled)
    assert asked(door, CHAT, other)["choices"][0]["message"]["content"].endswith("end")
    assert b'"code": "request_timeout"' in read_all(stalled, 2.0).replace(b'":"', b'": "')
    stalled.close()
    wait_for(lambda: not door.service.active)


def test_all_that_is_written_in_one_tick_leaves_in_one_write(door: Doors) -> None:
    writes: list[bytes] = []
    original = Connection.write_streamed

    def noted(self: Connection, request: Any, data: bytes) -> Any:
        writes.append(data)
        return original(self, request, data)

    Connection.write_streamed = noted  # type: ignore[method-assign]
    try:
        door.use(words(*"abcdefgh", at_once=True))
        events(door, CHAT, HELLO)
    finally:
        Connection.write_streamed = original  # type: ignore[method-assign]
    assert len(writes) <= 4  # the head, the words, the last word, the end


def test_pipelined_requests_get_their_streams_in_order(door: Doors) -> None:
    door.use(lambda g: words(str(g.max_tokens), pause=0.02 if g.max_tokens == 1 else 0.0))
    with door.send(CHAT, HELLO | {"stream": True, "max_tokens": 1}) as client:
        data = json.dumps(HELLO | {"stream": True, "max_tokens": 2}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
            + TOKEN.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(data) + data
        )  # fmt: skip
        answer = read_all(client, 0.5)
    assert answer.count(b"[DONE]") == 2
    assert answer.index(b'"content":"1"') < answer.index(b'"content":"2"')


def test_a_connection_is_kept_after_a_stream(door: Doors) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=5)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for _ in range(3):
        connection.request("POST", CHAT, json.dumps(HELLO | {"stream": True}), headers)
        answer = connection.getresponse()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        kept = connection.sock
        assert kept is not None
    connection.close()


def test_a_server_that_stops_tells_who_is_still_being_answered(tmp_path: Path) -> None:
    with doors(tmp_path) as door:
        door.use(SLOW)
        stream = door.send(CHAT, HELLO | {"stream": True})
        whole = door.send(CHAT, HELLO)
        wait_for(lambda: len(door.writer.running) == 2)
        time.sleep(0.05)
    assert b"the server is stopping" in read_all(stream)
    assert b"503" in read_all(whole).partition(b"\r\n")[0]
    assert door.writer.completion_tokens > 0
