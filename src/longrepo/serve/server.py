"""A server for editors: OpenAI's completions endpoint, on this machine alone."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import Protocol

from longrepo.data.text import special_token_mask
from longrepo.errors import InputError
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import PromptBuilder

SERVER_HOST = "127.0.0.1"
DEFAULT_MAX_TOKENS = 256  # tokens of a completion, where a request doesn't say
_REQUIRED_PACKAGES = ("fastapi", "uvicorn", "openai")  # of transformers' server


class Server(Protocol):
    """Answers until it is stopped."""

    def run(self) -> None:
        """Answer requests; Ctrl-C ends it, as KeyboardInterrupt."""
        ...

    def stop(self) -> None:
        """End `run`, from another thread."""
        ...


def listen(port: int) -> socket.socket:
    """A socket that this machine alone reaches; port 0: any free one. Raises InputError where the port is taken."""
    try:
        return socket.create_server((SERVER_HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"--port {port}: can't be listened at ({reason}); give another port, or 0 for any") from None


def check_server_installed(engine: str) -> None:
    """Raises InputError where the engine's server isn't installed."""
    if engine == "torch" and (missing := [name for name in _REQUIRED_PACKAGES if find_spec(name) is None]):
        raise InputError(
            f"--engine torch: transformers' server needs {', '.join(missing)}; pip install 'longrepo[serve]'"
        )


def serve_on(listening: socket.socket, tuned: TunedModel, prompts: PromptBuilder) -> Server:
    """The server of the engine's own library, with the engine's model in it: adapter and trained rows as they are."""
    if tuned.engine.name == "mlx":
        from longrepo.serve.mlx_server import MlxServer

        return MlxServer(listening, tuned, prompts)
    from longrepo.serve.torch_server import TorchServer

    return TorchServer(listening, tuned, prompts)


def ends(tuned: TunedModel) -> list[int]:
    """Tokens that end a completion: every mark, as `longrepo.data.template.completion_text` has it."""
    return [int(id) for id in special_token_mask(tuned.tokenizer).nonzero()[0]]
