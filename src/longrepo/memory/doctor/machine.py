"""The machine: chip, memory and its true limits, cores, disk, git."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from longrepo.memory.budget import GIB, find_budget, limited_cgroups, memory_cgroups
from longrepo.memory.doctor.finding import Finding
from longrepo.memory.pressure import sysctl_text


def chip(device: str) -> Finding:
    """The processor, and the GPU where the device is one."""
    name = _processor()
    if device == "cuda":
        import torch

        name = f"{torch.cuda.get_device_name()}, {name}"
    return Finding("ok", "chip", f"{name}, {platform.system()} {platform.release()} {platform.machine()}")


def memory(device: str, set_gb: float | None) -> Finding:
    """What the machine has, and what a run may use of it."""
    total, swap = psutil.virtual_memory().total, psutil.swap_memory()
    budget = find_budget(device, set_gb)
    swapped = f", {swap.used / GIB:.1f} of {swap.total / GIB:.1f} GiB swap used" if swap.total else ", no swap"
    what = f"{total / GIB:.1f} GiB{swapped}; a run may use {budget.bytes / GIB:.2f} GiB ({budget.reason})"
    if set_gb is not None and budget.bytes < set_gb * GIB:
        return Finding("note", "memory", what, "end other programs, or lower memory.budget_gb")
    return Finding("ok", "memory", what)


def cgroup() -> Finding:
    """The tightest memory limit that this process and its ancestors are under."""
    limits = [(limit, usage, names.version) for _, names, limit, usage in limited_cgroups()]
    if not limits:
        where = "no limit" if any(memory_cgroups()) else "none"
        return Finding("ok", "cgroup", f"{where}: the machine's memory is the limit")
    limit, usage, version = min(limits)
    what = f"limited to {limit / GIB:.2f} GiB, {usage / GIB:.2f} GiB in use (version {version}, page cache included)"
    kills = "above it the kernel ends the run without an error: the budget above keeps to it"
    return Finding("note", "cgroup", what, kills)


def cores() -> Finding:
    """Cores this process may use, and torch's threads."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    what = f"{usable} usable of {os.cpu_count()}, torch computes with {threads} threads"
    if threads > usable:
        return Finding("note", "cores", what, f"set OMP_NUM_THREADS={usable}: more threads than cores slow each other")
    return Finding("ok", "cores", what)


def disk(what: str, folder: Path, needed: int, must: bool = True) -> Finding:
    """Free space where `folder` is or will be, against `needed` bytes; without it the job runs only if it needn't
    (`must`) be there."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    status: Literal["note", "problem"] = "problem" if must else "note"
    if not os.access(there, os.W_OK):
        return Finding(status, "disk", f"{what}: {there} can't be written to", "choose another folder")
    found = f"{what}: {free / GIB:.1f} GiB free at {folder}, up to {needed / GIB:.1f} needed"
    if free < needed:
        return Finding(status, "disk", found, "free some, or choose a folder on another disk")
    return Finding("ok", "disk", found)


def git() -> Finding:
    """The git that repositories are read with."""
    try:
        run = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError):
        return Finding("problem", "git", "no working git", "install git: repositories are read with it")
    return Finding("ok", "git", run.stdout.strip())


def _processor() -> str:
    if sys.platform == "darwin":
        return sysctl_text("machdep.cpu.brand_string") or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
