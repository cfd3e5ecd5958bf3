"""The table of machines against what users of those machines report."""

from __future__ import annotations

import pytest

from longrepo.memory.budget import GIB
from longrepo.memory.report import MIB, known_machines, mac_working_set

TABLE = {machine.name: machine for machine in known_machines()}


@pytest.mark.parametrize(
    ("size", "reported"),  # MiB, as Metal reports its recommended working set
    [(8, 5461.33), (16, 10922.67), (32, 21845.33), (36, 27 * 1024), (64, 48 * 1024)],
)
def test_a_mac_gives_its_gpu_what_metal_reports(size: int, reported: float) -> None:
    assert mac_working_set(size * GIB) / MIB == pytest.approx(reported, abs=1)
    assert TABLE[f"Mac {size} GB"].usable == mac_working_set(size * GIB)


def test_an_8_gb_mac_has_5_33_gib() -> None:
    assert TABLE["Mac 8 GB"].usable / GIB == pytest.approx(5.33, abs=0.01)


def test_every_machine_keeps_something_for_itself() -> None:
    assert len(TABLE) == len(known_machines()) == 23
    for machine in known_machines():
        kept = machine.memory - machine.usable
        assert kept >= (machine.memory / 4 if machine.device == "mps" else 0.5 * GIB), machine
        assert machine.usable > machine.memory / 2


def test_only_cuda_has_fused_attention() -> None:
    assert {machine.attention for machine in known_machines() if machine.device == "cuda"} == {"fused"}
    assert {machine.attention for machine in known_machines() if machine.device == "mps"} == {"tiled"}


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_they_come_from_small_to_large(device: str) -> None:
    usable = [machine.usable for machine in known_machines() if machine.device == device]
    assert usable == sorted(usable)
