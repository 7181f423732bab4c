"""The engine transformers, with a tiny random model and SmolLM2's vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.generation import Ending, Generation
from tests.support.engine_contract import Answer, complete, load_request
from tests.support.models.packaged import smollm2
from tests.support.models.safetensors import safetensors_folder

pytest.importorskip("transformers", reason="needs the extra transformers")
pytest.importorskip("llguidance", reason="needs the extra transformers")

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from maas.runtimes.text.options import most_tokens
from maas.runtimes.transformers.engine import Transformers, _control_texts

CONTEXT = 256
END = 2
ENDLESS: dict[str, Any] = {"logit_bias": {END: -100.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return safetensors_folder(tmp_path_factory.mktemp("tiny"), smollm2(), tiny=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Transformers]:
    loaded = Transformers()
    loaded.load(load_request(folder, context_length=CONTEXT, cache_tokens=4 * CONTEXT, batch=32))
    yield loaded
    loaded.close()


def prompt(text: str, **fields: Any) -> Generation:
    return Generation(prompt=text, **(ENDLESS | {"temperature": 0, "max_tokens": 12} | fields))


def test_sequences_in_a_batch_do_not_affect_each_other(model: Transformers) -> None:
    """Prompts of different lengths, also longer than a step, alone and all at once."""
    texts = ["one", "one two three " * 20, "x", "and so it goes on and on"]
    alone = [complete(model, prompt(text)) for text in texts]
    running = [Answer(model, prompt(text)) for text in texts]
    together = [(answer.text, ending) for answer in running for ending in [answer.end()]]
    assert [(text, ending) for text, ending in together] == alone
    assert len({text for text, _ in alone}) == 4


def test_a_seed_gives_the_same_text_in_any_batch(model: Transformers) -> None:
    seeded = prompt("Once", temperature=1.5, seed=7)
    alone = complete(model, seeded)[0]
    running = [Answer(model, prompt("Once", temperature=1.5)) for _ in range(3)]
    again = Answer(model, seeded)
    assert again.end().completion_tokens == 12 and again.text == alone
    others = {answer.text for answer in running if answer.end()}
    assert len(others | {alone}) == 4


def test_logprobs_are_those_of_the_model(model: Transformers, folder: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    ids = [504, 3575, 282]
    question = Generation(prompt=list(ids), temperature=0, max_tokens=1, logprobs=5)
    answer = Answer(model, question)
    answer.end()
    (reported,) = answer.logprobs
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, -1]
    expected = torch.log_softmax(logits.double(), -1).topk(5).values.numpy()
    assert np.allclose([entry.logprob for entry in reported.top], expected, atol=1e-4)
    assert reported.logprob == reported.top[0].logprob
    assert bytes(reported.bytes or []).decode() == answer.text


def test_bias_and_penalties_change_the_output(model: Transformers) -> None:
    def tokens(**fields: Any) -> list[str]:
        answer = Answer(model, prompt("la la", logprobs=0, max_tokens=8, **fields))
        answer.end()
        return [entry.token for entry in answer.logprobs]

    forced = {"logit_bias": {504: 100.0}}
    assert len(set(tokens(**forced))) == 1
    assert len(set(tokens(**forced, frequency_penalty=2.0, presence_penalty=2.0))) == 1
    weak = {"logit_bias": {504: 100.0, 505: 98.0}}
    assert len(set(tokens(**weak))) == 1
    assert len(set(tokens(**weak, frequency_penalty=1.0))) == 2
    with pytest.raises(InvalidInput, match="logit_bias: there is no token"):
        complete(model, prompt("x", logit_bias={10**6: 1.0}))


def test_a_schema_is_enforced_with_random_weights(model: Transformers) -> None:
    schema = {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "word": {"type": "string", "pattern": "^[a-c]{2}$"},
        },
        "required": ["ok", "word"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "schema": schema}
    question = Generation(
        prompt="x", temperature=1.0, max_tokens=60, response_format=response_format
    )
    running = [Answer(model, question) for _ in range(4)]
    for answer in running:
        assert answer.end().reason == "stop"
        value = json.loads(answer.text)
        assert isinstance(value["ok"], bool) and set(value["word"]) <= set("abc")


def test_a_cancelled_prompt_ends_within_a_step(model: Transformers) -> None:
    reading = Answer(model, prompt("word " * 200))
    model.cancel(reading.number)
    ending = reading.end()
    assert ending.reason == "cancelled"
    # Whole batches of 32 tokens of 200, or none if the engine had not started.
    assert ending.prompt_tokens % 32 == 0 and ending.prompt_tokens < 200


def test_the_processed_part_of_a_cancelled_prompt_is_counted(model: Transformers) -> None:
    """The sequence is cancelled after the second step of its prompt."""
    steps, step = iter(range(1000)), model._batch.step
    reading: list[Answer] = []

    def cancelling_step() -> Any:
        result = step()
        if next(steps) == 1:
            model.cancel(reading[0].number)
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model._batch, "step", cancelling_step)
        reading.append(Answer(model, prompt("word " * 200)))
        assert reading[0].end() == Ending("cancelled", 64, 0)
    # Cancelled while its prompt is tokenized, before the engine has it.
    with model._wake:
        cancelled = Answer(model, prompt("word " * 200))
        model.cancel(cancelled.number)
    assert cancelled.end() == Ending("cancelled", 0, 0)
    assert complete(model, prompt("x"))[1].completion_tokens == 12


def test_a_normalizer_that_expands_characters_does_not_overfill_the_cache(
    folder: Path, tmp_path: Path
) -> None:
    normalized = changed(folder, tmp_path / "m", "tokenizer.json", normalizer={"type": "NFKC"})
    loaded = Transformers()
    loaded.load(load_request(normalized, context_length=CONTEXT, cache_tokens=CONTEXT, batch=32))
    add, reserved = loaded._batch.add, []
    numbers = set()

    def added(number: int, tokens: list[int]) -> None:
        add(number, tokens)
        numbers.add(number)
        reserved.append(sum(s.reserved for n, s in loaded._sequences.items() if n in numbers))

    loaded._batch.add = added  # type: ignore[method-assign]
    ligatures = prompt("\ufdfa" * 14)
    try:
        assert 4 * most_tokens(ligatures, CONTEXT) <= 2 * CONTEXT  # the estimate
        running = [Answer(loaded, ligatures) for _ in range(4)]
        endings = [answer.end() for answer in running]
    finally:
        loaded.close()
    assert {(ending.reason, ending.completion_tokens) for ending in endings} == {("length", 12)}
    assert 4 * endings[0].prompt_tokens > 2 * CONTEXT
    assert max(reserved) <= 2 * CONTEXT  # half of it is for control's probe


def changed(folder: Path, to: Path, name: str, **fields: Any) -> Path:
    shutil.copytree(folder, to)
    content = json.loads((to / name).read_text())
    (to / name).write_text(json.dumps(content | fields))
    return to


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "no-such-model"}, "does not load this model"),
        ({"num_hidden_layers": 3}, "9 are missing or of another shape"),
        ({"intermediate_size": 64}, "does not load|missing or of another shape"),
        ({"architectures": [], "model_type": "bert"}, "does not load|cannot batch|missing"),
    ],
)
def test_inconsistent_files_are_refused(
    folder: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Transformers().load(load_request(changed(folder, tmp_path / "m", "config.json", **fields)))


def test_damaged_weights_are_refused_before_a_library_opens_them(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match="is not a usable safetensors file"):
        Transformers().load(load_request(tmp_path / "m"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "this machine has"),
        ({"device": "tpu"}, "auto, cpu, cuda or cuda:N"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"color": 1}, "no option 'color'"),
    ],
)
def test_invalid_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Transformers().load(load_request(folder, **options))


def test_shards_and_a_configuration_that_refers_to_code(
    folder: Path, tmp_path: Path, model: Transformers
) -> None:
    """With `auto_map` transformers would import a file of the folder, which it does not get."""
    from safetensors.numpy import load_file, save_file

    copy = changed(
        folder, tmp_path / "m", "config.json", auto_map={"AutoModelForCausalLM": "evil.M"}
    )
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass")
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    for at, part in enumerate((names[::2], names[1::2]), 1):
        target = copy / f"model-0000{at}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, target, {"format": "pt"})
    loaded = Transformers()
    loaded.load(load_request(copy, context_length=CONTEXT, dtype="float32", device="cpu"))
    try:
        assert complete(loaded, prompt("one")) == complete(model, prompt("one"))
    finally:
        loaded.close()
    assert not (tmp_path / "ran").exists()


def test_turn_markers_are_control_tokens_even_if_declared_as_plain_text() -> None:
    tokenizer = Tokenizer(BPE({"a": 0}, []))
    plain = [AddedToken(text, special=False) for text in ("<\uff5cUser\uff5c>", "<think>")]
    tokenizer.add_tokens([*plain, AddedToken("<s>", special=True)])
    control = {text.decode() for text in _control_texts(tokenizer)}
    assert control == {"<\uff5cUser\uff5c>", "<s>"}


def test_a_failed_engine_fails_all_sequences(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tokens: list[int]) -> None:
        raise RuntimeError("out of memory")

    ended: list[Any] = []
    loaded = Transformers()
    loaded.load(load_request(folder, context_length=CONTEXT, cache_tokens=4 * CONTEXT, batch=32))
    loaded._batch.put = broken  # type: ignore[method-assign]
    with monkeypatch.context() as patched:
        patched.setattr(
            "maas.runtimes.text.stepped_engine.os.kill", lambda *call: ended.append(call)
        )
        for _ in range(2):  # one in the batch, and one that starts before the replica exits
            with pytest.raises(InferenceFailed, match="out of memory"):
                complete(loaded, prompt("x"))
        loaded._engine.join()
    assert len(ended) == 1
    loaded.close()
