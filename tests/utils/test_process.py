"""What a process holds of what it freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import sys, torch
from longrepo.utils.process import return_freed_memory
from longrepo.memory.budget import process_memory
torch.empty(20 * 2**20, dtype=torch.uint8)  # freed at once: from here on glibc keeps blocks of such sizes
if sys.argv[1] == "give back":
    assert return_freed_memory()
before = process_memory().resident
blocks = [torch.zeros(size, dtype=torch.uint8) for _ in range(200) for size in (2**20, 2**15)]  # too large for old gaps
del blocks[::2]
print((process_memory().resident - before) // 2**20)
"""


def held(way: str) -> int:
    """MiB that a process holds after 200 blocks of 1 MiB were freed."""
    out = subprocess.run([sys.executable, "-c", CODE, way], capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed, and can be told not to")
def test_freed_blocks_are_given_back_where_told_so() -> None:
    assert held("keep") > 150
    assert held("give back") < 20
