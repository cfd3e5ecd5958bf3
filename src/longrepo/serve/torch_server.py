"""transformers' completions endpoint (`transformers serve`) with a torch engine's model.

Its handler answers, streaming or not. Of its application only what an editor asks for is put up: the whole of it loads
any model that any local program names.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import socket
from typing import TYPE_CHECKING, Any, cast

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import BatchEncoding, StoppingCriteriaList
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState, Modality

from longrepo.errors import InputError
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import PromptBuilder
from longrepo.serve.server import DEFAULT_MAX_TOKENS, SERVER_HOST, ends

if TYPE_CHECKING:
    from longrepo.engines.torch.engine import TorchEngine


_PATIENCE = 2  # seconds that clients have to take what they are sent in the end


class TorchServer:
    """See `longrepo.serve.server.Server`."""

    def __init__(self, listening: socket.socket, tuned: TunedModel, prompts: PromptBuilder) -> None:
        self._listening = listening
        self._server = _Server(_Handler(tuned, prompts), tuned.name)

    def run(self) -> None:
        with self._server.capture_signals():  # so that Ctrl-C is no exception before the event loop has ended
            self._server.run(sockets=[self._listening])

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves an answer under way at its next token."""

    def __init__(self, handler: _Handler, name: str) -> None:
        app = _application(handler, name)
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_PATIENCE))
        self._handler = handler

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # clients that don't take it in time
        await self._handler.leave()
        await super().shutdown(sockets)


class _Left(Exception):
    """An answer that the server ends before."""


def _application(handler: _Handler, name: str) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[SERVER_HOST, "localhost"])

    @app.exception_handler(InputError)
    async def refuse(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)

    @app.exception_handler(_Left)
    async def leave(_: Request, error: _Left) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": "server_error"}}, 503)

    @app.post("/v1/completions")
    async def complete(request: Request, body: dict[str, Any]) -> Any:
        return await handler.handle_request(body, request.headers.get("x-request-id", "cmpl-longrepo"))

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "longrepo"}]}

    return app


class _Handler(CompletionHandler):
    """Whatever model is named, ours answers; what it is asked is made of prompt and suffix by `prompts`."""

    def __init__(self, tuned: TunedModel, prompts: PromptBuilder) -> None:
        super().__init__(_OneModel(), GenerationState())
        self._name, self._prompts, self._tokenizer = tuned.name, prompts, tuned.tokenizer.source
        self._model = _Model(tuned, ends(tuned))

    async def leave(self) -> None:
        """Answer no more, and wait for the thread that does: one that computes while the interpreter ends aborts the
        process."""
        self._model.left = True
        answering: Any = self.generation_state.get_manager(self._name)
        await asyncio.wrap_future(answering.submit(int))  # its turn comes after theirs

    def _validate_request(self, body: dict[str, Any]) -> None:
        known: Any = self._valid_params_class
        for name in body.keys() - known.__mutable_keys__:
            del body[name]

    def _resolve_model(self, body: dict[str, Any]) -> tuple[str, Any, Any]:
        body["max_tokens"] = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        prompt = self._prompts.asked(body.get("prompt") or "", body.pop("suffix", None), body["max_tokens"])
        return self._name, self._model, _Asked(self._tokenizer, prompt.ids)


class _OneModel(ModelManager):
    def __init__(self) -> None:
        """Manages none: the handler has its own."""

    @staticmethod
    def get_model_modality(model: Any, processor: Any = None) -> Modality:
        return Modality.LLM


class _Model:
    """What the handler asks of a model, computed in the engine's precision."""

    def __init__(self, tuned: TunedModel, ends: list[int]) -> None:
        engine = cast("TorchEngine", tuned.engine)
        self._adaptive, self._model, self._precision = tuned.adaptive, engine.model.eval(), engine.facts()["dtype"]
        self.device = torch.device(engine.device)
        self.generation_config = copy.deepcopy(engine.model.generation_config)
        self.generation_config.eos_token_id = ends
        self.generation_config.do_sample = False
        self.left = False

    def generate(self, **asked: Any) -> Any:
        """One after another, in a thread of their own."""
        self._go_on()
        self._adaptive.select_tier(asked["input_ids"].shape[1] + asked["generation_config"].max_new_tokens)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            return self._model.generate(**asked, stopping_criteria=StoppingCriteriaList([self._go_on]))

    def _go_on(self, *_: Any, **__: Any) -> bool:
        """Asked after each token: not to stop there, unless by an error."""
        if self.left:
            raise _Left("the server ends")
        return False


class _Asked:
    """A tokenizer of transformers for one request, whose prompt is tokenized already."""

    def __init__(self, tokenizer: Any, ids: list[int]) -> None:
        self._of, self._ids = tokenizer, ids

    def __call__(self, text: str, **options: Any) -> Any:
        if options.get("return_tensors") != "pt":
            return self._of(text, **options)
        ids = torch.tensor([self._ids])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)
