"""What a client may ask for and what it gets, in OpenAI's completions interface: the fields of a request, and the
objects of a response. Other interfaces are read and written in terms of these."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from longrepo.errors import InputError
from longrepo.serve.metrics import RequestTiming
from longrepo.serve.model import TextPart
from longrepo.serve.prompts import EditorFile
from longrepo.serve.sampling import Sampling

DEFAULT_MAX_TOKENS = 256  # tokens of a completion if a request doesn't say
MAX_ANSWERS, MAX_LOGPROBS = 128, 20
_PROMPT_TYPES = "prompt must be a string, a list of strings, a list of token ids, or a list of such lists"

PromptText = str | tuple[int, ...]  # or token ids


@dataclass(frozen=True)
class CompletionRequest:
    """The fields of a request; unknown ones are ignored. `prompts` has one or more; `n` answers are given to each.
    `editor` says who asks, if the request does: `user`, or llama.cpp's `id_slot`.

    `shown`, if it isn't None, are files that the editor sends, and prompt and suffix are code, not a template; `indent`
    and `seconds` as in `TunedModel.stream`."""

    prompts: tuple[PromptText, ...]
    suffix: str | None
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    n: int
    echo: bool
    sampling: Sampling
    editor: str | None = None
    shown: tuple[EditorFile, ...] | None = None
    indent: int = 0
    seconds: float | None = None

    @staticmethod
    def parse(body: object) -> CompletionRequest:
        """Read a request's body. A field that is null has its default. Raises InputError if one has a wrong type or
        value, or asks for something that isn't done."""
        fields = given_fields(body)
        prompts, n = read_prompts(fields.get("prompt", "")), read_whole(fields, "n", 1, 1, MAX_ANSWERS)
        suffix, options = read_text(fields, "suffix"), fields.get("stream_options", {})
        if suffix and not isinstance(prompts[0], str):
            raise InputError("suffix needs a prompt of text: send both as strings")
        if not isinstance(options, dict):
            raise InputError('stream_options must be an object, such as {"include_usage": true}')
        if n * len(prompts) > MAX_ANSWERS:
            raise InputError(f"n for each prompt makes {n * len(prompts)} answers: ask for at most {MAX_ANSWERS}")
        if fields.get("best_of", n) != n:
            raise InputError("best_of isn't supported: leave it out, and choose among n answers by their logprobs")
        echo, sampling = read_flag(fields, "echo"), _sampling(fields)
        if echo and sampling.logprobs is not None:
            raise InputError("logprobs of the prompt aren't supported: send logprobs without echo")
        return CompletionRequest(
            prompts=prompts,
            suffix=suffix or None,
            max_tokens=read_whole(fields, "max_tokens", DEFAULT_MAX_TOKENS, 0),
            stop=read_stops(fields),
            stream=read_flag(fields, "stream"),
            include_usage=read_flag(options, "include_usage"),
            n=n,
            echo=echo,
            sampling=sampling,
            editor=read_editor(fields),
        )


def given_fields(body: object, what: str = "the request") -> dict[str, Any]:
    """Return the fields of an object that aren't null."""
    if not isinstance(body, dict):
        raise InputError(f"{what} must be a JSON object")
    return {name: value for name, value in body.items() if value is not None}


def read_text(fields: Mapping[str, Any], name: str, default: str = "") -> str:
    """Return a field's text, without half characters."""
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string: send one text, or none")
    return _without_surrogates(value)


def read_stops(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stop sequences."""
    stop = fields.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not (isinstance(stops, list) and all(isinstance(one, str) for one in stops)):
        raise InputError("stop must be a string or a list of strings")
    return tuple(filter(None, stops))


def read_editor(fields: Mapping[str, Any]) -> str | None:
    """Return who asks, if the request says so."""
    user, slot = fields.get("user"), fields.get("id_slot")
    if isinstance(user, str) and user:
        return f"user {user}"
    return f"id_slot {slot}" if type(slot) is int and slot >= 0 else None


def read_prompts(prompt: object) -> tuple[PromptText, ...]:
    """Return the prompts of a request, of which there is one at least."""
    if isinstance(prompt, str):
        return (_without_surrogates(prompt),)
    if not (isinstance(prompt, list) and prompt):
        raise InputError(_PROMPT_TYPES)
    if all(isinstance(one, str) for one in prompt):
        return tuple(map(_without_surrogates, prompt))
    if _are_ids(prompt):
        return (tuple(prompt),)
    if all(isinstance(one, list) and one and _are_ids(one) for one in prompt):
        return tuple(map(tuple, prompt))
    raise InputError(_PROMPT_TYPES)


def _are_ids(ids: list[Any]) -> bool:
    return all(type(id) is int for id in ids)


def _without_surrogates(text: str) -> str:
    """Drop half characters: an editor that counts in UTF-16 may cut a text in the middle of one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def _sampling(fields: Mapping[str, Any]) -> Sampling:
    bias = fields.get("logit_bias", {})
    if not (isinstance(bias, dict) and all(token.isdecimal() for token in bias)):
        raise InputError("logit_bias must be an object of token ids and numbers from -100 to 100")
    return Sampling(
        temperature=read_number(fields, "temperature", 0, 0, 2),
        top_p=read_number(fields, "top_p", 1, 0, 1),
        seed=read_whole(fields, "seed", 0, -(2**63)) if "seed" in fields else None,
        frequency_penalty=read_number(fields, "frequency_penalty", 0, -2, 2),
        presence_penalty=read_number(fields, "presence_penalty", 0, -2, 2),
        logit_bias={int(token): read_number(bias, token, 0, -100, 100) for token in bias},
        logprobs=read_whole(fields, "logprobs", 0, 0, MAX_LOGPROBS)
        if fields.get("logprobs", False) is not False
        else None,
    )


def read_number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Return a field's number."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must be a number from {low} to {high}")
    return float(value)


def read_whole(fields: Mapping[str, Any], name: str, default: int, low: int, high: int | None = None) -> int:
    """Return a field's whole number."""
    value, most = fields.get(name, default), 2**63 - 1 if high is None else high
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= most or value != int(value):
        wanted = f", {low} or more" if high is None else f" from {low} to {high}"
        raise InputError(f"{name} must be a whole number{wanted}")
    return int(value)


def read_flag(fields: Mapping[str, Any], name: str) -> bool:
    """Return whether a field is true."""
    value = fields.get(name) or False
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false")
    return value


@dataclass(frozen=True)
class AnswerPart:
    """A part of the answer number `index` to a request."""

    index: int
    part: TextPart


@dataclass(frozen=True)
class AnswerEnd:
    """The end of all answers to a request, with the counts of tokens, its `last` part and its times. `cut`: whether a
    part of the prompt had to be omitted."""

    prompt_tokens: int
    completion_tokens: int
    last: TextPart
    timing: RequestTiming
    cut: bool


class AnswerFormat(Protocol):
    """How an interface reads one request and writes its answer: at once, or as pieces of a stream."""

    media_type: str  # of the stream

    def parse(self, body: object) -> CompletionRequest:
        """Read the request's body. Raises InputError as `CompletionRequest.parse` does."""
        ...

    def whole(self, request: CompletionRequest, parts: Sequence[AnswerPart], end: AnswerEnd) -> Any:
        """Return the answer, a tree for JSON."""
        ...

    def piece(self, request: CompletionRequest, part: AnswerPart) -> str:
        """Return what is sent for a part."""
        ...

    def ending(self, request: CompletionRequest, end: AnswerEnd) -> str:
        """Return what is sent at the end."""
        ...

    def failure(self, body: dict[str, Any]) -> str:
        """Return what is sent if the answer breaks off, for the body of an OpenAI error."""
        ...


def event(tree: object) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(tree)}\n\n"


class OpenAiFormat:
    """OpenAI's completions, streamed as server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, model: str) -> None:
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        self._head: dict[str, Any] = {**head, "model": model}

    def parse(self, body: object) -> CompletionRequest:
        return CompletionRequest.parse(body)

    def whole(self, request: CompletionRequest, parts: Sequence[AnswerPart], end: AnswerEnd) -> dict[str, Any]:
        texts: dict[int, list[TextPart]] = {}
        for one in parts:
            texts.setdefault(one.index, []).append(one.part)
        choices = [_choice(request, index, texts[index]) for index in sorted(texts)]
        return {**self._head, "choices": choices, "usage": _usage(end)} | ({"truncated": True} if end.cut else {})

    def piece(self, request: CompletionRequest, part: AnswerPart) -> str:
        no_usage = {"usage": None} if request.include_usage else {}
        return event({**self._head, "choices": [_choice(request, part.index, [part.part])], **no_usage})

    def ending(self, request: CompletionRequest, end: AnswerEnd) -> str:
        used = event({**self._head, "choices": [], "usage": _usage(end)}) if request.include_usage else ""
        return used + "data: [DONE]\n\n"

    def failure(self, body: dict[str, Any]) -> str:
        return event(body)


def _choice(request: CompletionRequest, index: int, parts: Sequence[TextPart]) -> dict[str, Any]:
    logprobs = None
    if request.sampling.logprobs is not None:
        tokens = [token for part in parts for token in part.tokens]
        logprobs = {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.likeliest) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }
    text = "".join(part.text for part in parts)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": parts[-1].finish_reason}


def _usage(end: AnswerEnd) -> dict[str, int]:
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def error_body(message: str, status: int) -> dict[str, Any]:
    """Return an error, with a message of one line."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}
