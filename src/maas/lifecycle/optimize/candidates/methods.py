"""What is tried on a model, in this order. Each maker writes one candidate's file into a folder."""

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
STEPS = 3
"""In which pruning reaches its target; after each the network is trained for all epochs."""
STUDENT_PATIENCE = 3
"""How many times the epochs of the build a student gets: it starts from nothing."""
RATE = 1.0
"""Of the build's learning rate, at the start of each training."""


@dataclass(frozen=True)
class CandidateContext:
    """What a maker gets besides the model."""

    subject: Subject
    folder: Path
    """Empty; what is in it afterwards is the candidate."""
    made: Mapping[str, Candidate]
    """Those that are finished, by name."""
    seed: int = 0
    epochs: int = 0
    """Of one training of a changed network; 0: as many as the build had."""
    report: Callable[[str], None] = lambda message: None
    cancelled: Callable[[], bool] = lambda: False

    @property
    def target(self) -> Path:
        return self.folder / FILE

    def training(self) -> Training:
        """Raises NotApplicable without the build's data and network."""
        if self.subject.training is None:
            why = self.subject.how.get("skipped") or "this model is not a network of ours"
            raise NotApplicable(str(why))
        return self.subject.training

    def source(self, name: str) -> Path:
        """The file of another candidate. Raises NotApplicable if there is none."""
        if not name:
            return self.subject.model_path
        if name not in self.made:
            raise NotApplicable(f"it is made of {name}, which could not be made")
        return self.made[name].files[FILE]


@dataclass(frozen=True)
class CandidateMethod:
    name: str
    """Of the variant that it may become."""
    make: Callable[[CandidateContext], dict[str, Any]]
    """Writes `workshop.target` and returns how; raises NotApplicable or another MaasError."""
    of: str = ""
    """The candidate that it is made of; empty: the original."""
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    what: str = ""
    """One line for people who do not know the name."""


def all_makers() -> tuple[CandidateMethod, ...]:
    """Cheap ones first, so that a job that is stopped early has tried what is likely to help."""
    return (
        *_graph_makers(),
        *_engine_makers(),
        *_number_makers(),
        *_trained_makers(),
        *(
            CandidateMethod(
                f"{name}-int8",
                partial(_static, method="minmax", rounding="fitted", of=name),
                of=name,
                what=f"{name} with 8-bit weights and activations",
            )
            for name in ("onnx-pruned-50", "onnx-pruned-35", "onnx-distilled")
        ),
    )


def _graph_makers() -> tuple[CandidateMethod, ...]:
    """The same numbers in fewer steps."""
    once = "the same graph, optimized once instead of at every load"
    return (
        CandidateMethod("onnx-extended", lambda w: _graph(w, "extended"), what=once),
        CandidateMethod(
            "onnx-fused", lambda w: _graph(w, "all"), what=f"{once}, with this processor's layouts"
        ),
    )


def _number_makers() -> tuple[CandidateMethod, ...]:
    """Fewer bits."""
    both = "8-bit weights and activations"
    return (
        CandidateMethod("onnx-int8-dynamic", _dynamic, what="8-bit weights of matrix products"),
        CandidateMethod(
            "onnx-int8-static",
            lambda w: _static(w, "minmax"),
            what=f"{both}, ranges by least and greatest",
        ),
        CandidateMethod(
            "onnx-int8-entropy",
            lambda w: _static(w, "entropy"),
            what=f"{both}, ranges that lose least information",
        ),
        CandidateMethod(
            "onnx-int8-tensor",
            lambda w: _static(w, "minmax", per_channel=False),
            what=f"{both}, one scale for a whole tensor",
        ),
        CandidateMethod(
            "onnx-int8-fitted",
            partial(_static, method="minmax", rounding="fitted"),
            what=f"{both}, rounded so that each layer's answers change least",
        ),
        CandidateMethod("onnx-fp16", _half, what="16-bit weights"),
    )


def _trained_makers() -> tuple[CandidateMethod, ...]:
    """Smaller networks that learned from the original."""
    return (
        *(
            CandidateMethod(
                f"onnx-pruned-{percent}",
                partial(_structured, keep=percent / 100),
                what=f"whole channels removed: at most {percent} % of the parameters",
            )
            for percent in (50, 35, 20)
        ),
        CandidateMethod(
            "onnx-sparse-80",
            lambda w: _unstructured(w, 0.8),
            what="80 % of the weights are 0: neither smaller nor faster",
        ),
        CandidateMethod(
            "onnx-distilled",
            lambda w: _distilled(w, 0.5),
            what="half as wide a network, taught by the original",
        ),
    )


def skipped() -> dict[str, str]:
    """What is not tried on any model, and why."""
    return {
        "torch-int8": "torchao's integer tensors can only be served as a PyTorch program, whose "
        "file (.pt2) holds them as pickles, and loading pickles can run code",
        "bf16": precision.BFLOAT16,
    }


def _engine_makers() -> tuple[CandidateMethod, ...]:
    """The same file, run otherwise."""
    cores = usable_cores()
    several = (2, 4, 8)
    return (
        *(
            CandidateMethod(
                f"onnx-threads-{n}",
                _same,
                threads=n,
                options={"spinning": True},
                what=f"the same file on {n} threads",
            )
            for n in several
            if n <= cores
        ),
        CandidateMethod(
            "onnx-lean",
            _same,
            options={"arena": False, "prepacking": False},
            what="the same file without kept memory and without repacked weights",
        ),
    )


def _same(work: CandidateContext) -> dict[str, Any]:
    work.target.write_bytes(work.subject.model_path.read_bytes())
    return {"by": "the original's file with other engine options"}


def _graph(work: CandidateContext, level: fusion.Level) -> dict[str, Any]:
    return fusion.optimize_graph(work.source(""), work.target, level)


def _dynamic(work: CandidateContext) -> dict[str, Any]:
    return quantize.int8_dynamic(work.source(""), work.target)


def _static(
    work: CandidateContext,
    method: quantize.Method,
    *,
    per_channel: bool = True,
    rounding: quantize.Rounding = "nearest",
    of: str = "",
) -> dict[str, Any]:
    how = quantize.int8_static(
        work.source(of),
        work.target,
        work.subject.calibration,
        method=method,
        per_channel=per_channel,
        rounding=rounding,
    )
    return {**how, "of": of} if of else how


def _half(work: CandidateContext) -> dict[str, Any]:
    return precision.half_precision(work.source(""), work.target)


def _structured(work: CandidateContext, keep: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.prune import prune_structured  # noqa: PLC0415  (torch: 2 s)

    training = work.training()
    served = copy.deepcopy(training.served)
    example = _network_rows(training)
    tuner, epochs = _tuner(work), _epochs(work)

    def recover(network: nn.Module) -> None:
        served.network = network
        tuner.run(served, epochs, RATE)

    pruned = prune_structured(served.network, example, keep, steps=STEPS, fine_tune=recover)
    served.network = pruned.module
    _export(work, served, training)
    return {
        **pruned.how,
        "parameters": list(pruned.parameters),
        "multiply_adds": list(pruned.multiply_adds),
        "schedule": pruned.schedule,
        "fine_tuning": {"epochs": STEPS * epochs, "seed": work.seed},
    }


def _unstructured(work: CandidateContext, sparsity: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.prune import prune_unstructured  # noqa: PLC0415  (torch: 2 s)

    training = work.training()
    served = copy.deepcopy(training.served)
    tuner, epochs = _tuner(work), _epochs(work)

    def recover(network: nn.Module) -> None:
        served.network = network
        tuner.run(served, epochs, RATE)

    pruned = prune_unstructured(served.network, sparsity, steps=STEPS, fine_tune=recover)
    served.network = pruned.module
    _export(work, served, training)
    how = {"schedule": pruned.schedule, "parameters": list(pruned.parameters)}
    return {**pruned.how, **how, "fine_tuning": {"epochs": STEPS * epochs, "seed": work.seed}}


def _distilled(work: CandidateContext, factor: float) -> dict[str, Any]:
    from maas.lifecycle.optimize.candidates.distill import distill  # noqa: PLC0415  (torch: 2 s)

    training = work.training()
    student, how = distill(training, _tuner(work), factor, STUDENT_PATIENCE * _epochs(work))
    _export(work, student, training)
    return how


def _tuner(work: CandidateContext) -> FineTuner:
    from maas.lifecycle.optimize.candidates.fine_tune import FineTuner  # noqa: PLC0415  (torch: 2 s)

    return FineTuner(work.training(), work.seed, work.report, work.cancelled)


def _epochs(work: CandidateContext) -> int:
    return work.epochs or work.training().spec.training.epochs


def _network_rows(training: Training) -> Any:
    import torch  # noqa: PLC0415

    served = training.served
    with torch.no_grad():
        return served.inputs(torch.from_numpy(training.parts.train.x[:2]))


def _export(work: CandidateContext, served: ServedModel, training: Training) -> None:
    signature = work.subject.signature
    rows = training.parts.train.x[:PARITY_ROWS]
    outputs = [spec.name for spec in signature.outputs]
    torch_to_onnx(served.eval(), [rows], work.target, [signature.inputs[0].name], outputs)
