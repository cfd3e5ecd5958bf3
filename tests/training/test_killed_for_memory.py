"""Real processes in a real memory cgroup: one the kernel kills goes on a rung lower, one a person kills as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import run, weights_of
from test_step_down import DISK, MEMORY, SMALLER

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "memory"))

from capped import MemoryCgroup, memory_cgroup

LIMIT = 2**29


@pytest.fixture
def cgroup() -> Iterator[MemoryCgroup]:
    if sys.platform != "linux":
        pytest.skip("memory cgroups are Linux's")
    try:
        with memory_cgroup(LIMIT) as group:
            yield group
    except SystemExit as why:
        pytest.skip(str(why))


def trained(cgroup: MemoryCgroup, output: Path, dies_of: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent / "dying_run.py"
    command = cgroup.within([sys.executable, script, output, dies_of])
    return subprocess.run(command, capture_output=True, text=True)


def test_killed_for_memory_in_mid_step_and_resumed(cgroup: MemoryCgroup, tmp_path: Path) -> None:
    assert trained(cgroup, tmp_path / "run", "memory").returncode == -9 and cgroup.kills() == 1
    again = trained(cgroup, tmp_path / "run", "memory")
    assert again.returncode == 0, again.stderr
    assert "the kernel killed for memory in this cgroup; from update" in again.stdout
    assert again.stdout.splitlines()[-1] == f"used {[str(MEMORY), str(DISK), str(DISK)]}"
    run(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_killed_by_a_person_in_mid_step_and_resumed(cgroup: MemoryCgroup, tmp_path: Path) -> None:
    assert trained(cgroup, tmp_path / "run", "person").returncode == -9 and cgroup.kills() == 0
    again = trained(cgroup, tmp_path / "run", "whole")
    assert again.returncode == 0, again.stderr
    assert str(SMALLER) not in again.stdout and str(DISK) not in again.stdout
    run(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
