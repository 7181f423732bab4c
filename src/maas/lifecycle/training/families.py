"""PyTorch models: the built-in families, the owner's own module, and the form that is served."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Dataset
from maas.lifecycle.data.entrypoints import call_entry, load_entry
from maas.lifecycle.data.spec import ModelSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


class Standardize(nn.Module):
    """(x - mean) / scale, with the statistics of the training rows as part of the model."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        return x * self.scale + self.mean

    @classmethod
    def fitted(cls, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Standardize:
        """Statistics per feature for rows [n, features], per channel for images [n, c, h, w].

        A constant feature is not scaled: its standard deviation is 0.
        """
        axes = (0,) if rows.ndim <= 2 else (0, 2, 3)
        mean = rows.mean(axis=axes, dtype=np.float64, keepdims=True)[0]
        scale = rows.std(axis=axes, dtype=np.float64, keepdims=True)[0]
        scale = np.where(scale > 1e-6 * np.maximum(1.0, np.abs(mean)), scale, 1.0)
        return cls(
            torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))
        )


class ServedModel(nn.Module):
    """The served model: raw rows in, predictions as classes or in the target's units out.

    Its `network` returns logits [n, classes], one logit [n, 1] for two classes, or a value [n, 1].
    """

    def __init__(
        self, network: nn.Module, task: Task, inputs: nn.Module, target: Standardize | None
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.network = network
        self.target = target
        self.task = task

    def raw(self, x: Tensor) -> Tensor:
        """The network's outputs, on which the loss is computed: logits, or the standardized
        value, [n, k]."""
        out: Tensor = self.network(self.inputs(x))
        return out.unsqueeze(1) if out.ndim == 1 else out

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[n, 1] for a regression, else (label [n] INT64, probabilities [n, classes] FP32)."""
        out = self.raw(x)
        if self.task is Task.REGRESSION:
            return out if self.target is None else self.target.undo(out)
        if out.shape[1] == 1:
            positive = torch.sigmoid(out)
            probabilities = torch.cat([1 - positive, positive], dim=1)
        else:
            probabilities = torch.softmax(out, dim=1)
        return probabilities.argmax(dim=1), probabilities


def make_served(spec: ModelSpec, train: Dataset, outputs: int) -> ServedModel:
    """An untrained model for these rows; its weights come from torch's global generator.

    `outputs` is the width of the network's last layer. Raises InvalidInput if the owner's module
    has another width.
    """
    standardize = spec.standardize is not False
    inputs = Standardize.fitted(train.x) if standardize else nn.Identity()
    target = None
    if train.task is Task.REGRESSION and spec.standardize_target:
        target = Standardize.fitted(train.y[:, None])
    served = ServedModel(_network(spec, train.x.shape[1:], outputs), train.task, inputs, target)
    _check_width(served, train, outputs, spec)
    return served


def _network(spec: ModelSpec, shape: tuple[int, ...], outputs: int) -> nn.Module:
    if spec.module:
        return _own_module(spec)
    if spec.family == "cnn":
        return _cnn(spec, shape, outputs)
    hidden = spec.hidden if spec.family == "mlp" else ()
    return nn.Sequential(nn.Flatten(), *_dense(spec, math.prod(shape), hidden, outputs))


def _dense(spec: ModelSpec, width: int, hidden: tuple[int, ...], outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), _ACTIVATIONS[spec.activation]()]
        if spec.dropout:
            layers.append(nn.Dropout(spec.dropout))
        width = size
    return [*layers, nn.Linear(width, outputs)]


def _cnn(spec: ModelSpec, shape: tuple[int, ...], outputs: int) -> nn.Module:
    if len(shape) != 3:
        raise InvalidInput(
            f"model.family cnn needs rows of shape [channels, height, width]; got {list(shape)}",
            field="model.family",
        )
    depth, height, width = shape
    layers: list[nn.Module] = []
    for channels in spec.channels:
        layers += [nn.Conv2d(depth, channels, 3, padding=1), _ACTIVATIONS[spec.activation]()]
        depth = channels
        if height % 2 == 0 and width % 2 == 0:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    flat = depth * height * width
    return nn.Sequential(*layers, nn.Flatten(), *_dense(spec, flat, spec.hidden, outputs))


def _own_module(spec: ModelSpec) -> nn.Module:
    kind = load_entry(spec.module, spec.directory, "model.module")
    network = call_entry(kind, spec.arguments, spec.module, "model")
    if not isinstance(network, nn.Module):
        raise InvalidInput(
            f"{spec.module} must be or return an nn.Module; got {type(network).__name__}",
            field="model.module",
        )
    return network


def _check_width(served: ServedModel, train: Dataset, outputs: int, spec: ModelSpec) -> None:
    served.eval()
    try:
        with torch.no_grad():
            got = list(served.raw(torch.from_numpy(train.x[:2])).shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InvalidInput(
            f"{spec.module or spec.family} does not take rows of shape "
            f"{list(train.x.shape[1:])}: {error}",
            field="model",
        ) from error
    if got != [2, outputs]:
        raise InvalidInput(
            f"{spec.module or spec.family} must answer 2 rows with shape [2, {outputs}]; got {got}",
            field="model",
        )
