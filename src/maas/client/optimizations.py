"""optimize: make and measure candidates on this machine, and send those that pass the gate."""

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
    """Make smaller or faster variants of a version, and add those that pass the gate.

    Each candidate is measured beside the first variant of the version; the results are stored as
    evidence.

    `ref`: `MODEL` (its newest version) or `MODEL:VERSION`. `objective`: latency, throughput, size
    or memory. `gate`: rules such as "accuracy>=-0.01"; default: at most one point of accuracy, or
    one percent of an error, or 5 % of a perplexity. `data`: an NPZ file with rows X and, where
    there are labels, y; default: the rows of the build, if it was on this machine. `text`: a text
    file to compare language models on; default: a text of this package. `candidates`: names of
    candidates to try; default: all. `runs`: fresh processes in which each is measured (default: 8,
    or 4 for a language model). `seconds` per turn, in which candidate and original alternate.
    `epochs` of each fine-tuning; 0 takes those of the build. `workdir`: a folder for intermediate
    results; the same call with the same folder resumes from them.

    Returns {candidates: [{name, metrics, passed, reason}], chosen, chosen_reason, …}. Raises
    NotFound, InvalidInput for invalid options or a version that cannot be optimized, OutOfSpace.
    """
    options = {
        "objective": objective,
        "gate": gate,
        "candidates": list(candidates),
        "seconds": seconds,
        "runs": runs,
        "seed": seed,
        "epochs": epochs,
    }
    details: VersionDetails = yield version(ref)
    with ExitStack() as stack:
        if workdir is None:
            temporary = tempfile.TemporaryDirectory(prefix="maas-optimize-")
            folder = Path(stack.enter_context(temporary))
        else:
            folder = Path(workdir)
        yield from fetch_original(details, folder / ORIGINAL)
        rows, texts = Path(data) if data else None, Path(text) if text else None
        prepared: PreparedOptimization = yield ComputeStep(
            lambda: _run_job(details, options, folder, rows, texts)
        )
        return (yield from send_optimization(prepared))


def _run_job(
    details: VersionDetails,
    options: dict[str, Any],
    folder: Path,
    data: Path | None,
    text: Path | None,
) -> PreparedOptimization:
    # Imports onnxruntime and torch, which nothing else in the SDK needs.
    from maas.lifecycle.optimize.run import OptimizationJob, run_optimization_job  # noqa: PLC0415
    from maas.lifecycle.recipe import optimize_step  # noqa: PLC0415

    job = OptimizationJob(
        ref=f"{details.version.model}:{details.version.number}",
        manifest=details.version.manifest,
        original=folder / ORIGINAL,
        step=optimize_step(options),
        data=data,
        text=text,
    )
    return run_optimization_job(job, settings.load().jobs_dir, folder)


def fetch_original(details: VersionDetails, target: Path) -> Flow[None]:
    """Download the file of the first variant to `target`.

    Raises InvalidInput if the variant is not a single ONNX or GGUF file, OutOfSpace.
    """
    variant = details.version.manifest.variants[0]
    files = variant.files
    if len(files) != 1 or not (variant.runtime == "onnx" or files[0].name.endswith(".gguf")):
        raise InvalidInput(
            f"optimize needs a version whose first variant is a single ONNX or GGUF file; "
            f"{variant.name} of {details.version.model} has {len(variant.files)} files for "
            f"{variant.runtime}",
            field="model",
        )
    content: bytes = yield download(variant.files[0].sha256)
    staged = target.with_name(target.name + ".new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(content)
        staged.replace(target)
    except OSError as error:
        staged.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise OutOfSpace(f"no space is left to write {target}: {error.strerror}") from error


def send_optimization(prepared: PreparedOptimization) -> Flow[dict[str, Any]]:
    """Send the result of an optimization: files, then variants, then evidence.

    Evidence of a refused variant is sent only if the version has that variant from an earlier run.
    Repeating this after an interruption is safe: files, variants and evidence are identified by
    their content.
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
