"""Asks the hub, once and briefly, whether it gives a model that isn't in its cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from longrepo.errors import InputError
from longrepo.utils.hub import model_location

OFFLINE_REMEDY = "connect to the network once, give --model FOLDER with a downloaded one, or --model embedded"


def check_on_hub(name: str, revision: str | None = None, file: str = "config.json") -> None:
    """Raise InputError, in one line and within seconds, if a hub id's `file` is neither in the hub's cache nor to be
    downloaded. Libraries would try again and again, and print each try."""
    from huggingface_hub import try_to_load_from_cache

    where = model_location(name)
    if Path(where).is_dir() or isinstance(try_to_load_from_cache(where, file, revision=revision), str):
        return
    answer = ask_hub(where, revision)
    if isinstance(answer, HubProblem):
        raise InputError(f"model {name}: {answer.what}; {answer.remedy}")


class HubProblem:
    """Why the hub doesn't give a model, and what to do."""

    def __init__(self, what: str, remedy: str = OFFLINE_REMEDY) -> None:
        self.what, self.remedy = what, remedy


@cache
def ask_hub(name: str, revision: str | None) -> Any:
    """Return what the hub knows of a model that isn't in its cache (huggingface_hub's `ModelInfo`), or a `HubProblem`:
    offline, no answer, no such model, or gated."""
    from huggingface_hub import HfApi, constants, get_token, utils

    utils.logging.set_verbosity_error()  # it logs each try
    if constants.HF_HUB_OFFLINE:
        return HubProblem("it is not in the hub's cache, and HF_HUB_OFFLINE is set", f"unset it; or {OFFLINE_REMEDY}")
    seconds = constants.HF_HUB_ETAG_TIMEOUT  # of the hub's own library, for a small answer
    answer = _with_timeout(seconds, lambda: HfApi().model_info(name, revision=revision, files_metadata=True))
    if answer is None or isinstance(answer, Exception):
        return _problem_of(name, answer)
    if answer.gated and get_token() is None:
        return _gated(name)
    return answer


def _problem_of(name: str, error: Exception | None) -> HubProblem:
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    kind = type(error).__name__ if error is not None else f"no answer in {HF_HUB_ETAG_TIMEOUT} s"
    if kind == "GatedRepoError":
        return _gated(name)
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"):
        return HubProblem(f"the hub doesn't give it ({kind}): it has no such model or revision, or it is private")
    return HubProblem(f"it is not in the hub's cache, and the hub can't be reached ({kind})")


def _gated(name: str) -> HubProblem:
    return HubProblem("it is gated", f"accept its terms at https://huggingface.co/{name} and log in with hf auth login")


def _with_timeout(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns or the error it raises, or None if it takes longer. Its thread may outlive the call:
    looking up a name can't be interrupted."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except Exception as error:  # the hub raises a dozen kinds, which are told apart by name
            answer.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else None
