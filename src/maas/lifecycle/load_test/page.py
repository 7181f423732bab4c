"""Result of a load test as a self-contained HTML page."""

from __future__ import annotations

import time

from maas.lifecycle.drawing.page import facts, figure, number_row, page, pair, section, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.load_test.pictures import panel_svg, panels
from maas.lifecycle.load_test.results import LoadResult
from maas.lifecycle.load_test.summary import generates_text, headings, rows

_CAPTIONS = {
    "Output tokens per second": "All requests together, from the start of the first to the end of "
    "the last.",
    "Time to first token": "From sending to the first text.",
    "Time per output token": "Within one response, after its first text.",
    "Requests per second": "From the start of the first request to the end of the last.",
    "Latency": "From sending to the end of the response.",
}


def load_page(result: LoadResult) -> str:
    """The document: charts, their numbers, and the method."""
    title = f"{result.deployment} under load"
    date = time.strftime("%-d %B %Y, %H:%M UTC", time.gmtime(result.how.get("started_at", 0.0)))
    stopped = ""
    if result.interrupted:
        stopped = '<p class="bad">The test was stopped before its end.</p>'
    notes = "".join(f'<p class="note">{escaped(note)}</p>' for note in result.notes)
    content = [
        f'<header>\n<p class="kicker">{escaped(result.task)} · {escaped(date)}</p>\n'
        f"<h1>{escaped(title)}</h1>\n<p>{escaped(result.model)}, {escaped(served(result))}</p>\n"
        f"{stopped}{notes}</header>",
        section("Charts", pair(*_figures(result))),
        section("Numbers", _table(result), note="Times in milliseconds, lengths in tokens."),
        section("Method", facts(_facts(result), caption="Method")),
        "<footer>Made by OpenMaaS. This file is self-contained.</footer>",
    ]
    return page(title, content)


def served(result: LoadResult) -> str:
    """The targets that served the requests, as text."""
    return ", ".join(f"variant {target}" for target in result.targets)


def _figures(result: LoadResult) -> list[str]:
    return [
        figure(panel.title, panel_svg(panel, result.levels), _CAPTIONS[panel.title])
        for panel in panels(result.levels)
    ]


def _table(result: LoadResult) -> str:
    head = number_row(*headings(result.levels))
    lines = [number_row(*row) for row in rows(result.levels)]
    return table(head, lines, caption="Figures of each level; times in milliseconds")


def _facts(result: LoadResult) -> list[tuple[str, str]]:
    load, how = result.load, result.how
    length = f"{load.seconds:g} s per level"
    if load.requests is not None:
        length = f"{load.requests} requests per level"
    lines = [("method", how.get("method")), ("length", length)]
    if generates_text(result.levels):
        text = f"about {load.prompt_tokens} tokens; {how.get('prompts')}"
        lines += [("prompts", text), ("outputs", f"at most {load.output_tokens} tokens")]
    lines += [
        ("seed", str(load.seed)),
        ("client", how.get("client")),
        ("server", machine_text(how.get("server", {}))),
    ]
    return [(name, escaped(value)) for name, value in lines if value]


def machine_text(server: dict[str, object]) -> str:
    """The server's version and machine in a line."""
    machine = server.get("machine")
    parts = []
    if "version" in server:
        parts.append(f"OpenMaaS {server['version']}")
    if isinstance(machine, dict):
        parts.append(f"{machine.get('processor')}, {machine.get('cores')} cores")
        parts.append(str(machine.get("system")))
    return ", ".join(parts)
