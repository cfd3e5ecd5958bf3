"""From a model's scores to text: choose each token, and cut the text at marks and stop sequences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from longrepo.data.template import completion_ids, completion_text
from longrepo.data.tokenizer import RepoTokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what an incomplete UTF-8 character is decoded to


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` keeps that many of the likeliest tokens (0: all),
    `top_p` the smallest set with that probability, `min_p` those with that share of the likeliest one's probability.
    `frequency_penalty`, `presence_penalty` and `logit_bias` change the scores as in OpenAI's interface; `logprobs` is
    the number of likeliest tokens to record at each step (None: record nothing)."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the engine's own greedy choice is all that is needed."""
        changed = self.frequency_penalty or self.presence_penalty or self.logit_bias
        return not (self.temperature or changed or self.logprobs is not None)

    def sampler(self, choice: int = 0) -> TokenSampler | None:
        """Return a sampler for the answer number `choice` of a request; None if the engine's greedy choice will do."""
        return None if self.is_plain_greedy else TokenSampler(self, choice)


@dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of the chosen token, and of the likeliest ones by id, before temperature and penalties."""

    token: int
    logprob: float
    likeliest: Mapping[int, float]


@dataclass(frozen=True)
class ScoredToken:
    """A token of an answer: its text, the character of the answer it begins at, and log-probabilities as above."""

    text: str
    start: int
    logprob: float
    likeliest: Mapping[str, float]

    @staticmethod
    def of(record: TokenLogprobs, start: int, tokenizer: RepoTokenizer) -> ScoredToken:
        """Return a recorded token with texts in place of ids; the chosen one is always among the likeliest."""
        logprobs = {**record.likeliest, record.token: record.logprob}
        likeliest = {tokenizer.decode([id]): logprob for id, logprob in logprobs.items()}
        return ScoredToken(tokenizer.decode([record.token]), start, record.logprob, likeliest)


class TokenSampler:
    """Chooses each next token from the model's scores; the same seed, answer number and scores give the same tokens.

    `records` has an entry for each call if `logprobs` is set; an engine may call once more than it yields tokens."""

    def __init__(self, sampling: Sampling, choice: int) -> None:
        self._sampling = sampling
        seed = None if sampling.seed is None else [sampling.seed % 2**64, choice]
        self._generator = np.random.default_rng(seed)
        self._counts: dict[int, int] = {}
        self.records: list[TokenLogprobs] = []

    def __call__(self, scores: NDArray[np.float32]) -> int:
        """Choose a token id for the scores `[vocabulary]`."""
        exact = scores.astype(np.float64)
        logs = exact - exact.max()
        logs -= np.log(np.exp(logs).sum())
        token = self._choose(self._adjusted(logs))
        self._counts[token] = self._counts.get(token, 0) + 1
        if (count := self._sampling.logprobs) is not None:
            likeliest = np.argsort(-logs, kind="stable")[:count].tolist()
            self.records.append(TokenLogprobs(token, float(logs[token]), {one: float(logs[one]) for one in likeliest}))
        return token

    def _adjusted(self, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        sampling, adjusted = self._sampling, logs.copy()
        for token, bias in sampling.logit_bias.items():
            adjusted[token] += bias
        for token, count in self._counts.items():
            adjusted[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
        return adjusted

    def _choose(self, logs: NDArray[np.float64]) -> int:
        if self._sampling.temperature == 0:
            return int(logs.argmax())
        order = np.argsort(-logs, kind="stable")[: self._sampling.top_k or None]
        scaled = logs[order] / self._sampling.temperature
        weights = np.exp(scaled - scaled[0])
        totals = np.cumsum(weights / weights.sum())
        kept = min(
            int(np.searchsorted(totals, self._sampling.top_p)) + 1,
            int(np.count_nonzero(weights >= self._sampling.min_p)),
        )
        draw = self._generator.random() * totals[kept - 1]
        return int(order[min(int(np.searchsorted(totals, draw, "right")), kept - 1)])


class CompletionText:
    """The text of an answer, token by token.

    It ends at any special token, or at a stop sequence, whichever tokens that falls into, or where a line after the
    first has something after fewer than `indent` blanks and tabs. Text that may be the start of a stop sequence is held
    back until that is decided. Line ends are `newline` in the tokens and `wanted` in the text and the stops.

    `reason` says why it ended, as OpenAI's finish reason; `stop_word` is the stop sequence that ended it."""

    def __init__(
        self,
        tokenizer: RepoTokenizer,
        stop: Sequence[str] = (),
        newline: str = "\n",
        wanted: str | None = None,
        indent: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._wanted = wanted or newline
        self._has_returns = "\r" in newline + self._wanted
        self._stop = [one.replace("\r\n", "\n") for one in stop if one]
        self._ids: list[int] = []
        self._text = ""  # of all tokens, with line feeds
        self._sent = 0  # characters of it
        self.starts: list[int] = []  # where each token begins, in characters of what is sent
        self.sent = 0  # characters of what was sent
        self._outdent = re.compile(rf"\n[ \t]{{0,{indent - 1}}}(?=[^ \t])") if indent else None
        self.reason: str | None = None
        self.stop_word = ""

    @property
    def has_newline(self) -> bool:
        """Whether it has more than one line."""
        return "\n" in self._text

    def add(self, token: int) -> str:
        """Return the text that the token makes certain."""
        if token not in completion_ids(self._tokenizer):
            self.reason = "stop"
            return self.rest()
        self.starts.append(len(self._as_wanted(self._text.rstrip(_UNFINISHED))))
        self._ids.append(token)
        text = completion_text(self._tokenizer, self._ids)
        self._text = text = text.replace("\r\n", "\n") if self._has_returns else text
        ends = [(at, "stop", stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if self._outdent and (outdent := self._outdent.search(text)):
            ends.append((outdent.end(), "length", ""))
        if ends:
            end, self.reason, self.stop_word = min(ends)
            return self._send(text, end)
        return self._send(text, len(text) - self._held_back(text))

    def rest(self) -> str:
        """Return the text that was held back for a stop sequence that didn't come, without an incomplete character."""
        text = self._text.rstrip(_UNFINISHED)
        return self._send(text, len(text))

    def _as_wanted(self, text: str) -> str:
        return text.replace("\n", self._wanted) if self._has_returns else text

    def _held_back(self, text: str) -> int:
        """Count the characters at the end that may still change: an incomplete character or line end, and before it the
        start of a stop."""
        whole = text.rstrip(_UNFINISHED + "\r")
        begun = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop), len(whole) + 1))
            if whole.endswith(stop[:size])
        ]
        return len(text) - len(whole) + max(begun, default=0)

    def _send(self, text: str, end: int) -> str:
        piece, self._sent = self._as_wanted(text[self._sent : end]), max(self._sent, end)
        self.sent += len(piece)
        return piece
