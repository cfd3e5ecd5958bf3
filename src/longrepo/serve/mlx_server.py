"""mlx-lm's server (`mlx_lm.server`) with an MLX engine's model."""

from __future__ import annotations

import json
import socket
import sys
from argparse import Namespace
from contextlib import suppress
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import mlx.core as mx
from mlx_lm import server
from mlx_lm.models.cache import LRUPromptCache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from longrepo.errors import InputError
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import PromptBuilder
from longrepo.serve.server import DEFAULT_MAX_TOKENS, SERVER_HOST, ends

_COMPLETIONS = "/v1/completions"


class MlxServer:
    """See `longrepo.serve.server.Server`.

    Answers are computed in the thread that calls `run`, and requests are read in others, the reverse of mlx-lm's own
    server. MLX keeps what it compiled in thread-local storage, with Python objects in it. Python 3.11's `Thread.join`
    returns before that storage is taken down, which aborts the process where the interpreter is ending meanwhile.
    """

    def __init__(self, listening: socket.socket, tuned: TunedModel, prompts: PromptBuilder) -> None:
        provider = _OneModel(_arguments(), tuned)
        self._generator = _Generator(provider, LRUPromptCache(provider.cli_args.prompt_cache_size))
        handler = partial(_Handler, self._generator, name=tuned.name, prompts=prompts)
        self._http = _Http(listening.getsockname(), handler, bind_and_activate=False)
        self._http.socket.close()
        self._http.socket = listening

    def run(self) -> None:
        web = Thread(target=self._http.serve)
        try:
            web.start()
            self._generator.answer()
        finally:
            self.stop()
            self._http.ended = True
            if web.is_alive():
                web.join()
            self._http.hang_up()
            mx.synchronize()

    def stop(self) -> None:
        self._generator.stop_and_join()


def _arguments() -> Namespace:
    """What mlx_lm.server is told, its own defaults with it: nothing but its `main` knows these."""
    given = [
        "mlx_lm.server",
        "--max-tokens",
        str(DEFAULT_MAX_TOKENS),
        "--allowed-origins",
        f"http://{SERVER_HOST}",
        "--log-level",
        "WARNING",
    ]
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

    def __init__(self, arguments: Namespace, tuned: TunedModel) -> None:
        super().__init__(arguments)
        mine: Any = self  # its own attributes are typed as None
        engine: Any = tuned.engine
        engine.model.eval()
        mine.model, self._adaptive = engine.model, tuned.adaptive
        mine.tokenizer = TokenizerWrapper(tuned.tokenizer.source, eos_token_ids=ends(tuned))

    def load(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self.model, self.tokenizer

    def select_tier(self, tokens: int) -> None:
        """Move to the tier of a text of so many tokens. What is kept of an answer is found under these positions."""
        mine: Any = self
        mine.model_key = self._adaptive.select_tier(tokens).context


class _Generator(server.ResponseGenerator):
    def _run_generate(self) -> None:
        """Nothing: this is the thread that mlx-lm computes in."""

    def answer(self) -> None:
        """Answer requests until stopped."""
        self._generate()

    def generation_available(self) -> bool:
        return not self._stop

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> tuple[Any, ...]:
        """The prompt is tokenized already. mlx-lm asks before it looks for what it keeps of earlier answers."""
        provider: Any = self.model_provider
        provider.select_tier(len(request.prompt) + (args.max_tokens or DEFAULT_MAX_TOKENS))
        return request.prompt, [request.prompt], ["assistant"], "normal", None


class _Handler(server.APIHandler):
    """Completions and the name of the model, for this machine: no page of a browser reads answers."""

    def __init__(self, *given: Any, name: str, prompts: PromptBuilder) -> None:
        self._name, self._prompts = name, prompts
        super().__init__(*given)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if urlsplit(f"//{self.headers.get('Host')}").hostname in (SERVER_HOST, "localhost"):
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
        request.prompt = self._prompts.asked(
            request.prompt, self.body.get("suffix"), int(self.max_tokens or DEFAULT_MAX_TOKENS)
        ).ids
        return request

    def handle_models_request(self) -> None:
        self._set_completion_headers(200)
        self.end_headers()
        model = {"id": self._name, "object": "model", "created": self.created, "owned_by": "longrepo"}
        self.wfile.write(json.dumps({"object": "list", "data": [model]}).encode())

    def log_request(self, *_: Any) -> None:
        """Nothing: an editor asks at every key."""


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # one that tokenizes while the interpreter ends aborts the process
    timeout = 0.1  # seconds between looks at `ended`
    ended = False

    def __init__(self, *given: Any, **named: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*given, **named)

    def serve(self) -> None:
        """Unlike `serve_forever`, can be ended before it has begun."""
        while not self.ended:
            self.handle_request()

    def hang_up(self) -> None:
        """Listen no more, and leave every request under way, once `serve` has ended."""
        for request in tuple(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for their threads

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An editor that no longer wants an answer hangs up, and so do we in the end."""
        if not (self.ended or isinstance(sys.exc_info()[1], ConnectionError)):
            super().handle_error(request, client_address)
