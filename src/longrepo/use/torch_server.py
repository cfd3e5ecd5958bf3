"""transformers' completions endpoint (`transformers serve`) with a torch engine's model.

Its handler answers, streaming or not. Of its application only what an editor asks for is put up: the whole of it loads
any model that any local program names.
"""

from __future__ import annotations

import copy
import socket
from typing import TYPE_CHECKING, Any, cast

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import BatchEncoding
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState, Modality

from longrepo.errors import InputError
from longrepo.use.prompts import Prompts
from longrepo.use.serving import HOST, NEW, ends
from longrepo.use.tuned import Tuned

if TYPE_CHECKING:
    from longrepo.engines.torch.engine import TorchEngine

_PATIENCE = 2  # seconds that answers under way have to end


class TorchServer:
    """See `longrepo.use.serving.Server`."""

    def __init__(self, listening: socket.socket, tuned: Tuned, prompts: Prompts) -> None:
        self._listening = listening
        config = uvicorn.Config(
            _application(_Handler(tuned, prompts), tuned.name), log_level="warning", timeout_graceful_shutdown=_PATIENCE
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        self._server.run(sockets=[self._listening])

    def stop(self) -> None:
        self._server.should_exit = True


def _application(handler: _Handler, name: str) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.exception_handler(InputError)
    async def refuse(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)

    @app.post("/v1/completions")
    async def complete(request: Request, body: dict[str, Any]) -> Any:
        return await handler.handle_request(body, request.headers.get("x-request-id", "cmpl-longrepo"))

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "longrepo"}]}

    return app


class _Handler(CompletionHandler):
    """Whatever model is named, ours answers; what it is asked is made of prompt and suffix by `prompts`."""

    def __init__(self, tuned: Tuned, prompts: Prompts) -> None:
        super().__init__(_OneModel(), GenerationState())
        self._name, self._prompts, self._tokenizer = tuned.name, prompts, tuned.tokenizer.source
        self._model = _Model(cast("TorchEngine", tuned.engine), ends(tuned))

    def _validate_request(self, body: dict[str, Any]) -> None:
        known: Any = self._valid_params_class
        for name in body.keys() - known.__mutable_keys__:
            del body[name]

    def _resolve_model(self, body: dict[str, Any]) -> tuple[str, Any, Any]:
        body["max_tokens"] = body.get("max_tokens") or NEW
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

    def __init__(self, engine: TorchEngine, ends: list[int]) -> None:
        self._model, self._precision = engine.model.eval(), engine.facts()["dtype"]
        self.device = torch.device(engine.device)
        self.generation_config = copy.deepcopy(engine.model.generation_config)
        self.generation_config.eos_token_id = ends
        self.generation_config.do_sample = False

    def generate(self, **asked: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            return self._model.generate(**asked)


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
