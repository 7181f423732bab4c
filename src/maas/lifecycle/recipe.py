"""Recipes: a lifecycle from data to deployment in one TOML file.

name = "digits"                     # the model
[data] [split] [model] [training]   # what to build: maas/lifecycle/data/spec.py
[evaluate]                          # gates that must hold before anything is published
[optimize]                          # smaller or faster variants, and what they may lose
[deploy]                            # under which name, how many replicas
[call]                              # inputs of a first call; default: the model's own example
[explain]                           # how to explain that call's answer
"""

from __future__ import annotations

import difflib
import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from maas.domain.deployments import Scaling
from maas.domain.errors import InvalidInput
from maas.domain.names import FILE_NAME, checked_name, shown
from maas.domain.numbers import format_number
from maas.lifecycle.data.spec import BuildSpec

BUILD_TABLES = ("data", "split", "model", "training")
S = TypeVar("S", bound=msgspec.Struct)

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(>=|<=|>|<)\s*(-?\d[\d.]*(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class GateResult:
    rule: str
    value: float | None
    """None if the metric is undefined on these rows."""
    passed: bool
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the value, if the evaluation has one."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        value = "undefined" if self.value is None else format_number(self.value)
        if self.interval:
            value += f" [{format_number(self.interval[0])}, {format_number(self.interval[1])}]"
        return f"{self.rule}: {'holds' if self.passed else 'fails'}, measured {value}"


@dataclass(frozen=True)
class MetricGate:
    """A rule over an evaluation's metrics that must hold: `accuracy >= 0.97`."""

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> MetricGate:
        match = _GATE.fullmatch(text)
        if not match:
            raise InvalidInput(
                f"a gate is METRIC >= NUMBER (or <=, >, <); got {shown(text)}",
                field="evaluate.gates",
            )
        try:
            return cls(match[1], match[2], float(match[3]))
        except ValueError:
            raise InvalidInput(
                f"a gate's bound is a number; got {shown(match[3])}", field="evaluate.gates"
            ) from None

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.bound:g}"

    def check(self, values: Mapping[str, Any]) -> GateResult:
        """The gate over an Evaluation's `values`. Raises InvalidInput for an unknown metric."""
        metrics = values["metrics"]
        if self.metric not in metrics:
            raise InvalidInput(
                f"gate {str(self)!r}: there is no metric {self.metric!r}"
                f"{_hint(self.metric, metrics)}",
                field="evaluate.gates",
            )
        value = metrics[self.metric]
        interval = values.get("intervals", {}).get(self.metric)
        passed = value is not None and _COMPARISONS[self.comparison](value, self.bound)
        return GateResult(str(self), value, passed, tuple(interval) if interval else None)


class EvaluateStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gates: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals; 0: none."""
    explained_rows: int = 2
    """Test rows whose answers the report explains."""

    def parsed_gates(self) -> tuple[MetricGate, ...]:
        return tuple(MetricGate.parse(g) for g in self.gates)


class OptimizeStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    objective: Literal["latency", "throughput", "size", "memory"] = "throughput"
    gate: str = ""
    """What a variant may lose, as `accuracy>=-0.01`; empty: one point, or one percent."""
    candidates: tuple[str, ...] = ()
    """Names to try; empty: all."""
    seconds: float = 0.05
    """Of a turn: candidate and original are measured in turns, at every batch size."""
    runs: int | None = None
    """Fresh processes of each that are measured; more give narrower intervals. Left out: 8, and 4
    of a language model."""
    seed: int = 0
    epochs: int = 0
    """Of fine-tuning and distillation; 0: as many as the build had."""

    def __post_init__(self) -> None:
        limits = {
            "seconds": (0.001, 60),
            "runs": (2, 100),
            "seed": (0, 2**32 - 1),
            "epochs": (0, 10_000),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInput(
                    f"optimize.{name} must be from {low:g} to {high:g}; got {value}",
                    field=f"optimize.{name}",
                )

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


SCALING = ("replicas", "max_batch", "queue_limit", "threads")


class DeployStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    """Empty: the model's name."""
    variant: str = ""
    """Empty: the version's first; `auto`: what `[optimize]` found best."""
    gate: str = ""
    """Rule over evidence that the variant must satisfy, now and later."""
    replicas: int | None = None
    """Left out, here and below: what a deployment has already, or what suits the model."""
    max_batch: int | None = None
    queue_limit: int | None = None
    threads: int | None = None
    default: bool = False

    def scaling(self) -> dict[str, int]:
        """What is said of it. Raises InvalidInput."""
        every = {name: getattr(self, name) for name in SCALING}
        settings = {name: value for name, value in every.items() if value is not None}
        Scaling(**settings)
        return settings


class ExplainStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    samples: int = 2048
    seed: int = 0
    output: str = ""
    target: int | str | None = None
    picture: str = ""
    """Name of a picture to leave in the job's folder (.png, .svg or .html); empty: none."""

    def __post_init__(self) -> None:
        if self.picture and not FILE_NAME.fullmatch(self.picture):
            raise InvalidInput(
                f"explain.picture is a file name without a folder; got {shown(self.picture)}",
                field="explain.picture",
            )

    def options(self) -> dict[str, Any]:
        out: dict[str, Any] = {"samples": self.samples, "seed": self.seed}
        if self.output:
            out["output"] = self.output
        if self.target is not None:
            out["target"] = self.target
        return out


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read; a step that its file does not have is None."""

    name: str
    description: str
    directory: Path
    """Where relative paths start: the recipe's own directory."""
    build: BuildSpec
    evaluate: EvaluateStep
    optimize: OptimizeStep | None
    deploy: DeployStep | None
    call: dict[str, Any] | None
    """Inputs of a first call; empty: the signature's example."""
    explain: ExplainStep | None
    raw: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Raises InvalidInput that names the file, the table, the key and what was expected."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror or error}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"{path}: {error}") from None
        try:
            return cls.from_dict(raw, path.resolve().parent)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error.message}", **error.details) from None

    @classmethod
    def from_dict(cls, raw: dict[str, Any], directory: Path) -> Recipe:
        tables = (*BUILD_TABLES, "evaluate", "optimize", "deploy", "call", "explain")
        for key, value in raw.items():
            if key not in ("name", "description", *tables):
                raise InvalidInput(
                    f"a recipe has no key {key!r}{_hint(key, ('name', 'description', *tables))}",
                    field=key,
                )
            if (key in tables) != isinstance(value, dict):
                kind = "a table" if key in tables else "a text"
                raise InvalidInput(f"{key} must be {kind}; got {shown(value)}", field=key)
        for key in ("name", "data", "model"):
            if key not in raw:
                raise InvalidInput(f"a recipe needs {key}", field=key)
        evaluate = _step(EvaluateStep, "evaluate", raw) or EvaluateStep()
        evaluate.parsed_gates()
        deploy = _step(DeployStep, "deploy", raw)
        if deploy is not None:
            deploy.scaling()
            checked_name(deploy.name or str(raw["name"]), "deploy.name")
        build = {key: raw[key] for key in BUILD_TABLES if key in raw}
        return cls(
            name=checked_name(str(raw["name"]), "name"),
            description=str(raw.get("description", "")),
            directory=directory,
            build=BuildSpec.from_dict(build, str(directory)),
            evaluate=evaluate,
            optimize=_step(OptimizeStep, "optimize", raw),
            deploy=deploy,
            call=dict(raw["call"]) if "call" in raw else None,
            explain=_step(ExplainStep, "explain", raw),
            raw=raw,
        )


def optimize_step(options: dict[str, Any]) -> OptimizeStep:
    """What is wanted of an optimization, as a recipe's `[optimize]` says it. Raises InvalidInput
    that names the key and what was expected."""
    return _step(OptimizeStep, "optimize", {"optimize": options}) or OptimizeStep()


def _step(kind: type[S], table: str, raw: dict[str, Any]) -> S | None:
    values = raw.get(table)
    if values is None:
        return None
    for key in values:
        if key not in kind.__struct_fields__:
            raise InvalidInput(
                f"[{table}] has no key {key!r}{_hint(key, kind.__struct_fields__)}",
                field=f"{table}.{key}",
            )
    for key, value in values.items():
        try:
            msgspec.convert({key: value}, kind)
        except msgspec.ValidationError as error:
            text = str(error).partition(" - at ")[0]
            raise InvalidInput(f"{table}.{key}: {text}", field=f"{table}.{key}") from None
    return msgspec.convert(values, kind)


def _hint(word: str, names: Any) -> str:
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
