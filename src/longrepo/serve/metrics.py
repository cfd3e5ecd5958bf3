"""How long a server's answers take: a line for each request, and figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from longrepo.engines.prompt_cache import PromptCache

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_RATES = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200, 400)


@dataclass
class RequestTiming:
    """Times of a request (seconds of `time.perf_counter`) and counts of tokens, over all its answers. `prompt` counts a
    prompt for each answer to it, `reused` those of its tokens whose keys and values were kept; `cut`: whether a
    part of the prompt had to be omitted."""

    asked: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    first: float | None = None
    prompt: int = 0
    reused: int = 0
    new: int = 0
    cut: bool = False
    ended: float | None = None
    _decoded: int = 0
    _decoding: float = 0.0
    _last: float | None = None

    def read_from(self, start: int, prompt: int) -> None:
        """Note that a prompt begins to be read at token `start`."""
        self.prompt, self.reused, self._last = self.prompt + prompt, self.reused + start, None

    def token(self) -> None:
        """Note a new token."""
        now = time.perf_counter()
        self.first = self.first or now
        self.new += 1
        if self._last is not None:
            self._decoded, self._decoding = self._decoded + 1, self._decoding + now - self._last
        self._last = now

    @property
    def queued(self) -> float:
        """Seconds until its computation began."""
        return (self.begun or time.perf_counter()) - self.asked

    @property
    def first_token(self) -> float | None:
        """Seconds until its first token; None if it has none."""
        return None if self.first is None else self.first - self.asked

    @property
    def reading(self) -> float:
        """Seconds from the beginning of its computation to its first token, or to its end."""
        return (self.first or self._end) - (self.begun or self.asked)

    @property
    def writing(self) -> float:
        """Seconds from its first token to its end."""
        return self._end - (self.first or self._end)

    @property
    def total(self) -> float:
        """Seconds from the request to its end."""
        return self._end - self.asked

    @property
    def _end(self) -> float:
        return self.ended or time.perf_counter()

    @property
    def rate(self) -> float | None:
        """Tokens per second after each answer's first; None without any."""
        return self._decoded / self._decoding if self._decoding else None

    def line(self, outcome: str) -> str:
        """Describe the request in a line."""
        cut = ", cut to fit" if self.cut else ""
        parts = [f"prompt {self.prompt:,} tokens ({self.reused:,} kept){cut}", f"queue {self.queued:.2f} s"]
        if self.first_token is not None:
            parts.append(f"first token after {self.first_token:.2f} s")
        rate = "" if self.rate is None else f" at {self.rate:.1f}/s"
        return f"{time.strftime('%H:%M:%S')}  {'; '.join(parts)}; {self.new} new{rate}; {outcome}"


class ServeMetrics:
    """Figures of a server since its start, in a registry of its own."""

    def __init__(self, waiting: Callable[[], int], kept: PromptCache | None) -> None:
        """`waiting` counts the requests in the queue."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("longrepo_requests", "Requests by how they ended.", ["outcome"], registry=registry)
        self._first = Histogram(
            "longrepo_first_token_seconds", "From the request to its first token.", buckets=_SECONDS, registry=registry
        )
        self._queue = Histogram(
            "longrepo_queue_seconds", "From the request to its computation.", buckets=_SECONDS, registry=registry
        )
        self._rate = Histogram(
            "longrepo_tokens_per_second", "After an answer's first token.", buckets=_RATES, registry=registry
        )
        self._prompt = Counter("longrepo_prompt_tokens", "Tokens of prompts, for each answer.", registry=registry)
        self._reused = Counter("longrepo_prompt_tokens_reused", "Those of them that were kept.", registry=registry)
        self._new = Counter("longrepo_completion_tokens", "New tokens.", registry=registry)
        Gauge("longrepo_requests_waiting", "Requests in the queue.", registry=registry).set_function(waiting)
        if kept is not None:
            Gauge("longrepo_kept_prompts", "Prompts kept.", registry=registry).set_function(lambda: len(kept))
            Gauge("longrepo_kept_bytes", "Their keys and values.", registry=registry).set_function(lambda: kept.bytes)

    def add(self, timing: RequestTiming, outcome: str) -> None:
        """Count a request that has ended with `stop`, `length`, `abandoned`, `refused` or `error`."""
        self._requests.labels(outcome).inc()
        if timing.begun is not None:
            self._queue.observe(timing.queued)
        if timing.first_token is not None:
            self._first.observe(timing.first_token)
        if timing.rate is not None:
            self._rate.observe(timing.rate)
        for counter, tokens in ((self._prompt, timing.prompt), (self._reused, timing.reused), (self._new, timing.new)):
            counter.inc(tokens)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self._registry)
