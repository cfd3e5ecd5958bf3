"""llama.cpp's own interface: `/infill` and `/completion`, as llama.vscode and llama.vim ask, and `/props`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from longrepo import __version__
from longrepo.errors import InputError
from longrepo.serve.model import TextPart
from longrepo.serve.prompts import EditorFile
from longrepo.serve.protocol import (
    DEFAULT_MAX_TOKENS,
    MAX_ANSWERS,
    AnswerEnd,
    AnswerPart,
    CompletionRequest,
    event,
    given_fields,
    read_editor,
    read_flag,
    read_number,
    read_prompts,
    read_stops,
    read_text,
    read_whole,
)
from longrepo.serve.sampling import Sampling

ALL_THAT_FITS = 2**31 - 1  # tokens of an answer without a limit
_REFUSED = {
    "grammar": "ask without one",
    "json_schema": "ask without one",
    "ignore_eos": "leave it out",
    "logit_bias": "ask /v1/completions with it",
    "n_probs": "ask /v1/completions with logprobs",
}


class LlamaFormat:
    """The answers of llama.cpp's server, streamed as server-sent events; `infill`: to a gap in a file."""

    media_type = "text/event-stream"

    def __init__(self, model: str, infill: bool) -> None:
        self._model, self._infill, self._several = model, infill, False

    def parse(self, body: object) -> CompletionRequest:
        fields = given_fields(body)
        for name, instead in _REFUSED.items():
            if fields.get(name):
                raise InputError(f"{name} isn't supported: {instead}")
        sampling, wanted = (
            read_sampling(fields, top_p=0.95, min_p=0.05),
            read_whole(fields, "n_cmpl", 1, 1, MAX_ANSWERS),
        )
        self._several = wanted > 1
        request = CompletionRequest(
            prompts=read_prompts(fields.get("prompt", "")),
            suffix=None,
            max_tokens=tokens_wanted(fields, "n_predict"),
            stop=read_stops(fields),
            stream=read_flag(fields, "stream"),
            include_usage=False,
            n=wanted if sampling.temperature else 1,  # greedy ones would all be the same
            echo=False,
            sampling=sampling,
            editor=read_editor(fields),
            indent=read_whole(fields, "n_indent", 0, 0, 1000),
            seconds=_milliseconds(fields, "t_max_predict_ms"),
        )
        _milliseconds(fields, "t_max_prompt_ms")
        if request.n > 1 and request.stream:
            raise InputError("n_cmpl isn't supported in a stream: ask without stream")
        if len(request.prompts) > 1:
            raise InputError("prompt must be one text or one list of token ids here: ask once for each")
        return _as_infill(request, fields) if self._infill else request

    def whole(self, request: CompletionRequest, parts: Sequence[AnswerPart], end: AnswerEnd) -> Any:
        answers = []
        for index in range(request.n):
            own = [one.part for one in parts if one.index == index]
            answers.append(self._ended(request, "".join(part.text for part in own), own[-1], end) | {"index": index})
        return answers if self._several else answers[0]

    def piece(self, request: CompletionRequest, part: AnswerPart) -> str:
        tree = {"index": part.index, "content": part.part.text, "tokens": [], "stop": False}
        return event({**tree, "tokens_predicted": part.part.new})

    def ending(self, request: CompletionRequest, end: AnswerEnd) -> str:
        return event(self._ended(request, "", end.last, end))

    def failure(self, body: dict[str, Any]) -> str:
        return event(body)

    def _ended(self, request: CompletionRequest, content: str, last: TextPart, end: AnswerEnd) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "stop": True,
            "model": self._model,
            "tokens_predicted": last.new,
            "tokens_evaluated": end.prompt_tokens,
            "tokens_cached": end.timing.reused,
            "generation_settings": {
                "n_predict": request.max_tokens,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "seed": -1 if sampling.seed is None else sampling.seed,
                "stop": list(request.stop),
                "n_indent": request.indent,
            },
            "truncated": end.cut,
            "stop_type": "limit" if last.finish_reason == "length" else "word" if last.stop_word else "eos",
            "stopping_word": last.stop_word,
            "timings": _timings(end),
        }


def _as_infill(request: CompletionRequest, fields: Mapping[str, Any]) -> CompletionRequest:
    """Return a request for what comes between `input_prefix` with `prompt` and `input_suffix`."""
    (typed,) = request.prompts
    if not isinstance(typed, str):
        raise InputError("prompt must be a string: send the text between input_prefix and the cursor")
    extra = fields.get("input_extra", [])
    if not isinstance(extra, list):
        raise InputError('input_extra must be a list of objects {"filename": ..., "text": ...}')
    shown = []
    for number, one in enumerate(extra, start=1):
        file = given_fields(one, f"entry {number} of input_extra")
        shown.append(EditorFile(read_text(file, "filename"), read_text(file, "text")))
    return replace(
        request,
        prompts=(read_text(fields, "input_prefix") + typed,),
        suffix=read_text(fields, "input_suffix"),
        shown=tuple(file for file in shown if file.text),
    )


def tokens_wanted(fields: Mapping[str, Any], name: str) -> int:
    """Return the most tokens of an answer; below 0: as many as fit."""
    wanted = read_whole(fields, name, DEFAULT_MAX_TOKENS, -2)
    return wanted if wanted >= 0 else ALL_THAT_FITS


def read_sampling(fields: Mapping[str, Any], top_p: float, min_p: float) -> Sampling:
    """Return how tokens are chosen: the likeliest ones, unless the request has a temperature."""
    seed = read_whole(fields, "seed", -1, -(2**63)) if "seed" in fields else -1
    return Sampling(
        temperature=max(0.0, read_number(fields, "temperature", 0, -1, 2)),
        top_p=read_number(fields, "top_p", top_p, 0, 1),
        seed=None if seed == -1 else seed,
        frequency_penalty=read_number(fields, "frequency_penalty", 0, -2, 2),
        presence_penalty=read_number(fields, "presence_penalty", 0, -2, 2),
        top_k=max(0, read_whole(fields, "top_k", 40, -1)),
        min_p=read_number(fields, "min_p", min_p, 0, 1),
    )


def _milliseconds(fields: Mapping[str, Any], name: str) -> float | None:
    """Return a limit in seconds; None if there is none."""
    value = read_number(fields, name, 0, -1, 1e9)
    return value / 1000 if value > 0 else None


def _timings(end: AnswerEnd) -> dict[str, float]:
    """Return the counts and times of an answer, in milliseconds."""
    timing = end.timing
    read, prompt_ms, predicted_ms = timing.prompt - timing.reused, 1000 * timing.reading, 1000 * timing.writing
    return {
        "cache_n": timing.reused,
        "prompt_n": read,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(read, 1),
        "prompt_per_second": 1000 * read / prompt_ms if prompt_ms else 0.0,
        "predicted_n": timing.new,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / max(timing.new, 1),
        "predicted_per_second": 1000 * timing.new / predicted_ms if predicted_ms else 0.0,
    }


def properties(model: str, longest: int, slots: int) -> dict[str, Any]:
    """Return the answer to `GET /props`; `longest`: tokens of prompt and completion, `slots`: prompts kept."""
    return {
        "default_generation_settings": {
            "n_ctx": longest,
            "params": {"n_predict": DEFAULT_MAX_TOKENS, "temperature": 0},
        },
        "total_slots": max(slots, 1),
        "model_alias": model,
        "model_path": model,
        "modalities": {"vision": False, "audio": False},
        "chat_template": "",
        "build_info": f"longrepo {__version__}",
    }
