"""Errors that every engine reports in the same words: a model that can't be loaded, and memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from longrepo.errors import InputError, OutOfMemory


@contextmanager
def load_errors(model: str) -> Iterator[None]:
    """Turn everything that is wrong with a model's folder or name into one InputError that names the model."""
    try:
        yield
    except InputError as error:
        raise InputError(f"model {model}: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {model}: can't be loaded ({reason}); give a hub name with network access, "
            "a local Hugging Face folder, or --model embedded"
        ) from None


@contextmanager
def oom_as_error(device: str, tokens: int, words: Sequence[str]) -> Iterator[None]:
    """Turn a RuntimeError whose text contains one of `words` into OutOfMemory, for a step of `tokens` tokens."""
    try:
        yield
    except RuntimeError as error:
        if not any(one in str(error) for one in words):
            raise
        raise OutOfMemory(
            f"{device}: out of memory in a step of {tokens} tokens; the checkpoints are whole: end other programs, or "
            "leave out the longest phase, or lower lora.r, and go on with --resume auto"
        ) from None
