"""Machines a person may ask about without having one at hand: what each gives a training process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longrepo.memory.budget import GIB

MIB = 2**20

Attention = Literal["tiled", "fused"]  # how long sequences are attended to there: in query chunks, or by one kernel

MAC_SIZES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128)  # GiB of unified memory
GPU_SIZES = {  # MiB, as nvidia-smi reports them: error correction already takes its part of some
    "RTX 4060 8 GB": 8188,
    "RTX 4070 12 GB": 12282,
    "RTX 3060 12 GB": 12288,
    "T4 16 GB": 15360,
    "A10 24 GB": 23028,
    "L4 24 GB": 23034,
    "RTX 4090 24 GB": 24564,
    "RTX 3090 24 GB": 24576,
    "RTX 5090 32 GB": 32607,
    "A100 40 GB": 40960,
    "H100 80 GB": 81559,
    "A100 80 GB": 81920,
    "H200 141 GB": 143771,
}
GPU_OVERHEAD = 820 * MIB  # what the driver keeps (0.3 to 0.5 GiB) and a process's context with cuBLAS: an estimate


@dataclass(frozen=True)
class Machine:
    """`memory` is what the machine has, `usable` what one process gets of it where nothing else runs; in bytes.
    `source` says where `usable` comes from."""

    name: str
    device: Literal["mps", "cuda"]
    memory: int
    usable: int
    source: str

    @property
    def attention(self) -> Attention:
        """Metal has no fused attention with a backward pass, CUDA has."""
        return "tiled" if self.device == "mps" else "fused"


def mac_working_set(memory: int) -> int:
    """Metal's `recommendedMaxWorkingSetSize` in bytes, by a cautious rule (newer macOS gives more): two thirds of the
    memory below 36 GiB, three quarters from there on.

    As users report it: 5.3 GiB of 8 (SceneWorks pull request 1552), 10922 MiB of 16 GiB (llama-cpp-python issue 687),
    21845 MiB of 32 (ollama issue 434), 75 % of large ones (gpustack issue 1375). Some newer systems give more: 11.84
    of 16 GiB (llmfit pull request 754), 107.52 of 128 (ds4 pull request 893). On the machine itself Metal is asked.
    """
    return memory * 3 // 4 if memory >= 36 * GIB else memory * 2 // 3


def machines() -> tuple[Machine, ...]:
    """Macs, then GPUs, each from the smallest to the largest."""
    macs = (
        Machine(f"Mac {size} GB", "mps", size * GIB, mac_working_set(size * GIB), "recommendedMaxWorkingSetSize")
        for size in MAC_SIZES
    )
    gpus = (
        Machine(name, "cuda", size * MIB, size * MIB - GPU_OVERHEAD, "nvidia-smi's total less driver and context")
        for name, size in GPU_SIZES.items()
    )
    return (*macs, *gpus)
