"""OpenAI's completions interface: the fields of a request, and the objects of a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longrepo.errors import InputError
from longrepo.serve.sampling import Sampling, ScoredToken

DEFAULT_MAX_TOKENS = 256  # tokens of a completion if a request doesn't say
MAX_ANSWERS, MAX_LOGPROBS = 128, 20
_PROMPT_TYPES = "prompt must be a string, a list of strings, a list of token ids, or a list of such lists"

PromptText = str | tuple[int, ...]  # or token ids


@dataclass(frozen=True)
class CompletionRequest:
    """The fields of a request; unknown ones are ignored. `prompts` has one or more; `n` answers are given to each.
    `editor` says who asks, if the request does: `user`, or llama.cpp's `id_slot`."""

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

    @staticmethod
    def parse(body: object) -> CompletionRequest:
        """Read a request's body. A field that is null has its default. Raises InputError if one has a wrong type or
        value, or asks for something that isn't done."""
        if not isinstance(body, dict):
            raise InputError("the request must be a JSON object")
        fields = {name: value for name, value in body.items() if value is not None}
        prompts, n = _prompts(fields.get("prompt", "")), _whole(fields, "n", 1, 1, MAX_ANSWERS)
        suffix, stop, options = fields.get("suffix"), fields.get("stop", []), fields.get("stream_options", {})
        if not isinstance(suffix, str | None):
            raise InputError("suffix must be a string: send one text, or none")
        if suffix and not isinstance(prompts[0], str):
            raise InputError("suffix needs a prompt of text: send both as strings")
        stops = [stop] if isinstance(stop, str) else stop
        if not (isinstance(stops, list) and all(isinstance(one, str) for one in stops)):
            raise InputError("stop must be a string or a list of strings")
        if not isinstance(options, dict):
            raise InputError('stream_options must be an object, such as {"include_usage": true}')
        if n * len(prompts) > MAX_ANSWERS:
            raise InputError(f"n for each prompt makes {n * len(prompts)} answers: ask for at most {MAX_ANSWERS}")
        if fields.get("best_of", n) != n:
            raise InputError("best_of isn't supported: leave it out, and choose among n answers by their logprobs")
        echo, sampling = _flag(fields, "echo"), _sampling(fields)
        if echo and sampling.logprobs is not None:
            raise InputError("logprobs of the prompt aren't supported: send logprobs without echo")
        return CompletionRequest(
            prompts=prompts,
            suffix=_without_surrogates(suffix) if suffix else None,
            max_tokens=_whole(fields, "max_tokens", DEFAULT_MAX_TOKENS, 0),
            stop=tuple(filter(None, stops)),
            stream=_flag(fields, "stream"),
            include_usage=_flag(options, "include_usage"),
            n=n,
            echo=echo,
            sampling=sampling,
            editor=_editor(fields),
        )


def _editor(fields: Mapping[str, Any]) -> str | None:
    user, slot = fields.get("user"), fields.get("id_slot")
    if isinstance(user, str) and user:
        return f"user {user}"
    return f"id_slot {slot}" if type(slot) is int and slot >= 0 else None


def _prompts(prompt: object) -> tuple[PromptText, ...]:
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
        temperature=_number(fields, "temperature", 0, 0, 2),
        top_p=_number(fields, "top_p", 1, 0, 1),
        seed=_whole(fields, "seed", 0, -(2**63)) if "seed" in fields else None,
        frequency_penalty=_number(fields, "frequency_penalty", 0, -2, 2),
        presence_penalty=_number(fields, "presence_penalty", 0, -2, 2),
        logit_bias={int(token): _number(bias, token, 0, -100, 100) for token in bias},
        logprobs=_whole(fields, "logprobs", 0, 0, MAX_LOGPROBS) if fields.get("logprobs", False) is not False else None,
    )


def _number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must be a number from {low} to {high}")
    return float(value)


def _whole(fields: Mapping[str, Any], name: str, default: int, low: int, high: int | None = None) -> int:
    value, most = fields.get(name, default), 2**63 - 1 if high is None else high
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= most or value != int(value):
        wanted = f", {low} or more" if high is None else f" from {low} to {high}"
        raise InputError(f"{name} must be a whole number{wanted}")
    return int(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name) or False
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false")
    return value


def choice(index: int, text: str, finish_reason: str | None, tokens: Sequence[ScoredToken] | None) -> dict[str, Any]:
    """Return a choice; `tokens` None: without log-probabilities."""
    logprobs = None
    if tokens is not None:
        logprobs = {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.likeliest) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def error_body(message: str, status: int) -> dict[str, Any]:
    """Return an error, with a message of one line."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}
