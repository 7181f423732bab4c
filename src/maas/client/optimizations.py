"""optimize: candidates are made and measured on this machine, and those that pass are sent."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maas import settings
from maas.client.answers import VersionDetails
from maas.client.http.calls import ComputeStep, Flow
from maas.client.registry import add_evidence, add_variant, download, upload, version
from maas.domain.errors import InvalidInput, OutOfSpace
from maas.lifecycle.optimize.publication import ORIGINAL

if TYPE_CHECKING:
    from maas.lifecycle.optimize.publication import PreparedOptimization

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def optimize(
    ref: str,
    *,
    objective: str = "throughput",
    gate: str = "",
    data: str | Path | None = None,
    text: str | Path | None = None,
    candidates: Sequence[str] = (),
    seconds: float = 0.05,
    runs: int | None = None,
    seed: int = 0,
    epochs: int = 0,
    workdir: str | Path | None = None,
) -> Flow[dict[str, Any]]:
    """Makes other forms of a version, measures each beside its first variant, and adds those that
    pass `gate` to the version, with their evidence.

    `objective`: latency, throughput, size or memory. `gate`: rules such as "accuracy>=-0.01";
    default: at most one point of accuracy, or one percent of an error. The rows are those of the
    build on this machine; for a version that was built elsewhere give `data`, an NPZ file with X
    and, where there are labels, y. A language model is compared on `text`, a file; default: a text
    of this package. `candidates`: names to try; default: all. Each is measured in
    `runs` fresh processes (default: 8, and 4 of a language model), in turns of `seconds` with
    the original. `epochs`: of each
    training; 0: as many as the build had. `workdir` is kept, and what is finished in it is not
    done again.

    Returns {candidates: [{name, metrics, passed, reason}], chosen, chosen_reason, …}.
    """
    details: VersionDetails = yield version(ref)
    with ExitStack() as stack:
        if workdir is None:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="maas-optimize-"))
        else:
            place = str(workdir)
        folder = Path(place)
        yield from fetch_original(details, folder / ORIGINAL)

        def run() -> PreparedOptimization:
            # Brings onnxruntime and torch, which nothing else in the SDK needs.
            from maas.lifecycle.optimize.run import OptimizationJob, run_optimization_job  # noqa: PLC0415
            from maas.lifecycle.recipe import optimize_step  # noqa: PLC0415

            told = {
                "objective": objective,
                "gate": gate,
                "candidates": list(candidates),
                "seconds": seconds,
                "runs": runs,
                "seed": seed,
                "epochs": epochs,
            }
            job = OptimizationJob(
                ref=f"{details.version.model}:{details.version.number}",
                manifest=details.version.manifest,
                original=folder / ORIGINAL,
                step=optimize_step(told),
                data=Path(data) if data else None,
                text=Path(text) if text else None,
            )
            return run_optimization_job(job, settings.load().jobs_dir, folder)

        prepared: PreparedOptimization = yield ComputeStep(run)
        return (yield from send_optimization(prepared))


def fetch_original(details: VersionDetails, target: Path) -> Flow[None]:
    """Downloads the file of the version's first variant. Raises InvalidInput if that is not one
    ONNX file, or one GGUF file."""
    variant = details.version.manifest.variants[0]
    files = variant.files
    if len(files) != 1 or not (variant.runtime == "onnx" or files[0].name.endswith(".gguf")):
        raise InvalidInput(
            f"optimize takes versions whose first variant is one ONNX or GGUF file; "
            f"{details.version.model} has {variant.name}, {len(variant.files)} files for "
            f"{variant.runtime}",
            field="model",
        )
    content: bytes = yield download(variant.files[0].sha256)
    staged = target.with_name(target.name + ".new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(content)
        staged.replace(target)
    except OSError as wrong:
        staged.unlink(missing_ok=True)
        if wrong.errno not in FULL:
            raise
        raise OutOfSpace(f"no space is left to write {target}: {wrong.strerror}") from wrong


def send_optimization(prepared: PreparedOptimization) -> Flow[dict[str, Any]]:
    """Files first, then the variants, then the evidence that names them, or names a refused one
    that the version has since an earlier run.

    May be repeated after any interruption: all three are known by what is in them.
    """
    for path, file in prepared.files:
        yield from upload(path, file.name)
    for variant in prepared.variants:
        yield add_variant(prepared.model, variant)
    details: VersionDetails = yield version(prepared.model)
    present = details.version.variants
    absent = {variant.name for variant in prepared.rejected if variant not in present}
    for item in prepared.evidence:
        if item.variant in absent:
            continue
        yield add_evidence(prepared.model, item)
    return prepared.summary
