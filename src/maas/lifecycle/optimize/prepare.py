"""Variants, evidence and report from the outcome of an optimization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.models import Evidence, File, Variant
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.optimize.judgment.report_intervals import with_report_intervals
from maas.lifecycle.optimize.optimize import OptimizationOutcome
from maas.lifecycle.optimize.publication import FIGURES, REPORT, PreparedOptimization
from maas.lifecycle.optimize.report.report import render_optimization
from maas.lifecycle.optimize.report.summary import summary
from maas.lifecycle.optimize.results import Candidate, CandidateResult, Optimization, to_json


def prepare_optimization(outcome: OptimizationOutcome, workdir: Path) -> PreparedOptimization:
    """Variants of the candidates that passed, evidence for all candidates, and the report.

    Rejected candidates get evidence, too: an earlier run may have accepted the same candidate, and
    a gate must use the latest measurement.
    """
    optimization = outcome.optimization
    # The evidence has the intervals that the verdicts are based on, so that a gate repeats them.
    reported = with_report_intervals(optimization)
    page = workdir / REPORT
    page.write_text(render_optimization(reported), encoding="utf-8")
    figures = workdir / FIGURES
    figures.write_bytes(msgspec.json.encode(to_json(reported)))
    accepted: list[Variant] = []
    rejected: list[Variant] = []
    files: list[tuple[Path, File]] = [(page, _file(page)), (figures, _file(figures))]
    evidence = [
        _optimization_evidence(optimization, _file(page)),
        _figures_evidence(optimization, _file(figures)),
    ]
    for result in optimization.results:
        if result.name not in outcome.candidates:
            continue
        evidence += _variant_evidence(optimization, result)
        if result is optimization.original:
            continue
        variant, variant_files = _variant(outcome.candidates[result.name])
        if result.passed:
            accepted.append(variant)
            files += variant_files
        else:
            rejected.append(variant)
    return PreparedOptimization(
        model=optimization.model,
        variants=tuple(accepted),
        evidence=tuple(evidence),
        files=tuple(files),
        rejected=tuple(rejected),
        summary=short_summary(reported),
    )


def short_summary(optimization: Optimization) -> dict[str, Any]:
    """Output of `maas optimize -o json`: the summary without the long parts, which are in the
    figures."""
    values = summary(optimization)
    for candidate in values["candidates"]:
        for key in ("verdict", "comparison", "profile"):
            candidate.pop(key, None)
    return values


def _optimization_evidence(optimization: Optimization, page: File) -> Evidence:
    """Evidence for the whole version: all candidates, and the best one for each objective."""
    chosen = next(r for r in optimization.results if r.name == optimization.chosen)
    candidates = [
        {"name": c["name"], "passed": c["passed"], "reason": c["reason"]}
        for c in short_summary(optimization)["candidates"]
    ]
    return Evidence(
        kind="optimization",
        values={
            "objective": optimization.objective,
            "gate": optimization.gate,
            "chosen": optimization.chosen,
            "chosen_reason": optimization.chosen_reason,
            "threads": chosen.threads,
            "best": dict(optimization.best),
            "candidates": candidates,
        },
        how={**optimization.how, "command": optimization.command},
        file=page,
        created_at=optimization.created_at,
    )


def _figures_evidence(optimization: Optimization, file: File) -> Evidence:
    """Evidence with every figure of the report, for programs."""
    how = {"command": optimization.command, "made": "with the report"}
    values = {"objective": optimization.objective, "gate": optimization.gate}
    created = optimization.created_at
    return Evidence("optimization-figures", values, how, file=file, created_at=created)


def _variant_evidence(optimization: Optimization, result: CandidateResult) -> list[Evidence]:
    """Comparison and measurement, which gates use later, and the profile of one candidate."""
    how = {**optimization.how, "command": optimization.command, "made": dict(result.how)}
    evidence = []
    created = optimization.created_at
    if result.comparison is not None:
        # The matrices are in the report; with a thousand classes they have millions of numbers.
        values = to_json(replace(result.comparison, confusion=()))
        evidence.append(Evidence("comparison", values, how, result.name, created_at=created))
    if result.measurement is not None:
        values = to_json(result.measurement)
        evidence.append(Evidence("measurement", values, how, result.name, created_at=created))
    if result.profile is not None:
        values = {k: v for k, v in result.profile.items() if k != "how"}
        profile_how = {**how, **result.profile.get("how", {})}
        evidence.append(Evidence("profile", values, profile_how, result.name, created_at=created))
    return evidence


def _variant(candidate: Candidate) -> tuple[Variant, list[tuple[Path, File]]]:
    files = [(path, replace(_file(path), name=name)) for name, path in candidate.files.items()]
    variant = Variant(
        candidate.name,
        candidate.runtime,
        tuple(file for _, file in files),
        dict(candidate.options),
    )
    return variant, files


def _file(path: Path) -> File:
    return File(path.name, sha256_of(path), path.stat().st_size)
