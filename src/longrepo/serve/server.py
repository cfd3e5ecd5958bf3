"""A server for editors with either engine's model: OpenAI's completions, llama.cpp's and Ollama's own endpoints, and
figures for Prometheus.

Starlette on uvicorn reads requests in one thread. Answers are computed one after another in the thread that calls
`CompletionServer.run`, because MLX keeps compiled code with Python objects in thread-local storage, and destroying that
in another thread while the interpreter exits aborts the process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any
from weakref import WeakValueDictionary

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from longrepo import __version__
from longrepo.engines.prompt_cache import PromptCache
from longrepo.errors import InputError
from longrepo.serve.llama_protocol import LlamaFormat, properties
from longrepo.serve.metrics import RequestTiming, ServeMetrics
from longrepo.serve.model import TextPart, TunedModel
from longrepo.serve.ollama_protocol import OllamaFormat, error_line, shown_model, tags
from longrepo.serve.prompts import CompletionPrompt, PromptBuilder
from longrepo.serve.protocol import (
    AnswerEnd,
    AnswerFormat,
    AnswerPart,
    CompletionRequest,
    OpenAiFormat,
    PromptText,
    error_body,
)
from longrepo.serve.working_tree import newline_of

SERVER_HOST = "127.0.0.1"
_SHUTDOWN_SECONDS = 2  # for clients to receive what was sent before the server stops
_ENDPOINTS = (
    "use POST /v1/completions, /infill, /completion or /api/generate, or GET /v1/models, /health, /props, /api/tags or "
    "/metrics"
)
_LOG = logging.getLogger("uvicorn.error")


def listen(host: str, port: int) -> socket.socket:
    """Open a socket at an address of this machine; port 0 means any free one. Raises InputError if that fails."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise InputError(f"--host {host}: unknown ({error.strerror}); give an address of this machine") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        where = f"--port {port}" if host == SERVER_HOST else f"--host {host} --port {port}"
        raise InputError(f"{where}: can't listen there ({reason}); give another port, or 0 for any") from None


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


@dataclass(frozen=True)
class ServedModel:
    """What the server says about its model: the most tokens of prompt and completion, the prompts that are kept, and
    whether it fills gaps."""

    name: str
    longest: int
    slots: int
    fills_gaps: bool


class AnswerBrokenOff(Exception):
    """An answer that ends early, with the HTTP status to report."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class Answer:
    """A request that the two threads share. The computing one puts parts into `parts`, the last with a finish reason,
    or an error; the other sets `abandoned` when the client is gone."""

    request: CompletionRequest
    timing: RequestTiming = field(default_factory=RequestTiming)
    parts: asyncio.Queue[AnswerPart | AnswerEnd | Exception] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    abandoned: bool = False

    def break_off(self, reason: str) -> None:
        """Abandon this answer, from the loop's thread."""
        self.abandoned = True
        self.parts.put_nowait(AnswerBrokenOff(reason, 499))

    def put(self, part: AnswerPart | AnswerEnd | Exception) -> None:
        """Add a part, from the computing thread."""
        self.loop.call_soon_threadsafe(self.parts.put_nowait, part)

    async def get(self) -> AnswerPart | AnswerEnd:
        """Return the next part. Raises the error if the computing thread put one."""
        part = await self.parts.get()
        if isinstance(part, Exception):
            raise part
        return part


def _print_line(line: str) -> None:
    with suppress(OSError):  # nobody reads the output any more
        print(line, flush=True)


class _Abandoned(Exception):
    """Nobody waits for the answer any more."""


class CompletionServer:
    """Answers requests until it is stopped."""

    def __init__(
        self,
        listening: socket.socket,
        tuned: TunedModel,
        prompts: PromptBuilder,
        kept: PromptCache | None = None,
        log: Callable[[str], None] = _print_line,
    ) -> None:
        """`kept`: where keys and values of prompts stay between requests; `log` gets a line for each request."""
        self._listening, self._tuned, self._prompts, self._kept, self._log = listening, tuned, prompts, kept, log
        self._waiting: SimpleQueue[Answer | None] = SimpleQueue()
        self._stopping = False
        allows = allowed_hosts(listening.getsockname()[0])
        self._metrics = ServeMetrics(self._waiting.qsize, kept)
        longest, fills_gaps = prompts.longest or prompts.length, tuned.tokenizer.fim is not None
        model = ServedModel(tuned.name, longest, 0 if kept is None else kept.slots, fills_gaps)
        app = application(model, self._waiting.put, allows, self._metrics)
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
        outcome = "abandoned"
        try:
            self._check_wanted(answer)
            answer.timing.begun = time.perf_counter()
            outcome = self._write(answer)
        except _Abandoned:
            pass
        except InputError as error:
            outcome = "refused"
            answer.put(error)
        except Exception as error:
            outcome = "error"
            _LOG.exception("an answer could not be computed")
            answer.put(AnswerBrokenOff(str(error) or type(error).__name__, 500))
        self._metrics.add(answer.timing, outcome)
        self._log(answer.timing.line(outcome))

    def _check_wanted(self, answer: Answer) -> None:
        if answer.abandoned or self._stopping:
            raise _Abandoned

    def _write(self, answer: Answer) -> str:
        """Compute all answers to a request; return why the last one ended."""
        request, size, last = answer.request, self._tuned.tokenizer.vocabulary_size, TextPart("", 0, "length")
        if wrong := [id for id in request.sampling.logit_bias if id >= size]:
            raise InputError(f"logit_bias: token {wrong[0]} isn't one of the model's {size}")
        prompts = [self._prompt(request, text) for text in request.prompts]
        answer.timing.cut = any(prompt.cut for prompt in prompts)
        for index in range(len(prompts) * request.n):
            number = index // request.n
            last = self._write_one(answer, index, request.prompts[number], prompts[number])
        answer.timing.ended = time.perf_counter()
        read = sum(len(prompt.ids) for prompt in prompts)
        answer.put(AnswerEnd(read, answer.timing.new, last, answer.timing, answer.timing.cut))
        return last.finish_reason or "length"

    def _prompt(self, request: CompletionRequest, prompt: PromptText) -> CompletionPrompt:
        if isinstance(prompt, str) and request.shown is not None:
            return self._prompts.infill(prompt, request.suffix or "", request.shown, request.max_tokens)
        if isinstance(prompt, str):
            return self._prompts.asked(prompt, request.suffix, request.max_tokens)
        return self._prompts.fitting_ids(list(prompt), request.max_tokens)

    def _write_one(self, answer: Answer, index: int, asked: PromptText, prompt: CompletionPrompt) -> TextPart:
        """Compute the answer number `index`; return its last part. Raises _Abandoned if nobody waits any more."""
        request, timing, begun = answer.request, answer.timing, False
        text = asked if isinstance(asked, str) else self._tuned.tokenizer.decode(asked)
        if request.echo:
            answer.put(AnswerPart(index, TextPart(text, 0)))

        def progress(read: int, tokens: int) -> None:
            nonlocal begun
            self._check_wanted(answer)
            if not begun:
                begun = True
                timing.read_from(read, tokens)

        options: dict[str, Any] = {"choice": index % request.n, "stop": request.stop, "newline": newline_of(text)}
        options |= {"indent": request.indent, "seconds": request.seconds}
        count, part = 0, TextPart("", 0, "length")
        with closing(
            self._tuned.stream(prompt, request.sampling, **options, kept=self._kept, progress=progress)
        ) as parts:
            for part in parts:
                self._check_wanted(answer)
                if part.new > count:
                    count = part.new
                    timing.token()
                if part.text or part.finish_reason:
                    answer.put(AnswerPart(index, part))
        return part


def application(
    model: ServedModel, enqueue: Callable[[Answer], None], allows: Callable[[str], bool], figures: ServeMetrics
) -> Starlette:
    """Return the HTTP application: it passes requests to `enqueue` and sends the parts of answers as they come.
    `allows` decides which host names requests may be addressed to."""
    latest: WeakValueDictionary[str, Answer] = WeakValueDictionary()  # of each editor that says who it is

    def asks(path: str, new_format: Callable[[str], AnswerFormat]) -> Route:
        async def complete(request: Request) -> Response:
            return await _complete(request, new_format(model.name), latest, enqueue)

        return Route(path, complete, methods=["POST"])

    def tells(path: str, tree: dict[str, Any], method: str = "GET") -> Route:
        async def tell(_: Request) -> Response:
            return JSONResponse(tree)

        return Route(path, tell, methods=[method])

    async def metrics(_: Request) -> Response:
        return Response(figures.text(), media_type=METRICS_TYPE)

    listed = {"id": model.name, "object": "model", "created": 0, "owned_by": "longrepo", "max_model_len": model.longest}
    return Starlette(
        routes=[
            asks("/v1/completions", OpenAiFormat),
            asks("/infill", partial(LlamaFormat, infill=True)),
            asks("/completion", partial(LlamaFormat, infill=False)),
            asks("/completions", partial(LlamaFormat, infill=False)),
            asks("/api/generate", OllamaFormat),
            tells("/v1/models", {"object": "list", "data": [listed]}),
            tells("/health", {"status": "ok"}),
            tells("/v1/health", {"status": "ok"}),
            tells("/props", properties(model.name, model.longest, model.slots)),
            tells("/api/tags", tags(model.name)),
            tells("/api/show", shown_model(model.longest, model.fills_gaps), "POST"),
            tells("/api/version", {"version": __version__}),
            Route("/metrics", metrics, methods=["GET"]),
        ],
        middleware=[Middleware(AddressCheck, allows=allows)],
        exception_handlers=dict.fromkeys((InputError, HTTPException, AnswerBrokenOff), _error_response),
    )


async def _complete(
    request: Request,
    form: AnswerFormat,
    latest: WeakValueDictionary[str, Answer],
    enqueue: Callable[[Answer], None],
) -> Response:
    """Answer a request. An editor's newer request takes the place of its older one, but one that only reads ahead (no
    new tokens) of nothing else than another such one."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise InputError("the request isn't valid JSON: send an object with a prompt") from None
    answer = Answer(form.parse(body))
    if editor := answer.request.editor:
        older = latest.get(editor)
        if older is None or answer.request.max_tokens or not older.request.max_tokens:
            latest[editor] = answer
            if older:
                older.break_off(f"a newer request of {editor} took the place of this one")
    enqueue(answer)
    hung_up = asyncio.create_task(_hang_up(request, answer))
    try:
        one = await answer.get()
        if answer.request.stream:
            pieces = _pieces(answer, one, form, hung_up)
            return StreamingResponse(pieces, media_type=form.media_type, headers={"Cache-Control": "no-cache"})
        parts = []
        while not isinstance(one, AnswerEnd):
            parts.append(one)
            one = await answer.get()
    except BaseException:
        answer.abandoned = True
        hung_up.cancel()
        raise
    hung_up.cancel()
    return JSONResponse(form.whole(answer.request, parts, one))


class AddressCheck:
    """Middleware that refuses requests for other host names, so that a web page's own name can't be pointed here.
    Slashes too many in a path, where an editor joins an address and a path, are ignored."""

    def __init__(self, app: ASGIApp, allows: Callable[[str], bool]) -> None:
        self._app, self._allows = app, allows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            if not self._allows(host):
                body = error_body(
                    f"the host {host!r} isn't this server's: ask by its address or this machine's name", 400
                )
                await JSONResponse(body, 400)(scope, receive, send)
                return
            scope = {**scope, "path": re.sub("/+", "/", scope["path"]).rstrip("/") or "/"}
        await self._app(scope, receive, send)


def allowed_hosts(address: str) -> Callable[[str], bool]:
    """Return which `Host` headers a server at this address accepts: of one that only this machine reaches, its address
    and `localhost`; of others, any address and the names of this machine."""
    names = {"localhost"}
    if not is_loopback(address):
        own = {socket.gethostname().lower(), socket.getfqdn().lower()}
        names |= own | {f"{name.partition('.')[0]}.local" for name in own}

    def allows(host: str) -> bool:
        name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
        name = name.strip("[]").lower().rstrip(".")
        try:
            given = ipaddress.ip_address(name)
        except ValueError:
            return name in names
        return given.is_loopback or not is_loopback(address)

    return allows


async def _hang_up(request: Request, answer: Answer) -> None:
    """Abandon an answer when its client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.break_off("the client is gone")


async def _pieces(
    answer: Answer, one: AnswerPart | AnswerEnd, form: AnswerFormat, hung_up: asyncio.Task[None]
) -> AsyncIterator[str]:
    try:
        while not isinstance(one, AnswerEnd):
            yield form.piece(answer.request, one)
            one = await answer.get()
        yield form.ending(answer.request, one)
    except Exception as error:
        yield form.failure(_error(error)[0])
    finally:
        answer.abandoned = True
        hung_up.cancel()


def _error(error: Exception) -> tuple[dict[str, Any], int]:
    """Return an error's body and HTTP status."""
    status, message = 400, str(error)
    if isinstance(error, AnswerBrokenOff):
        status = error.status
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}: {_ENDPOINTS}"
    return error_body(message, status), status


async def _error_response(request: Request, error: Exception) -> Response:
    body, status = _error(error)
    return JSONResponse(error_line(body) if request.url.path.startswith("/api/") else body, status)
