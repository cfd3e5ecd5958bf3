"""Metal's limits, set from the plan: what a run may hold, may keep for reuse, and has resident without paging."""

from __future__ import annotations

import mlx.core as mx

MIB, GIB = 2**20, 2**30
SLACK = 1.05  # over the plan: MLX's memory limit makes it wait for running work, not fail
LEAST_CACHE = 64 * MIB


def set_limits(device: str, planned: int, budget: int) -> tuple[tuple[str, str], ...]:
    """For a run planned to need `planned` of `budget` bytes; the limits with reasons, like an engine's `choices`."""
    if device != "metal":
        mx.set_cache_limit(LEAST_CACHE)
        reason = "freed buffers kept for reuse count as the process's; memory and wired limits are Metal's"
        return ((f"MLX's cache limit: {LEAST_CACHE / GIB:.2f} GiB", reason),)
    working_set = int(mx.device_info()["max_recommended_working_set_size"])
    memory = min(budget, int(planned * SLACK))
    cache = max(LEAST_CACHE, budget - memory)
    wired = min(planned, working_set)
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)
    mx.set_wired_limit(wired)
    return (
        (f"MLX's memory limit: {memory / GIB:.2f} GiB", "the plan and 5 %, within the budget: above it MLX waits"),
        (f"MLX's cache limit: {cache / GIB:.2f} GiB", "freed buffers kept for reuse: what the budget leaves"),
        (
            f"MLX's wired limit: {wired / GIB:.2f} GiB",
            "the plan, kept from being paged out"
            + ("" if wired == planned else f": as much as macOS recommends ({working_set / GIB:.2f} GiB)"),
        ),
    )
