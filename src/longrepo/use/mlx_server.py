"""mlx-lm's server (`mlx_lm.server`) with an MLX engine's model."""

from __future__ import annotations

import json
import socket
import sys
from argparse import Namespace
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from mlx_lm import server
from mlx_lm.models.cache import LRUPromptCache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from longrepo.errors import InputError
from longrepo.use.prompts import Prompts
from longrepo.use.serving import HOST, NEW, ends
from longrepo.use.tuned import Tuned

_COMPLETIONS = "/v1/completions"


class MlxServer:
    """See `longrepo.use.serving.Server`."""

    def __init__(self, listening: socket.socket, tuned: Tuned, prompts: Prompts) -> None:
        provider = _OneModel(_arguments(), tuned)
        self._generator = _Generator(provider, LRUPromptCache(provider.cli_args.prompt_cache_size))
        handler = partial(_Handler, self._generator, name=tuned.name, prompts=prompts)
        self._http = _Http(listening.getsockname(), handler, bind_and_activate=False)
        self._http.socket.close()
        self._http.socket = listening

    def run(self) -> None:
        try:
            self._http.serve_forever()
        finally:
            self._http.server_close()
            self._generator.stop_and_join()

    def stop(self) -> None:
        self._http.shutdown()


def _arguments() -> Namespace:
    """What mlx_lm.server is told, its own defaults with it: nothing but its `main` knows these."""
    given = ["mlx_lm.server", "--max-tokens", str(NEW), "--allowed-origins", f"http://{HOST}", "--log-level", "WARNING"]
    found: list[Namespace] = []
    with (
        patch.object(sys, "argv", given),
        patch.object(server, "ModelProvider", found.append),
        patch.object(server, "run", lambda *_: None),
    ):
        server.main()
    return found[0]


class _OneModel(server.ModelProvider):
    """Whatever model is named, ours is given."""

    def __init__(self, arguments: Namespace, tuned: Tuned) -> None:
        super().__init__(arguments)
        mine: Any = self  # its own attributes are typed as None
        engine: Any = tuned.engine
        engine.model.eval()
        mine.model, mine.model_key = engine.model, (tuned.name, None, None)
        mine.tokenizer = TokenizerWrapper(tuned.tokenizer.source, eos_token_ids=ends(tuned))

    def load(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self.model, self.tokenizer


class _Generator(server.ResponseGenerator):
    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> tuple[Any, ...]:
        """The prompt is tokenized already."""
        return request.prompt, [request.prompt], ["assistant"], "normal", None


class _Handler(server.APIHandler):
    """Completions and the name of the model, for this machine: no page of a browser reads answers."""

    def __init__(self, *given: Any, name: str, prompts: Prompts) -> None:
        self._name, self._prompts = name, prompts
        super().__init__(*given)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if urlsplit(f"//{self.headers.get('Host')}").hostname in (HOST, "localhost"):
            return True
        self.send_error(400, "Invalid host header")
        return False

    def do_POST(self) -> None:
        if self.path == _COMPLETIONS:
            super().do_POST()
        else:
            self.send_error(404)

    def handle_text_completions(self) -> Any:
        request: Any = super().handle_text_completions()
        if not isinstance(request.prompt, str):
            raise InputError("prompt must be a string.")
        request.prompt = self._prompts.asked(request.prompt, self.body.get("suffix"), int(self.max_tokens or NEW)).ids
        return request

    def handle_models_request(self) -> None:
        self._set_completion_headers(200)
        self.end_headers()
        model = {"id": self._name, "object": "model", "created": self.created, "owned_by": "longrepo"}
        self.wfile.write(json.dumps({"object": "list", "data": [model]}).encode())

    def log_request(self, *_: Any) -> None:
        """Nothing: an editor asks at every key."""


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """An editor that no longer wants an answer hangs up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
