"""What a run may use: the smaller of what was set and what the machine has to give now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """`bytes` a run may use, where the figure comes from, and whether a person set it (then it is a limit)."""

    bytes: int
    reason: str
    limit: bool


def find_budget(device: str, set_gb: float | None) -> Budget:
    """The budget on `mps`, `cuda` or `cpu`. `set_gb` is `memory.budget_gb`, in GiB."""
    available, source = _available(device)
    if set_gb is None:
        return Budget(available, source, limit=False)
    wanted = int(set_gb * GIB)
    if wanted <= available:
        return Budget(wanted, "memory.budget_gb", limit=True)
    return Budget(available, f"{source}, less than memory.budget_gb ({set_gb:g} GiB)", limit=True)


def _available(device: str) -> tuple[int, str]:
    if device == "mps":
        import torch

        return torch.mps.recommended_max_memory(), "what macOS recommends for the GPU"
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0], "free on the GPU"
    free = psutil.virtual_memory().available
    cgroup = _cgroup_room()
    if cgroup is not None and cgroup < free:
        return cgroup, "left in this cgroup"
    return free, "free memory"


def _cgroup_room() -> int | None:
    """Bytes left under the memory cgroup's limit (version 2, then version 1), or None without one."""
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int(Path(limit).read_text()) - int(Path(usage).read_text()))
        except (OSError, ValueError):  # no such version here, or `max`: no limit
            continue
    return None
