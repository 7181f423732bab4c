"""Explain: contributions of the input entries to a prediction, relative to a background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.models import Evidence
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.explanation.players import Image, Player, image_of, one_row, players_of, rows_of
from maas.lifecycle.explanation.shapley import ShapleyResult, play
from maas.lifecycle.metrics.metrics import Bools, Floats, Ints

Array = npt.NDArray[Any]
Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Function from named inputs [n, …] to named outputs [n, …], for at most `batch_rows` rows."""

FEWEST_SAMPLES, MOST_SAMPLES = 64, 10_000
HOW = (
    "seed",
    "method",
    "samples",
    "rows",
    "calls",
    "permutations",
    "background",
    "background_rows",
)
MOST_BATCH_ELEMENTS = 1 << 23
"""Largest number of elements in one call, whatever `batch_rows` allows: 32 MB of FP32."""


@dataclass(frozen=True)
class ExplainRequest:
    """One row to explain."""

    signature: Signature
    row: Mapping[str, Any]
    """Value of every input, in its per-row shape or as a batch of one row: arrays or lists."""
    background: Mapping[str, Any] | None = None
    """Background rows [m, …] of the inputs (m may be 1: a mean row); None: all zeros. An input
    that is left out keeps the row's value and is not explained."""
    output: str | None = None
    """Output to explain; default: the first floating-point output."""
    target: int | str | None = None
    """Entry of the output, by index or label; default: the largest."""
    samples: int = 2048
    """Approximate number of model rows, from 64 to 10,000; 4 times as many halve the standard
    errors. There are at least 4 pairs of permutations, however many features there are."""
    seed: int = 0
    batch_rows: int = 64
    """Largest number of rows in one call of `predict`."""
    image_shape: tuple[int, ...] | None = None
    """[height, width], [channels, height, width] or [height, width, channels] of an image in a
    flat vector; inputs of rank 2 and 3 count as images without it."""


@dataclass(frozen=True)
class Attribution:
    """One player of the Shapley game: an input entry, or a group of entries that move together."""

    name: str
    input: str
    region: tuple[tuple[int, int], ...]
    """[start, stop) along each axis of the input's row, or of the image it represents."""
    shapley: float
    """Shapley value, in the output's units."""
    standard_error: float
    value: float
    """The row's value; the mean value of a group."""
    background: float
    """Mean value of the background rows."""
    units: str | None = None


@dataclass(frozen=True)
class Explanation:
    """Shapley values of one prediction, and how they were obtained."""

    output: str
    target: int
    """Flat index within the output."""
    label: str | None
    """The target's name, if the output's entries have names."""
    units: str | None
    prediction: float
    baseline: float
    """Mean output over the background rows."""
    attributions: tuple[Attribution, ...]
    additivity_error: float
    """prediction − baseline − sum of the Shapley values, as measured."""
    calls: int
    """Calls of `predict`."""
    rows: int
    """Model rows that were computed."""
    samples: int
    """Budget of model rows."""
    permutations: int
    """Permutations of the players that were sampled; 0 if the values are exact."""
    background_rows: int
    """Number of background rows that were used."""
    seed: int
    method: str
    background: str
    """`given`, or `zeros` if the request has no background."""
    image: Image | None = None
    """Layout of the input, if it is an image."""

    def top(self, count: int | None = None) -> list[Attribution]:
        """Attributions by descending absolute value."""
        return sorted(self.attributions, key=lambda a: -abs(a.shapley))[:count]

    def heat(self) -> Floats:
        """Shapley values of an image, [height, width]; a patch's value is spread over its pixels.

        Raises InvalidInput if no input is an image.
        """
        if self.image is None:
            raise InvalidInput("this explanation is not of an image", field="image")
        pixels = np.zeros((self.image.height, self.image.width))
        for a in self.attributions:
            if a.input == self.image.input:
                (top, bottom), (left, right) = self.image.plane(a.region)
                pixels[top:bottom, left:right] = a.shapley / ((bottom - top) * (right - left))
        return pixels

    def evidence(self) -> Evidence:
        """Evidence of a version; `how` has what is needed to reproduce it."""
        values = self.to_dict()
        how = {name: values[name] for name in HOW}
        return Evidence(kind="explanation", values=values, how=how)

    def to_dict(self) -> dict[str, Any]:
        fields_ = asdict(self)
        for a in fields_["attributions"]:
            a["region"] = [list(span) for span in a["region"]]
        return fields_ | {"attributions": list(fields_["attributions"])}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Explanation:
        """Inverse of `to_dict()`; ignores the further fields of a server's response."""
        attributions = []
        for entry in raw["attributions"]:
            region = tuple((start, stop) for start, stop in entry["region"])
            attributions.append(Attribution(**{**entry, "region": region}))
        image = Image(**raw["image"]) if raw.get("image") else None
        values = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        return cls(**{**values, "attributions": tuple(attributions), "image": image})


def explain(request: ExplainRequest, predict: Predict) -> Explanation:
    """Shapley values by antithetic permutation sampling; see docs/explanation/shapley.md.

    The values are exact if all coalitions take at most `samples` rows. Raises InvalidInput that
    names the invalid field; errors of `predict` propagate.
    """
    _check(request)
    row = {s.name: one_row(s, request.row.get(s.name)) for s in request.signature.inputs}
    background, count = _background(request, row)
    image = image_of(request.signature, row, request.image_shape, request.samples)
    players = _players(request.signature, row, background, image)
    model = _ModelGame(request, predict, row, background, count)
    output, target = model.choose_output()
    active = [p for p in players if model.differs(p)]
    model.set_players(active)
    left = request.samples - model.rows
    game = play(model, len(active), count, samples=left, seed=request.seed)
    return Explanation(
        output=output.name,
        target=target,
        label=output.labels[target] if target < len(output.labels) else None,
        units=output.units,
        prediction=game.prediction,
        baseline=game.baseline,
        attributions=_attributions(players, active, game, row, background),
        additivity_error=game.prediction - game.baseline - float(game.values.sum()),
        calls=model.calls,
        rows=model.rows,
        samples=request.samples,
        permutations=game.permutations,
        background_rows=len(game.background),
        seed=request.seed,
        method=game.method,
        background="zeros" if request.background is None else "given",
        image=image,
    )


def _players(
    signature: Signature,
    row: dict[str, Array],
    background: dict[str, Array],
    image: Image | None,
) -> list[Player]:
    """Players of all inputs that have a background."""
    alone = len(signature.inputs) == 1
    players: list[Player] = []
    for spec in signature.inputs:
        if spec.name in background:
            layout = image if image and image.input == spec.name else None
            players += players_of(spec, row[spec.name].shape, image=layout, alone=alone)
    return players


class _ModelGame:
    """The model as a game: composes rows of coalitions, predicts in batches, and counts both."""

    def __init__(
        self,
        request: ExplainRequest,
        predict: Predict,
        row: dict[str, Array],
        background: dict[str, Array],
        count: int,
    ) -> None:
        self.request = request
        self.predict = predict
        self.row = row
        self.background = background
        self.count = count
        self.owner = {n: np.full(row[n].size, -1) for n in background}
        """Player of each entry, by input; -1 for an entry without a player."""
        self.calls = 0
        self.rows = 0
        self.output: TensorSpec | None = None
        self.target = 0
        elements = sum(v.size for v in row.values())
        most = min(request.batch_rows, request.signature.max_rows or request.batch_rows)
        self.batch = max(1, min(most, MOST_BATCH_ELEMENTS // max(1, elements)))

    def choose_output(self) -> tuple[TensorSpec, int]:
        """The explained output and the index of its entry, from a prediction of the row itself."""
        self.output = _output(self.request)
        answer = self._answers({name: value[None] for name, value in self.row.items()}, 1)[0]
        self.target = _target(self.request.target, self.output, answer)
        return self.output, self.target

    def differs(self, player: Player) -> bool:
        """Whether any background row differs from the row there; if none does, the player's
        Shapley value is exactly 0."""
        own = self.row[player.input].reshape(-1)[player.entries]
        others = self.background[player.input].reshape(self.count, -1)[:, player.entries]
        return bool((others != own).any())

    def set_players(self, active: list[Player]) -> None:
        """Sets the players of the coalitions."""
        for index, player in enumerate(active):
            self.owner[player.input][player.entries] = index

    def __call__(self, coalitions: Bools, numbers: Ints) -> Floats:
        outputs = np.empty(len(coalitions))
        for first in range(0, len(coalitions), self.batch):
            part = slice(first, first + self.batch)
            inputs = self._composed(coalitions[part], numbers[part])
            outputs[part] = self._answers(inputs, len(numbers[part]))[:, self.target]
        return outputs

    def _composed(self, coalitions: Bools, numbers: Ints) -> dict[str, Array]:
        rows = len(numbers)
        # The extra column stands for all entries without a player.
        present = np.hstack([coalitions, np.ones((rows, 1), bool)])
        inputs = {}
        for name, value in self.row.items():
            if name not in self.background:
                inputs[name] = np.repeat(value[None], rows, axis=0)
                continue
            others = self.background[name].reshape(self.count, -1)[numbers]
            mixed = np.where(present[:, self.owner[name]], value.reshape(-1), others)
            inputs[name] = mixed.reshape(rows, *value.shape)
        return inputs

    def _answers(self, inputs: dict[str, Array], rows: int) -> Floats:
        """The chosen output, [rows, entries]. Raises InferenceFailed if it is not finite."""
        self.calls += 1
        self.rows += rows
        name = self.output.name if self.output else ""
        answer = self.predict(inputs)
        if name not in answer:
            raise InferenceFailed(f"the prediction has no output {shown(name)}")
        output = np.asarray(answer[name], dtype=np.float64)
        if output.ndim == 0 or len(output) != rows:
            raise InferenceFailed(
                f"the model answered {list(output.shape)} for {rows} rows of output {shown(name)}"
            )
        if not np.isfinite(output).all():
            raise InferenceFailed(
                f"output {shown(name)} is not finite for a mixture of the row to explain and a "
                "background row"
            )
        return output.reshape(rows, -1)


def _check(request: ExplainRequest) -> None:
    for name, value, low, high in (
        ("samples", request.samples, FEWEST_SAMPLES, MOST_SAMPLES),
        ("seed", request.seed, 0, 2**63 - 1),
        ("batch_rows", request.batch_rows, 1, 65_536),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(
                f"{name} must be a whole number from {low} to {high}; got {shown(value)}",
                field=name,
            )
    names = {s.name for s in request.signature.inputs}
    for field, values in (("inputs", request.row), ("background", request.background or {})):
        unknown = sorted(set(values) - names)
        if unknown:
            raise InvalidInput(
                f"{field} names {shown(unknown[0])}; the inputs are {', '.join(sorted(names))}",
                field=field,
            )


def _background(request: ExplainRequest, row: dict[str, Array]) -> tuple[dict[str, Array], int]:
    """Background rows [m, …] by name of each input to explain, and m."""
    numeric = [s for s in request.signature.inputs if s.datatype != "BYTES"]
    if request.background is None:
        return {s.name: np.zeros_like(row[s.name])[None] for s in numeric}, 1
    rows = {
        s.name: rows_of(s, request.background[s.name], row[s.name].shape)
        for s in numeric
        if s.name in request.background
    }
    counts = {name: len(values) for name, values in rows.items()}
    if not rows or len(set(counts.values())) != 1:
        raise InvalidInput(
            f"background must have the same number of rows, at least 1, of each input; "
            f"got {counts}",
            field="background",
        )
    return rows, next(iter(counts.values()))


def _output(request: ExplainRequest) -> TensorSpec:
    numeric = [s for s in request.signature.outputs if s.datatype != "BYTES"]
    if request.output is None:
        floating = [s for s in numeric if s.datatype.startswith("FP")]
        if not numeric:
            raise InvalidInput("the model has no numeric output to explain", field="output")
        return (floating or numeric)[0]
    for spec in numeric:
        if spec.name == request.output:
            return spec
    raise InvalidInput(
        f"output must be one of {', '.join(s.name for s in numeric)}; got {shown(request.output)}",
        field="output",
    )


def _target(target: int | str | None, output: TensorSpec, answer: Floats) -> int:
    if target is None:
        return int(answer.argmax())
    if isinstance(target, str) and target in output.labels:
        return output.labels.index(target)
    if isinstance(target, str) and target.isascii() and target.isdigit() and len(target) < 10:
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(answer):
        return target
    labels = f" or one of {', '.join(output.labels[:10])}" if output.labels else ""
    raise InvalidInput(
        f"target must be an index from 0 to {len(answer) - 1}{labels}; got {shown(target)}",
        field="target",
    )


def _attributions(
    players: list[Player],
    active: list[Player],
    game: ShapleyResult,
    row: dict[str, Array],
    background: dict[str, Array],
) -> tuple[Attribution, ...]:
    place = {id(player): index for index, player in enumerate(active)}
    attributions = []
    for player in players:
        index = place.get(id(player))
        own = row[player.input].reshape(-1)[player.entries]
        others = background[player.input].reshape(len(background[player.input]), -1)
        used = others[np.ix_(game.background, player.entries)]
        attributions.append(
            Attribution(
                name=player.name,
                input=player.input,
                region=player.region,
                shapley=0.0 if index is None else float(game.values[index]),
                standard_error=0.0 if index is None else float(game.standard_errors[index]),
                value=float(own.astype(np.float64).mean()),
                background=float(used.astype(np.float64).mean()),
                units=player.units,
            )
        )
    return tuple(attributions)
