"""What a load is, what one request of it gave, and what a level of it comes to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from maas.domain.errors import InvalidInput

TEXT_CONCURRENCY = (1, 4, 16, 32)
ROW_CONCURRENCY = (1, 4, 16, 64)
MOST_LEVELS = 16
MOST_AT_ONCE = 1024
"""Requests in flight; more connections than that measure the caller's kernel."""
MOST_SAMPLES = 1_000_000
"""Of one level, which ends there: each is kept until the level is over."""

_BOUNDS: dict[str, tuple[float, float]] = {
    "prompt_tokens": (1, 1_000_000),
    "output_tokens": (1, 100_000),
    "seconds": (0.1, 3600),
    "requests": (1, MOST_SAMPLES),
    "seed": (0, 2**63 - 1),
    "timeout_s": (0.1, 3600),
}


@dataclass(frozen=True)
class Load:
    """A fixed load. The same one asks the same questions in the same order."""

    concurrency: tuple[int, ...] = ()
    """Closed loop: a level per entry, in which so many callers each wait for their answer before
    they ask again. Empty: the usual ones of the deployment's task, unless there are rates."""
    rates: tuple[float, ...] = ()
    """Open loop: a level per entry, in which so many requests per second arrive (Poisson),
    answered or not."""
    prompt_tokens: int = 128
    """About as many; what the server counted is in the figures."""
    output_tokens: int = 64
    """At most as many: a model may stop earlier."""
    seconds: float = 10.0
    """How long a level starts requests; those that run are waited for."""
    requests: int | None = None
    """So many per level instead, and at least one per caller."""
    seed: int = 0
    """Of prompts and arrivals."""
    same_prompt: bool = False
    """One prompt for all requests, so that a server that remembers prefixes shows what it gains."""
    timeout_s: float = 600.0
    """Of one request; after it the request counts as an error."""

    def __post_init__(self) -> None:
        if self.concurrency and self.rates:
            raise InvalidInput("give concurrency or rates; got both", field="rates")
        if max(len(self.concurrency), len(self.rates)) > MOST_LEVELS:
            raise InvalidInput(f"a load has at most {MOST_LEVELS} levels", field="concurrency")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInput(
                    f"{name} must be from {low:g} to {high:g}; got {value}", field=name
                )
        for level in self.concurrency:
            if not 1 <= level <= MOST_AT_ONCE:
                raise InvalidInput(
                    f"concurrency must be from 1 to {MOST_AT_ONCE}; got {level}",
                    field="concurrency",
                )
        for rate in self.rates:
            if not 0.01 <= rate <= 100_000:
                raise InvalidInput(
                    f"rate must be from 0.01 to 100000 per second; got {rate}", field="rates"
                )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class RequestSample(NamedTuple):
    """One request; times are seconds of one clock."""

    start: float
    """When it was sent; in an open loop, when it was due."""
    first: float
    """When its first text came; 0 if none did."""
    last: float
    """When its last text came."""
    end: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""
    """The code of what went wrong."""


@dataclass(frozen=True)
class Percentiles:
    """Nearest-rank percentiles: both are values that occurred."""

    p50: float
    p99: float


@dataclass(frozen=True)
class LevelResult:
    """What one level came to. Requests that failed count in `errors` and nowhere else."""

    concurrency: int | None
    rate: float | None
    """Of the two, the one that the level has; rate in requests per second."""
    requests: int
    """Answered."""
    errors: dict[str, int]
    seconds: float
    """From the first request's start to the last one's end."""
    requests_per_s: float
    latency_ms: Percentiles | None
    """Of whole answers; None here and below if no request was answered."""
    ttft_ms: Percentiles | None = None
    """To the first text."""
    tpot_ms: Percentiles | None = None
    """Per output token after the first: last text minus first text, by the tokens between."""
    tokens_per_s: float | None = None
    """Output tokens of all requests, by `seconds`."""
    prompt_tokens: float | None = None
    """Means per request here and below, as the server counted."""
    output_tokens: float | None = None
    cached_tokens: float | None = None
    """Of the prompt's, those that the server did not compute anew."""
    client_cores: float = 0.0
    """Processor time that the measuring itself took, by `seconds`."""
    complete: bool = True
    """False if it was interrupted."""

    @property
    def label(self) -> str:
        if self.rate is not None:
            return f"rate {self.rate:g}/s"
        return f"concurrency {self.concurrency}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> LevelResult:
        fields = {k: v for k, v in raw.items() if k in cls.__dataclass_fields__}
        for name in ("latency_ms", "ttft_ms", "tpot_ms"):
            if fields.get(name) is not None:
                fields[name] = Percentiles(**fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is."""

    label: str
    level: int
    """From 0."""
    levels: int
    requests: int
    """Answered or failed, of this level."""
    errors: int
    elapsed_s: float
    figures: LevelResult | None = None
    """Of the level, once it is over."""


@dataclass(frozen=True)
class LoadResult:
    """What a deployment did under a load, and how that was obtained."""

    deployment: str
    model: str
    targets: tuple[str, ...]
    """`version/variant` of each that answered, with its share if there are several."""
    task: str
    load: Load
    levels: tuple[LevelResult, ...]
    how: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    """True if it was stopped; the last level may then be incomplete."""
    notes: tuple[str, ...] = ()
    """What a reader must know before the figures are believed."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
