"""Methods that make candidates of a tensor model, in the order in which they are tried."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maas.domain.machine import usable_cores
from maas.lifecycle.conversion.convert import torch_to_onnx
from maas.lifecycle.optimize.candidates import fusion, precision, quantize
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.subject import NotApplicable, Subject, Training

if TYPE_CHECKING:
    from torch import nn

    from maas.lifecycle.optimize.candidates.fine_tune import FineTuner
    from maas.lifecycle.training.families import ServedModel

FILE = "model.onnx"
PARITY_ROWS = 64
PRUNING_STEPS = 3
"""Steps in which pruning reaches its target; the network is trained for all epochs after each."""
STUDENT_EPOCHS_FACTOR = 3
"""Epochs of a student over those of the build, because it starts from random weights."""
LEARNING_RATE_FACTOR = 1.0
"""Learning rate at the start of each training, over that of the build."""


@dataclass(frozen=True)
class CandidateContext:
    """Model, folder and settings for a method."""

    subject: Subject
    folder: Path
    """Empty; its contents become the candidate's files."""
    finished: Mapping[str, Candidate]
    """Candidates made so far, by name."""
    seed: int = 0
    epochs: int = 0
    """Epochs of one training of a changed network; 0: as many as the build had."""
    progress: Callable[[str], None] = lambda message: None
    cancelled: Callable[[], bool] = lambda: False

    @property
    def target(self) -> Path:
        return self.folder / FILE

    def training(self) -> Training:
        """Raises NotApplicable if the build's data and network are not available."""
        if self.subject.training is None:
            reason = self.subject.how.get("skipped") or "this model was not trained by a build"
            raise NotApplicable(str(reason))
        return self.subject.training

    def base_path(self, base: str) -> Path:
        """File of the original, or of candidate `base`. Raises NotApplicable if there is none."""
        if not base:
            return self.subject.model_path
        if base not in self.finished:
            raise NotApplicable(f"it is based on {base}, which could not be made")
        return self.finished[base].files[FILE]


@dataclass(frozen=True)
class CandidateMethod:
    """A method that makes one candidate."""

    name: str
    """Name of the candidate, and of the variant that it may become."""
    make: Callable[[CandidateContext], dict[str, Any]]
    """Writes `CandidateContext.target` and returns how it was made.

    Raises NotApplicable or another MaasError.
    """
    base: str = ""
    """Candidate that it starts from; empty: the original."""
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    description: str = ""
    """One line for readers who do not know the name."""


def candidate_methods() -> tuple[CandidateMethod, ...]:
    """All methods, cheap ones first, so that a job that is stopped early has tried them."""
    return (
        *_graph_methods(),
        *_engine_methods(),
        *_precision_methods(),
        *_training_methods(),
        *_combined_methods(),
    )


def skipped() -> dict[str, str]:
    """Methods that are tried on no model, with the reasons."""
    return {
        "torch-int8": "torchao's integer tensors can only be served as a PyTorch program, whose "
        "file (.pt2) holds them as pickles, and loading pickles can run code",
        "bf16": precision.BFLOAT16,
    }


def _graph_methods() -> tuple[CandidateMethod, ...]:
    """Methods that compute the same numbers in fewer steps."""
    once = "the same graph, optimized once instead of at every load"
    return (
        CandidateMethod("onnx-extended", partial(_graph, level="extended"), description=once),
        CandidateMethod(
            "onnx-fused",
            partial(_graph, level="all"),
            description=f"{once}, with this processor's layouts",
        ),
    )


def _engine_methods() -> tuple[CandidateMethod, ...]:
    """Methods that run the same file with other options of the engine."""
    methods = []
    for threads in (2, 4, 8):
        if threads <= usable_cores():
            method = CandidateMethod(
                f"onnx-threads-{threads}",
                _same_file,
                threads=threads,
                options={"spinning": True},
                description=f"the same file on {threads} threads",
            )
            methods.append(method)
    lean = CandidateMethod(
        "onnx-lean",
        _same_file,
        options={"arena": False, "prepacking": False},
        description="the same file without a memory arena and without repacked weights",
    )
    return (*methods, lean)


def _precision_methods() -> tuple[CandidateMethod, ...]:
    """Methods that store numbers in fewer bits."""
    both = "8-bit weights and activations"
    return (
        CandidateMethod(
            "onnx-int8-dynamic", _int8_dynamic, description="8-bit weights of matrix products"
        ),
        CandidateMethod(
            "onnx-int8-static",
            partial(_int8_static, method="minmax"),
            description=f"{both}, ranges from minimum and maximum",
        ),
        CandidateMethod(
            "onnx-int8-entropy",
            partial(_int8_static, method="entropy"),
            description=f"{both}, ranges that lose least information",
        ),
        CandidateMethod(
            "onnx-int8-tensor",
            partial(_int8_static, method="minmax", per_channel=False),
            description=f"{both}, one scale per tensor",
        ),
        CandidateMethod(
            "onnx-int8-fitted",
            partial(_int8_static, method="minmax", rounding="fitted"),
            description=f"{both}, rounded so that the outputs of each layer change least",
        ),
        CandidateMethod("onnx-fp16", _fp16, description="16-bit weights"),
    )


def _training_methods() -> tuple[CandidateMethod, ...]:
    """Methods that train a smaller network with the outputs of the original."""
    pruned = [
        CandidateMethod(
            f"onnx-pruned-{percent}",
            partial(_pruned_channels, keep=percent / 100),
            description=f"whole channels removed: at most {percent} % of the parameters",
        )
        for percent in (50, 35, 20)
    ]
    return (
        *pruned,
        CandidateMethod(
            "onnx-sparse-80",
            partial(_pruned_weights, sparsity=0.8),
            description="80 % of the weights are 0: neither smaller nor faster",
        ),
        CandidateMethod(
            "onnx-distilled",
            partial(_distilled, factor=0.5),
            description="a network half as wide, trained with the outputs of the original",
        ),
    )


def _combined_methods() -> tuple[CandidateMethod, ...]:
    """Methods that quantize a candidate with fewer parameters."""
    methods = []
    for base in ("onnx-pruned-50", "onnx-pruned-35", "onnx-distilled"):
        method = CandidateMethod(
            f"{base}-int8",
            partial(_int8_static, method="minmax", rounding="fitted", base=base),
            base=base,
            description=f"{base} with 8-bit weights and activations",
        )
        methods.append(method)
    return tuple(methods)


def _same_file(context: CandidateContext) -> dict[str, Any]:
    context.target.write_bytes(context.subject.model_path.read_bytes())
    return {"by": "the original's file with other engine options"}


def _graph(context: CandidateContext, level: fusion.Level) -> dict[str, Any]:
    return fusion.optimize_graph(context.subject.model_path, context.target, level)


def _int8_dynamic(context: CandidateContext) -> dict[str, Any]:
    return quantize.int8_dynamic(context.subject.model_path, context.target)


def _int8_static(
    context: CandidateContext,
    method: quantize.Method,
    *,
    per_channel: bool = True,
    rounding: quantize.Rounding = "nearest",
    base: str = "",
) -> dict[str, Any]:
    how = quantize.int8_static(
        context.base_path(base),
        context.target,
        context.subject.calibration,
        method=method,
        per_channel=per_channel,
        rounding=rounding,
    )
    return {**how, "base": base} if base else how


def _fp16(context: CandidateContext) -> dict[str, Any]:
    return precision.half_precision(context.subject.model_path, context.target)


def _pruned_channels(context: CandidateContext, keep: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.prune import prune_structured  # noqa: PLC0415  (torch: 2 s)

    training = context.training()
    served = copy.deepcopy(training.served)
    example = _network_rows(training)
    fine_tune = _fine_tune(context, served)
    pruned = prune_structured(
        served.network, example, keep, steps=PRUNING_STEPS, fine_tune=fine_tune
    )
    served.network = pruned.module
    _export(context, served, training)
    return {
        **pruned.how,
        "parameters": list(pruned.parameters),
        "multiply_adds": list(pruned.multiply_adds),
        "schedule": pruned.schedule,
        "fine_tuning": {"epochs": PRUNING_STEPS * _epochs(context), "seed": context.seed},
    }


def _pruned_weights(context: CandidateContext, sparsity: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.prune import prune_unstructured  # noqa: PLC0415  (torch: 2 s)

    training = context.training()
    served = copy.deepcopy(training.served)
    fine_tune = _fine_tune(context, served)
    pruned = prune_unstructured(served.network, sparsity, steps=PRUNING_STEPS, fine_tune=fine_tune)
    served.network = pruned.module
    _export(context, served, training)
    return {
        **pruned.how,
        "schedule": pruned.schedule,
        "parameters": list(pruned.parameters),
        "fine_tuning": {"epochs": PRUNING_STEPS * _epochs(context), "seed": context.seed},
    }


def _distilled(context: CandidateContext, factor: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.distill import distill  # noqa: PLC0415  (torch: 2 s)

    training = context.training()
    epochs = STUDENT_EPOCHS_FACTOR * _epochs(context)
    student, how = distill(training, _tuner(context), factor, epochs)
    _export(context, student, training)
    return how


def _fine_tune(context: CandidateContext, served: ServedModel) -> Callable[[nn.Module], None]:
    """A function that trains a pruned network in the place of the one in `served`."""
    tuner, epochs = _tuner(context), _epochs(context)

    def fine_tune(network: nn.Module) -> None:
        served.network = network
        tuner.run(served, epochs, LEARNING_RATE_FACTOR)

    return fine_tune


def _tuner(context: CandidateContext) -> FineTuner:
    from maas.lifecycle.optimize.candidates.fine_tune import FineTuner  # noqa: PLC0415  (torch: 2 s)

    return FineTuner(context.training(), context.seed, context.progress, context.cancelled)


def _epochs(context: CandidateContext) -> int:
    return context.epochs or context.training().spec.training.epochs


def _network_rows(training: Training) -> Any:
    """Two rows in the form that the network itself takes."""
    import torch  # noqa: PLC0415

    served = training.served
    with torch.no_grad():
        return served.inputs(torch.from_numpy(training.parts.train.x[:2]))


def _export(context: CandidateContext, served: ServedModel, training: Training) -> None:
    """Writes a network as ONNX, checked on a few training rows."""
    signature = context.subject.signature
    rows = training.parts.train.x[:PARITY_ROWS]
    outputs = [spec.name for spec in signature.outputs]
    torch_to_onnx(served.eval(), [rows], context.target, [signature.inputs[0].name], outputs)
