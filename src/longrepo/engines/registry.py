"""Choose an engine, select its device and create it.

No framework is imported before a device is selected or an engine is created; MLX needn't be installed.
"""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.config.schema import Settings
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.base import Engine, Placement


EngineName = Literal["torch", "mlx"]


@dataclass(frozen=True)
class EngineSelection:
    """The chosen engine and the reason for it."""

    name: EngineName
    reason: str

    @property
    def line(self) -> tuple[str, str]:
        """The choice and its reason, like those in an engine's `choices`."""
        return f"engine: {self.name}", self.reason


def choose_engine(engine: str, device: str, weights: str = "lora") -> EngineSelection:
    """Resolve `auto|torch|mlx` for a device `auto|mps|cuda|cpu` and a run's `training.weights`. Raises InputError if
    MLX doesn't support the combination."""
    if engine == "mlx":
        if weights == "all":
            raise InputError("--engine mlx: with training.weights=all it trains LoRA alone; use --engine torch")
        if device == "cuda":
            raise InputError("--engine mlx --device cuda: MLX computes on Metal or a CPU; use --engine torch")
        return EngineSelection("mlx", "as asked")
    if engine == "torch":
        return EngineSelection("torch", "as asked")
    if weights == "all":
        return EngineSelection("torch", "the one that trains all weights")
    if device == "cuda":
        return EngineSelection("torch", "the one that computes on CUDA")
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return EngineSelection("torch", "this isn't Apple Silicon")
    if missing := [name for name in ("mlx", "mlx_lm") if find_spec(name) is None]:
        return EngineSelection(
            "torch", f"Apple Silicon, but {' and '.join(missing)} not installed: pip install mlx mlx-lm"
        )
    return EngineSelection("mlx", "Apple Silicon, and MLX is installed")


class CacheLibrary(Protocol):
    """How an engine's library keeps keys and values; every engine's `kv_cache` module is one."""

    def unsupported_bits_reason(self, config: Any, bits: int, device: str) -> str | None:
        """Return why the library can't keep a cache of 16, 8 or 4 bits for this configuration, or None if it can."""
        ...

    def cache_bytes(self, config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
        """Return the largest size in bytes of the cache while a prompt of `tokens` tokens is read."""
        ...


def cache_library(engine: str) -> CacheLibrary:
    """Return the library in which an engine keeps keys and values."""
    if engine == "mlx":
        from longrepo.engines.mlx import kv_cache as on_mlx

        return on_mlx
    from longrepo.engines.torch import kv_cache as on_torch

    return on_torch


def select_device(choice: EngineSelection, device: str, precision: str) -> Placement:
    """Select the engine's device and precision. Raises InputError if the engine or the device isn't available."""
    if choice.name == "mlx":
        _prepare_mlx()
        from longrepo.engines.mlx.device import select_mlx_device

        return select_mlx_device(device, precision)
    from longrepo.engines.torch.device import select_torch_device

    return select_torch_device(device, precision)


def create_engine(
    choice: EngineSelection, settings: Settings, tokenizer: RepoTokenizer, device: str = "auto"
) -> Engine:
    """Create the engine and load its base. Raises InputError if the engine, the device or the base isn't available."""
    engine: Engine
    if choice.name == "mlx":
        _prepare_mlx()
        from longrepo.engines.mlx.engine import MlxEngine

        engine = MlxEngine.create(settings, tokenizer, device)
    else:
        from longrepo.engines.torch.engine import TorchEngine

        engine = TorchEngine.create(settings, tokenizer, device)
    engine.choices.insert(0, choice.line)
    return engine


def _prepare_mlx() -> None:
    _block_torch_import()
    require_mlx()


def _block_torch_import() -> None:
    """Tell transformers that torch isn't installed, unless one of them is already imported.

    mlx-lm imports transformers, which imports torch if it can: 180 MiB of a small Mac's memory."""
    if {"torch", "transformers"} & sys.modules.keys() or find_spec("transformers") is None:
        return
    for module in ("transformers.utils.import_utils", "transformers.utils"):
        vars(import_module(module))["is_torch_available"] = lambda: "torch" in sys.modules


def require_mlx() -> None:
    """Raise InputError, with what to do, if mlx or mlx-lm can't be imported or doesn't exist for this machine."""
    system, machine = platform.system(), platform.machine()
    install = {"Darwin": "pip install mlx mlx-lm", "Linux": "pip install 'longrepo[mlx-linux]'"}.get(system)
    if install is None or (system == "Darwin" and machine != "arm64"):
        raise InputError(
            f"--engine mlx: MLX is for Apple Silicon and Linux, this is {system} on {machine}; use --engine torch"
        )
    for name in ("mlx.core", "mlx_lm"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"--engine mlx: {name} can't be imported ({reason}); {install}, or use --engine torch"
            ) from None
