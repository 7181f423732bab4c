"""`/metrics`: the counters of all gateway workers in Prometheus' text format 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from maas.gateway.metering import (
    BATCH_ROWS,
    BATCHES,
    BOUNDS,
    COUNT,
    FIRST_BUCKET,
    LATENCY_US,
    MODEL_US,
    QUEUE_US,
    Meter,
)
from maas.gateway.request import Request
from maas.serving.routing import Router

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def metrics_handler(meter: Meter, router: Router, version: str) -> Callable[[Request], None]:
    def handle(request: Request) -> None:
        text = "\n".join(_lines(meter.totals(), router, version)) + "\n"
        request.respond(200, text.encode(), CONTENT_TYPE)

    return handle


def _lines(totals: dict[str, tuple[int, ...]], router: Router, version: str) -> Iterator[str]:
    yield "# HELP maas_build_info Version of OpenMaaS."
    yield "# TYPE maas_build_info gauge"
    yield f'maas_build_info{{version="{_escaped(version)}"}} 1'
    yield "# HELP maas_deployment_ready Whether a replica of the deployment can answer."
    yield "# TYPE maas_deployment_ready gauge"
    for name, live in sorted(router.deployments.items()):
        ready = any(route.is_ready for route in live.routes)
        yield f'maas_deployment_ready{{deployment="{_escaped(name)}"}} {int(ready)}'
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
        total = 0
        for bound, count in zip((*BOUNDS, "+Inf"), counters[FIRST_BUCKET:], strict=True):
            total += count
            yield f'maas_inference_duration_seconds_bucket{{{labels},le="{bound}"}} {total}'
        seconds = counters[LATENCY_US] / 1e6
        yield f"maas_inference_duration_seconds_sum{{{labels}}} {seconds}"
        yield f"maas_inference_duration_seconds_count{{{labels}}} {total}"
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


def _labels(label: str) -> tuple[str, str]:
    deployment, version, variant, outcome = (label.split("\t") + [""] * 4)[:4]
    labels = (
        f'deployment="{_escaped(deployment)}",version="{_escaped(version)}",'
        f'variant="{_escaped(variant)}"'
    )
    return labels, _escaped(outcome)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
