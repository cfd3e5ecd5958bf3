"""A server for editors: OpenAI's completions endpoint with either engine's model, on this machine only.

Starlette on uvicorn reads requests in one thread. Answers are computed one after another in the thread that calls
`CompletionServer.run`, because MLX keeps compiled code with Python objects in thread-local storage, and destroying that
in another thread while the interpreter exits aborts the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from longrepo.data.template import completion_text
from longrepo.data.text import special_token_mask
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import PromptBuilder

SERVER_HOST = "127.0.0.1"
DEFAULT_MAX_TOKENS = 256  # tokens of a completion if a request doesn't say
_SHUTDOWN_SECONDS = 2  # for clients to receive what was sent before the server stops
_LOG = logging.getLogger("uvicorn.error")


def listen(port: int) -> socket.socket:
    """Open a socket that only this machine reaches; port 0 means any free one. Raises InputError if the port is
    taken."""
    try:
        return socket.create_server((SERVER_HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"--port {port}: can't listen there ({reason}); give another port, or 0 for any") from None


@dataclass(frozen=True)
class CompletionRequest:
    """The fields of a request; those that change nothing in greedy decoding are ignored."""

    prompt: str
    suffix: str | None
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool

    @staticmethod
    def parse(body: object) -> CompletionRequest:
        """Read a request's body. Raises InputError if a field has the wrong type."""
        if not isinstance(body, dict):
            raise InputError("the request must be a JSON object")
        prompt, suffix, stop = body.get("prompt"), body.get("suffix"), body.get("stop")
        if not isinstance(prompt, str):
            raise InputError("prompt must be a string: send one text")
        if not isinstance(suffix, str | None):
            raise InputError("suffix must be a string: send one text, or none")
        stops = [stop] if isinstance(stop, str) else stop or []
        if not (isinstance(stops, list) and all(isinstance(one, str) for one in stops)):
            raise InputError("stop must be a string or a list of strings")
        tokens = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        if type(tokens) is not int or tokens < 1:
            raise InputError("max_tokens must be a whole number, 1 or more")
        if not (prompt or suffix):
            raise InputError("prompt is empty: send a text to continue")
        return CompletionRequest(prompt, suffix, tokens, tuple(filter(None, stops)), bool(body.get("stream")))


class CompletionText:
    """The text of an answer, token by token.

    It ends at a mark, or at a stop sequence, whichever tokens that falls into. Text that may be the start of a stop
    sequence is held back until that is decided."""

    def __init__(self, tokenizer: RepoTokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop, self._marks = tokenizer, stop, special_token_mask(tokenizer)
        self._ids: list[int] = []
        self._sent = 0  # characters
        self.ended = False

    def add(self, token: int) -> str:
        """Return the text that the token makes certain."""
        if token >= len(self._marks) or self._marks[token]:
            self.ended = True
            return self.rest()
        self._ids.append(token)
        text = completion_text(self._tokenizer, self._ids)
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._send(text, min(found))
        return self._send(text, len(text) - self._held_back(text))

    def rest(self) -> str:
        """Return the text that was held back for a stop sequence that didn't come."""
        text = completion_text(self._tokenizer, self._ids)
        return self._send(text, len(text))

    def _held_back(self, text: str) -> int:
        """Count the characters at the end that may still change: an incomplete character, or the start of a stop."""
        unfinished = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        begun = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:size])
        ]
        return max([unfinished, *begun])

    def _send(self, text: str, end: int) -> str:
        piece, self._sent = text[self._sent : end], max(self._sent, end)
        return piece


@dataclass(frozen=True)
class AnswerPart:
    """A part of an answer; `finish_reason` is None in all but the last."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class AnswerBrokenOff(Exception):
    """An answer that ends early, with the HTTP status to report."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Answer:
    """A request that the two threads share. The computing one puts parts into `parts`, the last with a finish reason,
    or an error; the other sets `abandoned` when the client is gone."""

    request: CompletionRequest
    parts: asyncio.Queue[AnswerPart | Exception] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    abandoned: bool = False

    def put(self, part: AnswerPart | Exception) -> None:
        """Add a part, from the computing thread."""
        self.loop.call_soon_threadsafe(self.parts.put_nowait, part)

    async def get(self) -> AnswerPart:
        """Return the next part. Raises the error if the computing thread put one."""
        part = await self.parts.get()
        if isinstance(part, Exception):
            raise part
        return part


class CompletionServer:
    """Answers requests until it is stopped."""

    def __init__(self, listening: socket.socket, tuned: TunedModel, prompts: PromptBuilder) -> None:
        self._listening, self._tuned, self._prompts = listening, tuned, prompts
        self._waiting: SimpleQueue[Answer | None] = SimpleQueue()
        self._stopping = False
        app = application(tuned.name, self._waiting.put)
        options: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off"}
        self._http = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=_SHUTDOWN_SECONDS, **options))

    def run(self) -> None:
        """Answer requests until `stop`, or until Ctrl-C raises KeyboardInterrupt."""
        web = Thread(target=self._serve_http)
        answer: Answer | None = None
        try:
            web.start()
            while not self._stopping and (answer := self._waiting.get()) is not None:
                self._compute(answer)
        finally:
            self._stopping = self._http.should_exit = True
            _LOG.setLevel(logging.CRITICAL)  # silences reports about clients that are cut off
            self._refuse(answer)
            if web.is_alive():
                web.join()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._stopping = True
        self._waiting.put(None)

    def _serve_http(self) -> None:
        try:
            self._http.run(sockets=[self._listening])
        finally:
            self.stop()

    def _refuse(self, answer: Answer | None) -> None:
        """End the current answer and those that are waiting."""
        answers = [answer]
        while not self._waiting.empty():
            answers.append(self._waiting.get())
        for one in answers:
            if one is not None and not one.loop.is_closed():
                one.put(AnswerBrokenOff("the server is stopping", 503))

    def _compute(self, answer: Answer) -> None:
        """Compute an answer; an error becomes the answer, and the server goes on."""
        if answer.abandoned:
            return
        try:
            self._write(answer)
        except InputError as error:
            answer.put(error)
        except Exception as error:
            _LOG.exception("an answer could not be computed")
            answer.put(AnswerBrokenOff(str(error) or type(error).__name__, 500))

    def _write(self, answer: Answer) -> None:
        request = answer.request
        ids = self._prompts.asked(request.prompt, request.suffix, request.max_tokens).ids
        self._tuned.adaptive.select_tier(len(ids) + request.max_tokens)
        text, new = CompletionText(self._tuned.tokenizer, request.stop), 0
        with closing(self._tuned.engine.stream(ids, request.max_tokens)) as tokens:
            for new, token in enumerate(tokens, start=1):  # noqa: B007
                if answer.abandoned or self._stopping:
                    return
                if piece := text.add(token):
                    answer.put(AnswerPart(piece))
                if text.ended:
                    break
        rest = "" if text.ended else text.rest()
        reason = "length" if new == request.max_tokens and not text.ended else "stop"
        answer.put(AnswerPart(rest, reason, len(ids), new))


def application(name: str, enqueue: Callable[[Answer], None]) -> Starlette:
    """Return the HTTP application: it passes requests to `enqueue` and sends the parts of answers as they come."""

    async def complete(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            raise InputError("the request isn't valid JSON: send an object with a prompt") from None
        answer = Answer(CompletionRequest.parse(body))
        enqueue(answer)
        hung_up = asyncio.create_task(_hang_up(request, answer))
        header = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        try:
            first = await answer.get()
            if answer.request.stream:
                events = _events(answer, first, header | {"model": name}, hung_up)
                return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            parts = [first]
            while parts[-1].finish_reason is None:
                parts.append(await answer.get())
        except BaseException:
            answer.abandoned = True
            hung_up.cancel()
            raise
        hung_up.cancel()
        text = "".join(part.text for part in parts)
        return JSONResponse(
            {**header, "model": name, "choices": [_choice(text, parts[-1])], "usage": _usage(parts[-1])}
        )

    async def models(_: Request) -> Response:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "longrepo"}
        return JSONResponse({"object": "list", "data": [model]})

    return Starlette(
        routes=[Route("/v1/completions", complete, methods=["POST"]), Route("/v1/models", models, methods=["GET"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[SERVER_HOST, "localhost"])],
        exception_handlers=dict.fromkeys((InputError, HTTPException, AnswerBrokenOff), _error_response),
    )


async def _hang_up(request: Request, answer: Answer) -> None:
    """Abandon an answer when its client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.abandoned = True
    answer.parts.put_nowait(AnswerBrokenOff("the client is gone", 499))


async def _events(
    answer: Answer, first: AnswerPart, header: dict[str, Any], hung_up: asyncio.Task[None]
) -> AsyncIterator[str]:
    part = first
    try:
        while True:
            usage = {"usage": _usage(part)} if part.finish_reason else {}
            yield _event({**header, "choices": [_choice(part.text, part)], **usage})
            if part.finish_reason:
                break
            part = await answer.get()
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(_error_body(error)[0])
    finally:
        answer.abandoned = True
        hung_up.cancel()


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree)}\n\n"


def _choice(text: str, last: AnswerPart) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": last.finish_reason}


def _usage(last: AnswerPart) -> dict[str, int]:
    both = last.prompt_tokens + last.completion_tokens
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": both,
    }


def _error_body(error: Exception) -> tuple[dict[str, Any], int]:
    """Return an error in OpenAI's format, with a message of one line, and its HTTP status."""
    status, message = 400, str(error)
    if isinstance(error, AnswerBrokenOff):
        status = error.status
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}: use POST /v1/completions or GET /v1/models"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}, status


async def _error_response(_: Request, error: Exception) -> Response:
    body, status = _error_body(error)
    return JSONResponse(body, status)
