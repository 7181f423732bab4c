"""Charts: their contents match the measurements, and other libraries can read them."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.drawing.png import enlarged, png
from maas.lifecycle.drawing.svg import escaped, ticks
from maas.lifecycle.explain import ExplainRequest, Explanation, explain
from maas.lifecycle.pictures import (
    diverging,
    explanation_svg,
    heat_map_png,
    loss_curves_svg,
    terminal_bars,
)

ORANGE, BLUE = 0, 2


def decoded(content: bytes) -> Any:
    """[height, width, 3] of an unfiltered 8-bit RGB file, every checksum verified."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        (sum_,) = struct.unpack(">I", content[at + 8 + size : at + 12 + size])
        assert sum_ == zlib.crc32(kind + data)
        chunks.append((kind, data))
        at += 12 + size
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, width * 3 + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3).astype(int)


def linear(weights: list[float], labels: tuple[str, ...] = ()) -> Explanation:
    size = len(weights)
    spec = Signature(
        (TensorSpec("x", "FP64", (size,), units="cm", labels=labels),),
        (TensorSpec("y", "FP64", (), units="kg"),),
    )
    return explain(
        ExplainRequest(spec, {"x": np.ones(size)}), lambda i: {"y": i["x"] @ np.array(weights)}
    )


def picture_of(shape: tuple[int, ...], place: tuple[int, int], weight: float) -> Explanation:
    """Explanation of a model that depends on one pixel of the first channel only."""
    spec = Signature((TensorSpec("x", "FP64", shape),), (TensorSpec("y", "FP64", ()),))

    def look(inputs: Any) -> Any:
        x = inputs["x"]
        pixel = x[:, place[0], place[1]] if x.ndim == 3 else x[:, 0, place[0], place[1]]
        return {"y": pixel * weight}

    return explain(ExplainRequest(spec, {"x": np.ones(shape)}), look)


def test_png_is_read_by_another_library() -> None:
    reader = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    with reader.open(io.BytesIO(png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(png(pixels)), pixels)
    np.testing.assert_array_equal(decoded(png(enlarged(pixels, 3)))[::3, ::3], pixels)
    with pytest.raises(ValueError, match="uint8"):
        png(pixels.astype(float))


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_a_heat_map_shows_place_and_sign(weight: float) -> None:
    explanation = picture_of((5, 8), (3, 6), weight)
    colors = decoded(heat_map_png(explanation, side=80))
    assert colors.shape == (50, 80, 3)
    cells = colors[5::10, 5::10]
    strong = np.argwhere((cells != 255).any(axis=2))
    assert strong.tolist() == [[3, 6]]
    red, _, blue = cells[3, 6]
    assert (red > blue) == (weight > 0)


def test_a_heat_map_has_the_image_beside_it() -> None:
    explanation = picture_of((3, 4, 6), (1, 2), 1.0)
    image = np.zeros((3, 4, 6))
    image[0, 0, 0] = 5.0
    colors = decoded(heat_map_png(explanation, image, side=60))
    assert colors.shape[1] == 60 + 12 + 60
    assert colors[0, 0].tolist() == [255, 0, 0]
    assert colors[0, 15].tolist() == [0, 0, 0]
    assert (colors[15, 72 + 25] != 255).any()
    with pytest.raises(InvalidInput, match="72 values"):
        heat_map_png(explanation, np.zeros(5))


def test_a_table_has_no_heat_map() -> None:
    with pytest.raises(InvalidInput, match="not of an image"):
        heat_map_png(linear([1.0, 2.0]))


def test_colors_run_from_blue_over_white_to_orange() -> None:
    low, middle, high = diverging(np.array([-1.0, 0.0, 1.0])).tolist()
    assert low[BLUE] > low[ORANGE]
    assert middle == [255, 255, 255]
    assert high[ORANGE] > high[BLUE]


def test_terminal_bars_are_proportional() -> None:
    text = terminal_bars(linear([4.0, -2.0, 0.0, 1.0], ("wide", "tall", "idle", "deep")))
    lines = text.split("\n")
    assert lines[0].startswith("y is 3 kg; the baseline is 0 kg")
    lengths = {line.split()[0]: line.count("█") for line in lines if "█" in line}
    assert list(lengths) == ["wide", "tall", "deep"]
    assert lengths["wide"] == pytest.approx(2 * lengths["tall"], abs=2)
    assert lengths["wide"] == pytest.approx(4 * lengths["deep"], abs=4)
    assert "+4 " in text
    assert "-2 " in text
    assert "additivity error" in lines[-1] + lines[-2]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminal_bars_fit_the_terminal(width: int) -> None:
    generator = np.random.default_rng(0)
    labels = tuple(f"a rather long name of feature {i}" for i in range(30))
    explanation = linear(list(generator.normal(size=30)), labels)
    plain = terminal_bars(explanation, width=width)
    assert max(map(len, plain.split("\n"))) <= width
    assert "and 18 more" in plain
    colored = terminal_bars(explanation, width=width, color=True)
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain
    assert colored != plain


def test_names_cannot_control_the_terminal() -> None:
    text = terminal_bars(linear([1.0, 2.0], ("\x1b[2Jgone", "b\nc")))
    assert "\x1b" not in text
    assert "?[2Jgone" in text
    assert "b?c" in text


def test_svg_bars_have_both_directions() -> None:
    root = ElementTree.fromstring(explanation_svg(linear([4.0, -2.0, 1.0], ("a&b", "<c>", "d"))))
    space = {"s": "http://www.w3.org/2000/svg"}
    bars = [r for r in root.findall("s:rect", space) if r.get("class", "").startswith("fill")]
    widths = [float(b.get("width", 0)) for b in bars]
    assert [b.get("class") for b in bars] == ["fill-other", "fill-main", "fill-other"]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    zero = float(bars[0].get("x", 0))
    assert float(bars[1].get("x", 0)) + widths[1] == pytest.approx(zero, abs=0.1)
    texts = [t.text for t in root.findall("s:text", space)]
    assert "a&b = 1 cm" in texts


def lines_of(svg: str) -> dict[str, list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    points = {}
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        pairs = [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
        points[line.get("class", "")] = [(a, b) for a, b in pairs]
    return points


def test_loss_curves_fall_as_the_loss_falls() -> None:
    lines = lines_of(loss_curves_svg({"loss": [3, 2, 1], "val_loss": [3, 2.5, 2.6]}, best_epoch=2))
    train, validation = lines["line main"], lines["line other"]
    assert train[1][1] - train[0][1] == pytest.approx(train[2][1] - train[1][1], abs=0.02)
    assert train[2][1] > validation[2][1]
    assert lines["even"][0][0] == pytest.approx(train[1][0])


def test_loss_over_decades_is_drawn_on_a_logarithmic_axis() -> None:
    svg = loss_curves_svg({"loss": [10.0, 1.0, 0.1]})
    train = lines_of(svg)["line main"]
    assert train[1][1] - train[0][1] == pytest.approx(train[2][1] - train[1][1], abs=0.02)
    assert "logarithmic" in svg


@pytest.mark.parametrize(
    "curves",
    [{}, {"loss": [1.0]}, {"loss": [0.0, 0.0]}, {"loss": [float("nan"), 1.0]}, {"loss": [-1, -2]}],
)
def test_unusual_losses_give_a_valid_picture(curves: Any) -> None:
    svg = loss_curves_svg(curves, best_epoch=1)
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-130, 190) == [-100, 0, 100]
    assert ticks(3, 3) == [3]


def test_escaped_text_is_valid_xml() -> None:
    text = escaped("".join(map(chr, [*range(0x100), 0xD800, 0xFFFE, 0xFFFF, 0x1F600])))
    assert ElementTree.fromstring(f'<a b="{text}">{text}</a>').text
