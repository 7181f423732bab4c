"""Conversion of samples to rows, and of rows to Markdown, charts and JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness.measure import Sample
from benchmarks.harness.peers import OUR_NAME
from benchmarks.harness.stats import Spread, ratio, spread

WORKLOADS = {
    "article": "The 10-10-1 network, one row per request",
    "image": "A 3x224x224 float32 input, channel means",
    "noop": "A route that does nothing",
    "post": "A POST of ten numbers as JSON, no model",
}


@dataclass(frozen=True)
class Row:
    """One route of one participant over all rounds; mappings are by number of connections."""

    peer: str
    title: str
    config: str
    protocol: str
    workload: str
    rps: Mapping[int, Spread | None]
    ratio: Mapping[int, Spread | None]
    """Baseline over this one in the same rounds, with protocol `against` of the baseline."""
    against: str
    cpu_s_per_1k: float | None
    """Value at the largest number of connections."""
    rss_mib: float | None
    pss_mib: float | None
    p50_ms: Mapping[int, float | None]
    void: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows(
    samples: Sequence[Sample], titles: Mapping[str, str], baseline: str = OUR_NAME
) -> list[Row]:
    """One row per participant, configuration and route, the baseline first, then by requests/s."""
    groups: dict[tuple[str, str, str, str], list[Sample]] = {}
    for sample in samples:
        key = (sample.workload, sample.peer, sample.config, sample.protocol)
        groups.setdefault(key, []).append(sample)
    result = [_row(key, group, groups, titles, baseline) for key, group in groups.items()]

    def rank(row: Row) -> tuple[int, bool, float]:
        top = row.rps[max(row.rps)]
        return (
            list(WORKLOADS).index(row.workload),
            row.peer != baseline,
            -(top.median if top else 0.0),
        )

    return sorted(result, key=rank)


def _row(
    key: tuple[str, str, str, str],
    group: Sequence[Sample],
    groups: Mapping[tuple[str, str, str, str], Sequence[Sample]],
    titles: Mapping[str, str],
    baseline: str,
) -> Row:
    workload, peer, config, protocol = key
    baseline_groups = {k[3]: v for k, v in groups.items() if k[0] == workload and k[1] == baseline}
    # The same protocol if both support it, else the baseline's first one for this workload.
    against = protocol if protocol in baseline_groups else next(iter(baseline_groups), "")
    levels = sorted({s.connections for s in group})
    valid = [s for s in group if not s.void]
    busiest = [s for s in valid if s.connections == max(levels)]

    def by_round(part: Sequence[Sample], level: int) -> dict[int, float]:
        return {s.round: s.rps for s in part if s.connections == level and not s.void}

    def middle(part: Sequence[Sample], value: Callable[[Sample], float]) -> float | None:
        values = spread([value(s) for s in part if not math.isnan(value(s))])
        return values.median if values else None

    ratios: dict[int, Spread | None] = dict.fromkeys(levels)
    if peer != baseline and against:
        for level in levels:
            base = by_round(baseline_groups[against], level)
            ratios[level] = ratio(base, by_round(group, level))
    return Row(
        peer=peer,
        title=titles.get(peer, peer),
        config=config,
        protocol=protocol,
        workload=workload,
        rps={c: spread(list(by_round(group, c).values())) for c in levels},
        ratio=ratios,
        against=against,
        cpu_s_per_1k=middle(busiest, lambda s: s.cpu_s_per_1k),
        rss_mib=middle(busiest, lambda s: s.rss_mib),
        pss_mib=middle(busiest, lambda s: s.pss_mib),
        p50_ms={
            c: middle([s for s in valid if s.connections == c], lambda s: s.p50_ms) for c in levels
        },
        void=len(group) - len(valid),
    )


def markdown(rows: Sequence[Row], baseline: str = "OpenMaaS") -> str:
    """One table per workload, with aligned columns for terminals."""
    parts = []
    for workload, title in WORKLOADS.items():
        part = [row for row in rows if row.workload == workload]
        if part:
            parts.append(f"### {title}\n\n{_table(part, baseline)}")
    return "\n\n".join(parts)


def _table(part: Sequence[Row], baseline: str) -> str:
    levels = sorted({c for row in part for c in row.rps})
    head = ["server", "settings", "protocol"]
    head += [f"requests/s, {c} conn." for c in levels]
    head += [f"{baseline} / this, {c} conn." for c in levels]
    head += ["CPU s per 1,000", "RSS MiB", "void"]
    body = [
        [
            row.title,
            row.config,
            row.protocol,
            *(_rps(row.rps.get(c)) for c in levels),
            *(_ratio(row.ratio.get(c)) for c in levels),
            "-" if row.cpu_s_per_1k is None else f"{row.cpu_s_per_1k:.3g}",
            "-" if row.rss_mib is None else f"{row.rss_mib:.0f}",
            str(row.void),
        ]
        for row in part
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in [head, *body]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _rps(value: Spread | None) -> str:
    if value is None:
        return "-"
    digits = 0 if value.median >= 100 else 1
    middle, low, high = (f"{v:,.{digits}f}" for v in (value.median, value.low, value.high))
    return f"{middle} ({low}–{high})"


def _ratio(value: Spread | None) -> str:
    return "-" if value is None else f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"


def picture(rows: Sequence[Row], workload: str, machine: str) -> str:
    """Bar chart of requests/s at the largest number of connections, as SVG."""
    level = max((max(row.rps) for row in rows if row.workload == workload), default=0)
    part = [(row, top) for row in rows if row.workload == workload and (top := row.rps.get(level))]
    left, width, step = 330, 840, 34
    most = max((top.high for _row, top in part), default=1.0)
    height = 62 + step * len(part) + 26
    scale = (width - left - 90) / most
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        "<style>.t{fill:#1f2328}.m{fill:#59636e}.b{fill:#8c959f}.o{fill:#0969da}"
        ".w{stroke:#1f2328;stroke-width:1.5}"
        "@media(prefers-color-scheme:dark){.t{fill:#f0f6fc}.m{fill:#9198a1}.b{fill:#6e7681}"
        ".o{fill:#4493f8}.w{stroke:#f0f6fc}}</style>",
        f'<text class="t" x="8" y="22" font-size="15" font-weight="600">'
        f"{html.escape(WORKLOADS[workload])}: requests per second, {level} connections</text>",
        f'<text class="m" x="8" y="42">Server on one core, load from another. '
        f"{html.escape(machine)}</text>",
    ]
    for index, (row, top) in enumerate(part):
        y = 58 + step * index
        style = "o" if row.peer == OUR_NAME else "b"
        twins = [r for r, _top in part if (r.peer, r.protocol) == (row.peer, row.protocol)]
        detail = row.config if len(twins) > 1 else row.protocol
        name = html.escape(f"{row.title}, {detail}")
        low, middle, high = (left + v * scale for v in (top.low, top.median, top.high))
        out.append(
            f'<text class="t" x="{left - 8}" y="{y + 16}" text-anchor="end">{name}</text>'
            f'<rect class="{style}" x="{left}" y="{y + 3}" width="{max(middle - left, 1):.1f}"'
            f' height="18" rx="2"/><path class="w" d="M{low:.1f} {y + 12}H{high:.1f}"/>'
            f'<text class="t" x="{high + 6:.1f}" y="{y + 16}">{top.median:,.0f}</text>'
        )
    out.append(
        f'<text class="m" x="8" y="{height - 8}">Bars: median of the rounds; line: smallest to'
        " largest.</text></svg>"
    )
    return "\n".join(out) + "\n"


def disturbances(samples: Sequence[Sample]) -> list[str]:
    """Notes on invalid measurements and on other load of the machine."""
    notes = []
    void = [s for s in samples if s.void]
    if void:
        first = void[0]
        notes.append(
            f"{len(void)} of {len(samples)} measurements are void, for example "
            f"{first.peer} {first.protocol} at {first.connections}: {first.void}."
        )
    foreign = [s for s in samples if s.foreign_cpu > 0.05]
    if foreign:
        worst = max(s.foreign_cpu for s in foreign)
        notes.append(
            f"In {len(foreign)} of {len(samples)} measurements other processes used more than 5 "
            f"% of the server's core, at most {worst:.0%}: the machine was not idle."
        )
    steal = [s for s in samples if s.steal > 0.01]
    if steal:
        notes.append(f"In {len(steal)} measurements the hypervisor used more than 1 % of the core.")
    bound = [s for s in samples if s.generator_cpu > 0.85]
    if bound:
        names = ", ".join(sorted({f"{s.peer} {s.protocol}" for s in bound}))
        notes.append(f"The load generator, not the server, may have been the limit for: {names}.")
    return notes
