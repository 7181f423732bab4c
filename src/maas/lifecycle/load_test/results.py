"""Types of a load test: the load, samples of requests, and results of levels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from maas.domain.errors import InvalidInput

TEXT_CONCURRENCY = (1, 4, 16, 32)
ROW_CONCURRENCY = (1, 4, 16, 64)
MOST_LEVELS = 16
MOST_AT_ONCE = 1024
"""Largest number of requests in flight; more connections would measure the client's kernel."""
MOST_SAMPLES = 1_000_000
"""Largest number of samples of a level, which ends there: all stay in memory until it is over."""

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
    """A reproducible load: the same load sends the same requests in the same order."""

    concurrency: tuple[int, ...] = ()
    """Closed loop: a level per entry with that many clients, each of which waits for a response
    before its next request. Empty: the defaults of the deployment's task unless there are rates."""
    rates: tuple[float, ...] = ()
    """Open loop: a level per entry, in which that many requests per second arrive (Poisson),
    independent of responses."""
    prompt_tokens: int = 128
    """Approximate tokens of a prompt; results have the server's count."""
    output_tokens: int = 64
    """Largest number of output tokens; a model may stop earlier."""
    seconds: float = 10.0
    """Seconds during which a level starts requests; requests in flight are completed."""
    requests: int | None = None
    """Number of requests per level, at least one per client, instead of `seconds`."""
    seed: int = 0
    """Seed of prompts and arrivals."""
    same_prompt: bool = False
    """Whether all requests have the same prompt, which shows the effect of a prefix cache."""
    timeout_s: float = 600.0
    """Timeout of a request, which then counts as an error."""

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
    """Times and counts of one request; times are seconds of one clock."""

    start: float
    """Time of sending; in an open loop, the scheduled time."""
    first: float
    """Time of the first text; 0 if there was none."""
    last: float
    """Time of the last text."""
    end: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""
    """Error code; empty if the request succeeded."""

    @property
    def latency_ms(self) -> float:
        return (self.end - self.start) * 1e3

    @property
    def ttft_ms(self) -> float:
        """Time to the first text."""
        return (self.first - self.start) * 1e3

    @property
    def tpot_ms(self) -> float:
        """Time per token after the first one, of which there must be at least one."""
        return (self.last - self.first) * 1e3 / (self.completion_tokens - 1)


@dataclass(frozen=True)
class Percentiles:
    """Nearest-rank percentiles, so that both are measured values."""

    p50: float
    p99: float


@dataclass(frozen=True)
class LevelResult:
    """Result of one level. Failed requests count only in `errors`."""

    concurrency: int | None
    rate: float | None
    """Requests per second; a level has either a concurrency or a rate."""
    requests: int
    """Number of successful requests."""
    errors: dict[str, int]
    seconds: float
    """From the first request's start to the last one's end."""
    requests_per_s: float
    latency_ms: Percentiles | None
    """Latency of complete responses; None, here and below, if no request succeeded."""
    ttft_ms: Percentiles | None = None
    """Time to first token."""
    tpot_ms: Percentiles | None = None
    """Time per output token after the first: last text minus first text, divided by the tokens
    between them."""
    tokens_per_s: float | None = None
    """Output tokens of all requests, divided by `seconds`."""
    prompt_tokens: float | None = None
    """Mean per request, here and below, by the server's count."""
    output_tokens: float | None = None
    cached_tokens: float | None = None
    """Prompt tokens that the server took from its cache."""
    client_cores: float = 0.0
    """Processor time of the load generator, divided by `seconds`."""
    complete: bool = True
    """False if the level was interrupted."""

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
    """Progress of a load test."""

    label: str
    level: int
    """Index of the level, from 0."""
    levels: int
    requests: int
    """Finished requests of this level, successful or failed."""
    errors: int
    elapsed_s: float
    figures: LevelResult | None = None
    """Result of the level when it is over."""


@dataclass(frozen=True)
class LoadResult:
    """Results of a load test of a deployment, and how they were obtained."""

    deployment: str
    model: str
    targets: tuple[str, ...]
    """`version/variant` of each target, with its share if there are several."""
    task: str
    load: Load
    levels: tuple[LevelResult, ...]
    how: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    """Whether the test was stopped; the last level may then be incomplete."""
    notes: tuple[str, ...] = ()
    """Caveats for the interpretation of the results."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
