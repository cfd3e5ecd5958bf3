"""Ollama's interface as far as completion in an editor uses it: `/api/generate`, and what the model is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from longrepo.errors import InputError
from longrepo.serve.llama_protocol import read_sampling, tokens_wanted
from longrepo.serve.protocol import (
    AnswerEnd,
    AnswerPart,
    CompletionRequest,
    given_fields,
    read_editor,
    read_flag,
    read_stops,
    read_text,
)

_REFUSED = ("images", "format", "template", "system", "context")


class OllamaFormat:
    """The answers of `/api/generate`, streamed as lines of JSON."""

    media_type = "application/x-ndjson"

    def __init__(self, model: str) -> None:
        self._model = model

    def parse(self, body: object) -> CompletionRequest:
        fields = given_fields(body)
        options = given_fields(fields.get("options", {}), "options")
        for name in _REFUSED:
            if fields.get(name):
                raise InputError(f"{name} isn't supported: send code in prompt and suffix")
        read_flag(fields, "raw")  # there is no template that a prompt would be put into
        prompt, suffix = read_text(fields, "prompt"), read_text(fields, "suffix")
        wanted = tokens_wanted(options, "num_predict")
        return CompletionRequest(
            prompts=(prompt,),
            suffix=suffix or None,
            max_tokens=wanted if prompt or suffix else 0,
            stop=read_stops(options),
            stream=read_flag({"stream": True, **fields}, "stream"),
            include_usage=False,
            n=1,
            echo=False,
            sampling=read_sampling(options, top_p=0.9, min_p=0),
            editor=read_editor(fields),
        )

    def whole(self, request: CompletionRequest, parts: Sequence[AnswerPart], end: AnswerEnd) -> dict[str, Any]:
        return self._ended(request, "".join(one.part.text for one in parts), end)

    def piece(self, request: CompletionRequest, part: AnswerPart) -> str:
        return _line({**self._head(), "response": part.part.text, "done": False})

    def ending(self, request: CompletionRequest, end: AnswerEnd) -> str:
        return _line(self._ended(request, "", end))

    def failure(self, body: dict[str, Any]) -> str:
        return _line(error_line(body))

    def _head(self) -> dict[str, str]:
        return {"model": self._model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}

    def _ended(self, request: CompletionRequest, response: str, end: AnswerEnd) -> dict[str, Any]:
        asks_nothing = request.prompts == ("",) and request.suffix is None  # which loads the model
        return {
            **self._head(),
            "response": response,
            "done": True,
            "done_reason": "load" if asks_nothing else end.last.finish_reason,
            "total_duration": int(1e9 * end.timing.total),
            "load_duration": 0,
            "prompt_eval_count": end.prompt_tokens,
            "prompt_eval_duration": int(1e9 * end.timing.reading),
            "eval_count": end.completion_tokens,
            "eval_duration": int(1e9 * end.timing.writing),
        } | ({"truncated": True} if end.cut else {})


def _line(tree: object) -> str:
    return json.dumps(tree) + "\n"


def error_line(body: dict[str, Any]) -> dict[str, str]:
    """Return Ollama's error for the body of an OpenAI one."""
    return {"error": body["error"]["message"]}


def tags(model: str) -> dict[str, Any]:
    """Return the answer to `GET /api/tags`: the one model."""
    digest = sha256(model.encode()).hexdigest()
    entry = {"name": model, "model": model, "modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": digest}
    return {"models": [{**entry, "details": _DETAILS}]}


_DETAILS: dict[str, Any] = {
    "parent_model": "",
    "format": "safetensors",
    "family": "longrepo",
    "families": ["longrepo"],
    "parameter_size": "",
    "quantization_level": "",
}


def shown_model(longest: int, fills_gaps: bool) -> dict[str, Any]:
    """Return the answer to `POST /api/show`. Plug-ins send a `suffix` if the template has one."""
    template = "{{ .Prompt }}{{ .Suffix }}" if fills_gaps else "{{ .Prompt }}"
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": _DETAILS,
        "model_info": {"general.architecture": "longrepo", "longrepo.context_length": longest},
        "capabilities": ["completion", "insert"] if fills_gaps else ["completion"],
        "modified_at": "1970-01-01T00:00:00Z",
    }
