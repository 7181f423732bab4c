"""Recipes: a lifecycle from data to deployment in one TOML file.

name = "digits"                     # the model
[data] [split] [model] [training]   # the build: maas/lifecycle/data/spec.py
[evaluate]                          # gates that must hold before publication
[optimize]                          # smaller or faster variants, and the loss they may have
[deploy]                            # name and scaling of the deployment
[call]                              # inputs of a first request; default: the signature's example
[explain]                           # explanation of that request's prediction
"""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from maas.domain.deployments import Scaling
from maas.domain.errors import InvalidInput
from maas.domain.names import FILE_NAME, checked_name, did_you_mean, shown
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
    """Outcome of a gate: the rule, the measured value and whether it passed."""

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
    """A rule that an evaluation's metrics must satisfy: `accuracy >= 0.97`."""

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
        """Checks the `values` of an Evaluation. Raises InvalidInput for an unknown metric."""
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
    """Bootstrap resamples for the confidence intervals; 0: no intervals."""
    explained_rows: int = 2
    """Number of test rows that the report explains."""

    def parsed_gates(self) -> tuple[MetricGate, ...]:
        return tuple(MetricGate.parse(g) for g in self.gates)


class OptimizeStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    objective: Literal["latency", "throughput", "size", "memory"] = "throughput"
    gate: str = ""
    """Allowed loss of a variant, such as `accuracy>=-0.01`; empty: one point, or one percent."""
    candidates: tuple[str, ...] = ()
    """Names of the candidates to build; empty: all."""
    seconds: float = 0.05
    """Seconds of a measurement; candidate and original are measured interleaved at every batch
    size."""
    runs: int | None = None
    """Number of paired runs in fresh processes; more give narrower intervals. Default: 8, or 4
    for a language model."""
    seed: int = 0
    epochs: int = 0
    """Epochs of fine-tuning and distillation; 0: as many as the build."""

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
    """Name of the deployment; empty: the model's name."""
    variant: str = ""
    """Variant to deploy; empty: the version's first; `auto`: the choice of `[optimize]`."""
    gate: str = ""
    """Rule that the variant's evidence must satisfy, for this and later deployments."""
    replicas: int | None = None
    """Replicas; None, here and below: the deployment's current value, or the model's default."""
    max_batch: int | None = None
    queue_limit: int | None = None
    threads: int | None = None
    default: bool = False

    def scaling(self) -> dict[str, int]:
        """The scaling options that are set. Raises InvalidInput."""
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
    """File name of a picture in the job's folder (.png, .svg or .html); empty: none."""

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
    """A parsed recipe; a step that is missing in the file is None."""

    name: str
    description: str
    directory: Path
    """Base of relative paths: the recipe's directory."""
    build: BuildSpec
    evaluate: EvaluateStep
    optimize: OptimizeStep | None
    deploy: DeployStep | None
    call: dict[str, Any] | None
    """Inputs of a first request; empty: the signature's example."""
    explain: ExplainStep | None
    raw: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads a recipe. Raises InvalidInput that names the file, the table and the key."""
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
                kind = "a table" if key in tables else "text"
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
    """An optimization's options from a recipe's `[optimize]` table.

    Raises InvalidInput that names the key and the expected value.
    """
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


def _hint(word: str, names: Collection[str]) -> str:
    return did_you_mean(word, names) or f"; expected one of {', '.join(names)}"
