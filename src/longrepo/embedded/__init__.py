"""The small base model that ships with longrepo: a Hugging Face folder (see its README.md for what it is)."""

from pathlib import Path


def path() -> Path:
    """Return the folder with the model's configuration, weights and tokenizer."""
    return Path(__file__).resolve().parent
