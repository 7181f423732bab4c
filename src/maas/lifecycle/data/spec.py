"""Specification of a build: a recipe's `[data]`, `[split]`, `[model]` and `[training]` tables."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from maas.domain.errors import Conflict, InvalidInput
from maas.domain.names import TENSOR_NAME, did_you_mean, shown

Kind = Literal["auto", "regression", "classification"]
Activation = Literal["relu", "tanh", "gelu", "silu", "sigmoid"]
Loss = Literal["auto", "mse", "mae", "huber", "bce", "cross_entropy"]


class BuildCancelled(Conflict):
    """The build was cancelled; the next run resumes from its last checkpoint."""

    code = "cancelled"


def _require(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise InvalidInput(f"{field} must be {expected}; got {shown(got)}", field=field)


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Source of the rows and roles of their columns."""

    source: str
    """`data.csv`, `data.parquet`, `data.npz`, `sklearn:digits`, or a Python entry point
    `package.module:function` or `file.py:function`."""
    target: str = ""
    """Column (CSV, Parquet) or array (NPZ) to predict; `y` in an NPZ file."""
    features: tuple[str, ...] = ()
    """Columns to predict from; empty: every column that is neither target nor slice."""
    slices: tuple[str, ...] = ()
    """Columns that only group rows in the evaluation, such as a region."""
    units: dict[str, str] = {}
    """Unit of a feature or of the target, by name."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their index; empty: the values in the data, sorted."""
    task: Kind = "auto"
    """`auto`: a text, boolean or whole-number target with at most 20 values is a class."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of a Python entry point."""
    directory: str = "."
    """Base of relative paths: the recipe's directory."""

    def __post_init__(self) -> None:
        _require(bool(self.source), "data.source", "a path, sklearn:NAME or module:function", "")
        both = sorted({self.target} & {*self.features, *self.slices})
        _require(not both, "data.features", "without the target", both)


class SplitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fractions of the rows that are held out."""

    test: float = 0.2
    validation: float = 0.1
    seed: int = 0
    stratify: bool = True
    """Whether every part keeps the proportions of the classes; no effect on a regression."""

    def __post_init__(self) -> None:
        for name in ("test", "validation"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"split.{name}", "a fraction from 0 to below 1", value)
        total = self.test + self.validation
        _require(total < 1, "split", "below 1 in total, to leave training rows", total)


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A built-in family, the owner's own `nn.Module`, or a scikit-learn estimator."""

    family: Literal["linear", "mlp", "cnn", ""] = ""
    hidden: tuple[int, ...] = (64,)
    """Widths of an MLP's hidden layers, or of a CNN's dense layers."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of a CNN's convolutions; each halves height and width if both are even."""
    activation: Activation = "relu"
    dropout: float = 0.0
    module: str = ""
    """`package.module:Class` or `file.py:Class` of an nn.Module, called with `arguments`."""
    estimator: str = ""
    """Class such as `sklearn.ensemble:RandomForestClassifier`, called with `arguments`."""
    arguments: dict[str, Any] = {}
    standardize: bool | None = None
    """Whether the model scales its inputs to mean 0 and standard deviation 1 over the training
    rows. Default: PyTorch models do, scikit-learn estimators do not."""
    standardize_target: bool = True
    """Whether a regression trains on a standardized target; predictions are in its units."""
    input: str = "x"
    output: str = "prediction"
    """Name of a regression's output; a classification's are `label` and `probabilities`."""
    directory: str = "."

    def __post_init__(self) -> None:
        named = [n for n in ("family", "module", "estimator") if getattr(self, n)]
        _require(
            len(named) == 1, "model", "one of family, module or estimator", named or "none of them"
        )
        for field in ("hidden", "channels"):
            sizes = getattr(self, field)
            _require(all(n > 0 for n in sizes), f"model.{field}", "sizes of at least 1", sizes)
        _require(0 <= self.dropout < 1, "model.dropout", "from 0 to below 1", self.dropout)
        for field in ("input", "output"):
            name = getattr(self, field)
            _require(bool(TENSOR_NAME.fullmatch(name)), f"model.{field}", "a tensor name", name)
        reserved = ("label", "probabilities")
        _require(self.output not in reserved, "model.output", "not a class output", self.output)


class TrainingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Training of a PyTorch model; a scikit-learn estimator uses only `seed`."""

    epochs: int = 50
    batch_size: int = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    loss: Loss = "auto"
    """`auto`: mse, bce (two classes and one output) or cross_entropy."""
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """`balanced`: every class has the same total weight, however few rows it has."""
    schedule: Literal["constant", "step", "cosine", "warmup-cosine", "plateau"] = "constant"
    step_epochs: int = 10
    """`step`: epochs after which the learning rate is multiplied by `factor`."""
    factor: float = 0.1
    """`step` and `plateau`: multiplier of the learning rate."""
    warmup_epochs: int = 5
    plateau_epochs: int = 5
    """`plateau`: epochs without a better validation loss before the rate is reduced."""
    clip_norm: float = 0.0
    """Maximum norm of all gradients together; 0: no clipping."""
    patience: int = 0
    """Stop after this many epochs without a better validation loss; 0: never."""
    restore_best: bool = True
    """Whether the weights of the epoch with the best validation loss are served, not the last."""
    seed: int = 0
    threads: int = 0
    """Threads of torch; 0: as many cores as this process may use, at most 8."""

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "batch_size": 1, "step_epochs": 1, "plateau_epochs": 1}
        at_least |= {"warmup_epochs": 0, "patience": 0, "threads": 0, "seed": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            _require(value >= least, f"training.{name}", f"at least {least}", value)
        for name in ("momentum", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(value >= 0, f"training.{name}", "at least 0", value)
        rate = self.learning_rate
        _require(0 < rate <= 1000, "training.learning_rate", "above 0, at most 1000", rate)
        _require(0 < self.factor < 1, "training.factor", "between 0 and 1", self.factor)
        _require(self.momentum < 1, "training.momentum", "below 1", self.momentum)
        if self.nesterov:
            ok = self.momentum > 0 and self.optimizer == "sgd"
            _require(ok, "training.nesterov", "used with optimizer sgd and a momentum", True)


class BuildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One build, from data to a publishable model."""

    data: DataSource
    model: ModelSpec
    split: SplitSpec = SplitSpec()
    training: TrainingSpec = TrainingSpec()

    @classmethod
    def from_dict(cls, raw: dict[str, Any], directory: str = ".") -> BuildSpec:
        """The spec that a recipe's tables describe; relative paths start at `directory`.

        Raises InvalidInput that names the table, the key, what was expected and what it has.
        """
        tables = {name: dict(raw[name]) for name in raw if isinstance(raw[name], dict)}
        for name in ("data", "model"):
            if name in tables:
                tables[name].setdefault("directory", directory)
        tables_of: dict[str, type[msgspec.Struct]] = {
            "": cls,
            "data": DataSource,
            "model": ModelSpec,
            "split": SplitSpec,
            "training": TrainingSpec,
        }
        try:
            return msgspec.convert({**raw, **tables}, cls)
        except msgspec.ValidationError as error:
            raise _explained(str(error), tables_of) from None

    def to_dict(self) -> dict[str, Any]:
        tables: dict[str, Any] = msgspec.to_builtins(self)
        return tables

    @property
    def digest(self) -> str:
        """SHA-256 of everything except the directories: equal specs build equal models."""
        raw = self.to_dict()
        for table in ("data", "model"):
            del raw[table]["directory"]
        text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _explained(message: str, structs: dict[str, type[msgspec.Struct]]) -> InvalidInput:
    """msgspec's message with the path as a recipe writes it and the closest valid key."""
    text, _, path = message.partition(" - at `$")
    table = path.strip("`.")
    match = re.search(r"unknown field `(.*)`", text)
    parent, _, key = table.rpartition(".")
    if text.startswith("Invalid enum value") and parent in structs:
        values = get_args(get_type_hints(structs[parent])[key])
        text += f"; expected one of {', '.join(str(v) or repr('') for v in values)}"
    if match:
        fields = structs.get(table, BuildSpec).__struct_fields__
        hint = did_you_mean(match[1], fields) or f"; expected one of {', '.join(fields)}"
        where = f"[{table}] has" if table else "a build has"
        return InvalidInput(f"{where} no key {shown(match[1])}{hint}", field=table or match[1])
    return InvalidInput(f"{table}: {text}" if table else text, field=table or "spec")
