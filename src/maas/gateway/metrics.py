"""`/metrics`: the counters of all gateway workers in Prometheus's text format 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from maas.gateway.http.request import Request
from maas.gateway.metering import (
    BATCH_ROWS,
    BATCHES,
    BOUNDS,
    CACHED,
    COMPLETION,
    COUNT,
    FIRST_BOUNDS,
    FIRST_BUCKET,
    FIRST_FIRST_BUCKET,
    FIRST_PER_TOKEN_BUCKET,
    FIRST_US,
    GENERATIONS,
    LATENCY_US,
    MODEL_US,
    PER_TOKEN_BOUNDS,
    PER_TOKEN_US,
    PROMPT,
    QUEUE_US,
    Meter,
)
from maas.serving.routing.router import Router

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def metrics_handler(meter: Meter, router: Router, version: str) -> Callable[[Request], None]:
    """A handler of `/metrics`; `version` is that of the server."""

    def handle(request: Request) -> None:
        lines = [*_deployment_lines(router, version), *_inference_lines(meter.totals())]
        lines += _generation_lines(meter.totals(GENERATIONS))
        text = "\n".join(lines) + "\n"
        request.respond(200, text.encode(), CONTENT_TYPE)

    return handle


def _deployment_lines(router: Router, version: str) -> Iterator[str]:
    yield "# HELP maas_build_info Version of OpenMaaS."
    yield "# TYPE maas_build_info gauge"
    yield f'maas_build_info{{version="{_escaped(version)}"}} 1'
    yield "# HELP maas_deployment_ready Whether a replica of the deployment can answer."
    yield "# TYPE maas_deployment_ready gauge"
    for name, live in sorted(router.deployments.items()):
        ready = any(target.is_ready for target in live.targets)
        yield f'maas_deployment_ready{{deployment="{_escaped(name)}"}} {int(ready)}'


def _inference_lines(totals: dict[str, tuple[int, ...]]) -> Iterator[str]:
    series = sorted((_labels(label), counters) for label, counters in totals.items())
    yield "# HELP maas_inference_requests_total Requests by outcome (ok, or the error's code)."
    yield "# TYPE maas_inference_requests_total counter"
    for (labels, outcome), counters in series:
        count = sum(counters[FIRST_BUCKET:]) if outcome == "ok" else counters[COUNT]
        yield f'maas_inference_requests_total{{{labels},outcome="{outcome}"}} {count}'
    answered = [(labels, c) for (labels, outcome), c in series if outcome == "ok"]
    yield "# HELP maas_inference_duration_seconds From the request's head to its answer."
    yield "# TYPE maas_inference_duration_seconds histogram"
    for labels, counters in answered:
        yield from _histogram(
            "maas_inference_duration_seconds",
            labels,
            BOUNDS,
            counters[FIRST_BUCKET:],
            counters[LATENCY_US],
        )
    for name, place, scale, help_text in (
        ("queue_seconds", QUEUE_US, 1e-6, "Time that requests waited in a replica."),
        ("compute_seconds", MODEL_US, 1e-6, "Run time of the model."),
        ("batches", BATCHES, 1, "Batches that answered; rows by batches is their mean size."),
        ("batch_rows", BATCH_ROWS, 1, "Rows of these batches."),
    ):
        yield f"# HELP maas_inference_{name}_total {help_text}"
        yield f"# TYPE maas_inference_{name}_total counter"
        for labels, counters in answered:
            yield f"maas_inference_{name}_total{{{labels}}} {counters[place] * scale}"


def _generation_lines(totals: dict[str, tuple[int, ...]]) -> Iterator[str]:
    series = []
    for label, counters in sorted(totals.items()):
        labels, operation = _labels(label)
        series.append((f'{labels},operation="{operation}"', counters))
    for name, place, help_text in (
        ("prompt_tokens", PROMPT, "Prompt tokens, as counted by the engine."),
        ("cached_tokens", CACHED, "Prompt tokens taken from the engine's cache."),
        ("completion_tokens", COMPLETION, "Generated tokens, as counted by the engine."),
    ):
        yield f"# HELP maas_generation_{name}_total {help_text}"
        yield f"# TYPE maas_generation_{name}_total counter"
        for labels, counters in series:
            yield f"maas_generation_{name}_total{{{labels}}} {counters[place]}"
    for name, bounds, first, sum_at, help_text in (
        ("time_to_first_token", FIRST_BOUNDS, FIRST_FIRST_BUCKET, FIRST_US,
         "From the request's head to the first token of a choice."),
        ("time_per_output_token", PER_TOKEN_BOUNDS, FIRST_PER_TOKEN_BUCKET, PER_TOKEN_US,
         "Mean time per further token of a choice."),
    ):  # fmt: skip
        yield f"# HELP maas_generation_{name}_seconds {help_text}"
        yield f"# TYPE maas_generation_{name}_seconds histogram"
        for labels, counters in series:
            buckets = counters[first : first + len(bounds) + 1]
            name_in_full = f"maas_generation_{name}_seconds"
            yield from _histogram(name_in_full, labels, bounds, buckets, counters[sum_at])


def _histogram(
    name: str, labels: str, bounds: Sequence[float], buckets: Sequence[int], sum_us: int
) -> Iterator[str]:
    total = 0
    for bound, count in zip((*bounds, "+Inf"), buckets, strict=True):
        total += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
    yield f"{name}_sum{{{labels}}} {sum_us / 1e6}"
    yield f"{name}_count{{{labels}}} {total}"


def _labels(label: str) -> tuple[str, str]:
    deployment, version, variant, outcome = (label.split("\t") + [""] * 4)[:4]
    labels = (
        f'deployment="{_escaped(deployment)}",version="{_escaped(version)}",'
        f'variant="{_escaped(variant)}"'
    )
    return labels, _escaped(outcome)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
