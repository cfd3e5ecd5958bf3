"""longrepo: a long-context LoRA adapter for a code model, from a developer's own git repository.

The Python API is `prepare`, `train`, `evaluate` and `load`; see `longrepo.api`, which is imported at first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrepo.api import evaluate, load, prepare, train


__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from longrepo import api

    return getattr(api, name)
