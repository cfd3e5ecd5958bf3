"""Whether MLX is here; importable without it."""

from __future__ import annotations

import importlib
import platform

from longrepo.errors import InputError


def require_mlx() -> None:
    """Raises InputError, with what to do, where mlx and mlx-lm can't be imported or don't exist for this machine."""
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
