"""From what an optimization found to what the server gets: variants, evidence and a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.models import Evidence, File, Variant
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.optimize.engine import OptimizationOutcome
from maas.lifecycle.optimize.judgment.report_intervals import with_report_intervals
from maas.lifecycle.optimize.publication import FIGURES, REPORT, PreparedOptimization
from maas.lifecycle.optimize.report.report import render_optimization
from maas.lifecycle.optimize.report.summary import summary
from maas.lifecycle.optimize.results import Candidate, CandidateResult, Optimization, to_json


def prepare_optimization(found: OptimizationOutcome, workdir: Path) -> PreparedOptimization:
    """Variants for the candidates that passed, evidence for all, and the report as its file.

    Evidence also of those that were refused: an earlier run may have let the same one pass, and a
    gate is held against what was measured last.
    """
    optimization = found.optimization
    # Evidence has the intervals by which it was judged: a gate must find the same again.
    shown = with_report_intervals(optimization)
    page = workdir / REPORT
    page.write_text(render_optimization(shown), encoding="utf-8")
    figures = workdir / FIGURES
    figures.write_bytes(msgspec.json.encode(to_json(shown)))
    variants: list[Variant] = []
    refused: list[Variant] = []
    files: list[tuple[Path, File]] = [(page, _file(page)), (figures, _file(figures))]
    evidence = [_evidence(optimization, _file(page)), _figures(optimization, _file(figures))]
    for tried in optimization.results:
        if tried.name not in found.candidates:
            continue
        evidence += _of_variant(optimization, tried)
        if tried is optimization.original:
            continue
        variant, own = _variant(found.candidates[tried.name])
        if tried.passed:
            variants.append(variant)
            files += own
        else:
            refused.append(variant)
    return PreparedOptimization(
        model=optimization.model,
        variants=tuple(variants),
        evidence=tuple(evidence),
        files=tuple(files),
        refused=tuple(refused),
        summary=summary_of(shown),
    )


def summary_of(optimization: Optimization) -> dict[str, Any]:
    """What `maas optimize -o json` prints; what is long is in the figures."""
    found = summary(optimization)
    for candidate in found["candidates"]:
        for long in ("verdict", "comparison", "profile"):
            candidate.pop(long, None)
    return found


def _evidence(optimization: Optimization, page: File) -> Evidence:
    """For the version as a whole: what was tried, and which is best for the objective."""
    chosen = next(t for t in optimization.results if t.name == optimization.chosen)
    return Evidence(
        kind="optimization",
        values={
            "objective": optimization.objective,
            "gate": optimization.gate,
            "chosen": optimization.chosen,
            "chosen_reason": optimization.chosen_reason,
            "threads": chosen.threads,
            "best": dict(optimization.best),
            "candidates": [
                {"name": c["name"], "passed": c["passed"], "reason": c["reason"]}
                for c in summary_of(optimization)["candidates"]
            ],
        },
        how={**optimization.how, "command": optimization.command},
        file=page,
        created_at=optimization.created_at,
    )


def _figures(optimization: Optimization, file: File) -> Evidence:
    """Every figure of the report, for programs."""
    how = {"command": optimization.command, "made": "with the report"}
    values = {"objective": optimization.objective, "gate": optimization.gate}
    created = optimization.created_at
    return Evidence("optimization-figures", values, how, file=file, created_at=created)


def _of_variant(optimization: Optimization, tried: CandidateResult) -> list[Evidence]:
    """What a gate is held against later, and what the variant costs."""
    how = {**optimization.how, "command": optimization.command, "made": dict(tried.how)}
    found = []
    created = optimization.created_at
    if tried.comparison is not None:
        # The matrices are in the report; for a thousand classes they are millions of numbers.
        values = to_json(replace(tried.comparison, confusion=()))
        found.append(Evidence("comparison", values, how, tried.name, created_at=created))
    if tried.measurement is not None:
        values = to_json(tried.measurement)
        found.append(Evidence("measurement", values, how, tried.name, created_at=created))
    if tried.profile is not None:
        values = {k: v for k, v in tried.profile.items() if k != "how"}
        obtained = {**how, **tried.profile.get("how", {})}
        found.append(Evidence("profile", values, obtained, tried.name, created_at=created))
    return found


def _variant(candidate: Candidate) -> tuple[Variant, list[tuple[Path, File]]]:
    files = [(path, replace(_file(path), name=name)) for name, path in candidate.files.items()]
    noun = Variant(
        candidate.name,
        candidate.runtime,
        tuple(file for _, file in files),
        dict(candidate.options),
    )
    return noun, files


def _file(path: Path) -> File:
    return File(path.name, sha256_of(path), path.stat().st_size)
