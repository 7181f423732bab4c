"""The digits recipe: accuracy, metrics equal to scikit-learn's, and a self-contained report."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

import maas
from tests.support.servers.maas import Stack, running

RECIPE = Path(__file__).parents[3] / "examples" / "digits" / "recipe.toml"
SECONDS = 600
BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


@dataclass
class Digits:
    stack: Stack
    evidence: dict[str, Any]
    """Evidence by kind."""
    output: str

    @property
    def client(self) -> maas.Client:
        return self.stack.client()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Digits]:
    """A server after a successful `maas run` of the recipe."""
    home = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        environment |= {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(stack.port)}
        done = subprocess.run(
            [sys.executable, "-m", "maas.cli.main", "run", str(RECIPE)],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        evidence = {e.kind: e for e in stack.client().evidence("digits:1")}
        yield Digits(stack, evidence, done.stdout + done.stderr)


def test_the_accuracy_on_held_out_digits(digits: Digits) -> None:
    values = digits.evidence["metrics"].values["metrics"]
    assert values["accuracy"] >= 0.97
    assert digits.evidence["metrics"].how["rows"] == pytest.approx(0.5 * 1797, abs=2)
    assert digits.evidence["metrics"].how["data_digest"]
    parity = digits.evidence["parity"].values
    assert parity["max_abs_diff"] <= 1e-4
    low, high = digits.evidence["metrics"].values["intervals"]["accuracy"]
    assert low <= values["accuracy"] <= high


def test_the_deployment_predicts_over_http(digits: Digits) -> None:
    version = digits.client.models.version("digits:1").version
    example = version.manifest.signature.example
    status, _, body = digits.stack.request("POST", "/predict/digits", example)
    assert status == 200
    assert json.loads(body)
    explained = digits.client.explain("digits", example)
    assert explained


# -- the numbers ----------------------------------------------------------------------------------


@dataclass
class Predictions:
    """The stored predictions of held-out rows."""

    true: np.ndarray[Any, np.dtype[np.int64]]
    predicted: np.ndarray[Any, np.dtype[np.int64]]
    scores: np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def predictions(digits: Digits) -> Predictions:
    file = digits.evidence["metrics"].file
    text = digits.client.files.download(file.sha256).decode()
    assert len(text.encode()) == file.size
    head, *lines = csv.reader(io.StringIO(text))
    columns = dict(zip(head, zip(*lines, strict=True), strict=True))
    return Predictions(
        np.array(columns["true"], dtype=np.int64),
        np.array(columns["predicted"], dtype=np.int64),
        np.array([columns[f"score_{at}"] for at in range(10)], dtype=np.float64).T,
    )


def sklearn_metrics(predictions: Predictions) -> dict[str, float]:
    true, predicted, scores = predictions.true, predictions.predicted, predictions.scores
    of_class = true[:, None] == np.arange(10)
    values = {
        "accuracy": metrics.accuracy_score(true, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(true, predicted),
        "mcc": metrics.matthews_corrcoef(true, predicted),
        "cohen_kappa": metrics.cohen_kappa_score(true, predicted),
        "log_loss": metrics.log_loss(true, scores, labels=range(10)),
        "brier": np.mean(np.sum((scores - of_class) ** 2, axis=1)),
        "top_2_accuracy": metrics.top_k_accuracy_score(true, scores, k=2, labels=range(10)),
        "top_3_accuracy": metrics.top_k_accuracy_score(true, scores, k=3, labels=range(10)),
        "top_5_accuracy": metrics.top_k_accuracy_score(true, scores, k=5, labels=range(10)),
    }
    for average in ("macro", "weighted"):
        three = metrics.precision_recall_fscore_support(true, predicted, average=average)
        for name, value in zip(("precision", "recall", "f1"), three[:3], strict=True):
            values[f"{name}_{average}"] = value
        values[f"roc_auc_{average}"] = metrics.roc_auc_score(of_class, scores, average=average)
        values[f"pr_auc_{average}"] = metrics.average_precision_score(
            of_class, scores, average=average
        )
    return {name: float(value) for name, value in values.items()}


def expected_calibration_error(predictions: Predictions, bins: int) -> float:
    """Naeini, Cooper and Hauskrecht 2015, with equal-width bins; not in scikit-learn."""
    confidence = predictions.scores.max(axis=1)
    right = predictions.predicted == predictions.true
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        abs(right[place == at].mean() - confidence[place == at].mean()) * np.mean(place == at)
        for at in range(bins)
        if np.any(place == at)
    ]
    return float(sum(gaps))


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
def test_every_metric_equals_scikit_learn(digits: Digits, predictions: Predictions) -> None:
    values = digits.evidence["metrics"].values
    stored = dict(values["metrics"])
    assert len(predictions.true) == digits.evidence["metrics"].how["rows"]
    error = stored.pop("ece")
    assert error == pytest.approx(expected_calibration_error(predictions, 10), abs=1e-9)
    expected = sklearn_metrics(predictions)
    assert set(stored) <= set(expected), "a metric that nobody checks"
    assert len(stored) >= 12
    for name, value in stored.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_every_class_metric_equals_scikit_learn(digits: Digits, predictions: Predictions) -> None:
    values = digits.evidence["metrics"].values
    confusion = metrics.confusion_matrix(predictions.true, predictions.predicted, labels=range(10))
    assert values["confusion"] == confusion.tolist()
    per_class = metrics.precision_recall_fscore_support(
        predictions.true, predictions.predicted, labels=range(10)
    )
    assert len(values["per_class"]) == 10
    for at, row in enumerate(values["per_class"]):
        for name, column in zip(("precision", "recall", "f1"), per_class[:3], strict=True):
            assert row[name] == pytest.approx(column[at], abs=1e-9)
        of_class = predictions.true == at
        area = metrics.roc_auc_score(of_class, predictions.scores[:, at])
        assert row["roc_auc"] == pytest.approx(area, abs=1e-9)
        precision = metrics.average_precision_score(of_class, predictions.scores[:, at])
        assert row["pr_auc"] == pytest.approx(precision, abs=1e-9)


def test_the_stored_predictions_equal_those_of_the_deployment(
    digits: Digits, predictions: Predictions
) -> None:
    """Predictions over HTTP equal the stored scores in any order of the rows."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    version = digits.client.models.version("digits:1").version
    (spec,) = version.manifest.signature.inputs
    rows = images.reshape(len(images), *spec.shape)
    outputs = digits.client.predict("digits", {spec.name: rows[:200].tolist()})
    classes = np.array(next(v for v in outputs.values() if np.ndim(v) == 2), np.float64)
    assert classes.shape == (200, 10)
    if not np.allclose(classes.sum(axis=1), 1, atol=1e-4):
        classes = np.exp(classes - classes.max(axis=1, keepdims=True))
        classes /= classes.sum(axis=1, keepdims=True)
    distance = np.abs(classes[:, None, :] - predictions.scores[None, :, :]).max(axis=2).min(axis=1)
    # Half of all rows were held out, so about a hundred of these are among the stored ones.
    assert np.sum(distance < 1e-5) >= 60


# -- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = digits.evidence["report"].file
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(digits.client.files.download(file.sha256))
    return path


def test_the_report_contains_no_external_address(page: Path) -> None:
    text = page.read_text()
    loaded = re.findall(r"(?:src|href|action|data)\s*=\s*[\"']([^\"']*)", text)
    loaded += re.findall(r"url\(\s*[\"']?([^)\"']*)", text)
    assert all(a.startswith(("#", "data:")) for a in loaded), loaded
    assert "<script" not in text.lower()
    assert "@import" not in text
    for word in ("digits", "Confusion", "Calibration"):
        assert word.lower() in text.lower()


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (apt install chromium)"
)


@dataclass
class Seen:
    dom: str
    complaints: list[str]
    """Messages in the browser's console."""
    urls: list[str]
    """Addresses that the page requested, except its own."""
    painted: int
    """Lines of the screenshot, of 3,000, that differ from the previous line."""


def open_in_browser(page: Path, scratch: Path) -> Seen:
    """Opens a page in a browser without name resolution and with an unreachable proxy."""
    picture, log = scratch / "page.png", scratch / "net.json"
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    command += [f"--user-data-dir={scratch / 'profile'}", "--window-size=1200,3000"]
    command += ["--enable-logging=stderr", f"--log-net-log={log}", "--virtual-time-budget=5000"]

    def run(what: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, what, page.as_uri()], capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        return done

    dom = run("--dump-dom")
    urls = set(re.findall(r'"url":"(https?:[^"]*)"', log.read_text(errors="replace")))
    # The browser asks its maker for dictionaries and the like, whatever page is open.
    makers = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gvt1|gstatic)\.com(/|$)")
    run(f"--screenshot={picture}")
    return Seen(
        dom.stdout,
        [line for line in dom.stderr.splitlines() if "CONSOLE" in line],
        sorted(url for url in urls if not makers.match(url)),
        painted_lines(picture),
    )


@needs_browser
def test_the_report_opens_in_a_browser_without_a_network(page: Path, tmp_path: Path) -> None:
    seen = open_in_browser(page, tmp_path)
    assert seen.complaints == []
    assert seen.urls == []
    assert seen.dom.count("<svg") >= 4
    assert "</html>" in seen.dom
    assert seen.painted > 1000


@needs_browser
def test_the_browser_check_detects_requests(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://pictures.example/x.png"><script>nothing()</script>')
    seen = open_in_browser(bad, tmp_path)
    assert seen.urls == ["http://pictures.example/x.png"]
    assert any("nothing is not defined" in line for line in seen.complaints)
    assert seen.painted < 100


def painted_lines(path: Path) -> int:
    """How many lines of a PNG differ from the one above them, somewhere. Chromium writes 8-bit
    RGB or RGBA without interlacing; a line that repeats the one above is zeros but for its filter.
    """
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed, line_bytes = 8, b"", 0
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, chunk = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if name == b"IHDR":
            width, _, depth, kind = struct.unpack(">IIBB", chunk[:10])
            assert depth == 8
            line_bytes = 1 + width * {2: 3, 6: 4}[kind]
        elif name == b"IDAT":
            packed += chunk
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(-1, line_bytes)
    return int(np.any(lines[:, 1:], axis=1).sum())


def test_the_numbers_are_finite(digits: Digits) -> None:
    values = digits.evidence["metrics"].values["metrics"]
    assert all(v is not None and math.isfinite(v) for v in values.values())
