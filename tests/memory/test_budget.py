"""What a process may hold: under real memory cgroups where this machine lets us make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from longrepo.memory import budget
from longrepo.memory.budget import GIB, available_bytes, available_memory, cgroup_available, find_budget, process_memory

MIB = 2**20
TOP = Path("/sys/fs/cgroup/memory")
LIMIT = "memory.limit_in_bytes"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup (version 1) with one inside it, both without a limit."""
    outer = TOP / f"longrepo-test-{os.getpid()}"
    try:
        (outer / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield outer
    (outer / "inner").rmdir()
    outer.rmdir()


def inside(cgroup: Path, code: str) -> dict[str, int]:
    """Run code in a process in the cgroup; what it puts into `out`."""
    start = (
        "import json, os, sys\nfrom pathlib import Path\n"
        "from longrepo.memory.budget import available_memory, find_budget, process_memory\n"
        f"Path({str(cgroup / 'cgroup.procs')!r}).write_text(str(os.getpid()))\nout = {{}}\n"
    )
    program = [sys.executable, "-c", start + code + "\nprint(json.dumps(out))"]
    return json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def test_the_tightest_ancestor_counts(cgroup: Path) -> None:
    (cgroup / LIMIT).write_text(str(300 * MIB))
    (cgroup / "inner" / LIMIT).write_text(str(500 * MIB))
    code = "room = available_memory('cpu'); out = {'bytes': room.bytes, 'limit': room.limit, 'firm': room.enforced}"
    found = inside(cgroup / "inner", code)
    assert found["limit"] == 300 * MIB and found["firm"]
    assert 250 * MIB < found["bytes"] <= 300 * MIB
    (cgroup / "inner" / LIMIT).write_text(str(200 * MIB))
    assert inside(cgroup / "inner", code)["limit"] == 200 * MIB


def test_what_the_process_holds_counts_as_its_own(cgroup: Path) -> None:
    (cgroup / LIMIT).write_text(str(400 * MIB))
    found = inside(
        cgroup,
        "before = available_memory('cpu').bytes\nheld = bytearray(200 * 2**20)\n"
        "out = {'before': before, 'after': available_memory('cpu').bytes, 'held': process_memory().anonymous}",
    )
    assert found["held"] > 200 * MIB
    assert abs(found["after"] - found["before"]) < 16 * MIB


def test_files_that_the_process_maps_count_as_its_own(cgroup: Path, tmp_path: Path) -> None:
    """Libraries above all: the plan counts them as use of the process."""
    (cgroup / LIMIT).write_text(str(400 * MIB))
    found = inside(
        cgroup,
        f"import mmap\nfile = Path({str(tmp_path / 'library')!r})\nfile.write_bytes(bytes(150 * 2**20))\n"
        "before = available_memory('cpu').bytes\nwith file.open('rb') as data:\n"
        "    mapped = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "pages = sum(mapped[0 :: mmap.PAGESIZE])\n"
        "out = {'before': before, 'after': available_memory('cpu').bytes, 'resident': process_memory().resident}",
    )
    assert found["resident"] > 150 * MIB
    assert abs(found["after"] - found["before"]) < 40 * MIB, found


def test_what_others_hold_in_the_cgroup_is_gone(cgroup: Path) -> None:
    (cgroup / LIMIT).write_text(str(400 * MIB))
    found = inside(
        cgroup,
        "import subprocess\nbefore = available_memory('cpu').bytes\n"
        "other = subprocess.Popen([sys.executable, '-c', 'x = bytearray(150 * 2**20); print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\nother.stdout.readline()\n"
        "out = {'before': before, 'after': available_memory('cpu').bytes}\nother.communicate(b'\\n')",
    )
    assert found["before"] - found["after"] > 120 * MIB  # libraries loaded before are charged elsewhere


def test_page_cache_is_room_even_where_it_was_read_twice(cgroup: Path, tmp_path: Path) -> None:
    """A disk store writes and reads: its pages become active, and still no process needs them."""
    (cgroup / LIMIT).write_text(str(400 * MIB))
    found = inside(
        cgroup,
        f"file = Path({str(tmp_path / 'store')!r})\nbefore = available_memory('cpu').bytes\n"
        "file.write_bytes(bytes(150 * 2**20))\n"
        "for _ in range(3):\n    with file.open('rb') as data:\n        while data.read(2**20):\n            pass\n"
        f"stat = dict(line.split() for line in Path({str(cgroup / 'memory.stat')!r}).read_text().splitlines())\n"
        "out = {'before': before, 'after': available_memory('cpu').bytes, 'active': int(stat['total_active_file']),"
        " 'cache': int(stat['total_cache'])}",
    )
    if found["cache"] < 100 * MIB:
        pytest.skip("files of this folder are not cached in memory")
    assert abs(found["after"] - found["before"]) < 40 * MIB, found


def test_what_the_process_holds_is_added_to_what_is_free() -> None:
    held = bytearray(300 * MIB)
    room, free = available_memory("cpu"), psutil.virtual_memory().available
    if room.enforced:
        pytest.skip("a cgroup's limit is tighter than free memory here")
    assert room.bytes - free > 250 * MIB and len(held) == 300 * MIB


def test_a_limit_that_shrinks_is_seen_at_once(cgroup: Path) -> None:
    (cgroup / LIMIT).write_text(str(400 * MIB))
    found = inside(
        cgroup,
        f"first = available_memory('cpu').bytes\nPath({str(cgroup / LIMIT)!r}).write_text(str(300 * 2**20))\n"
        "out = {'first': first, 'then': available_memory('cpu').bytes}",
    )
    assert abs(found["first"] - found["then"] - 100 * MIB) < 8 * MIB


def test_version_2_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In files as version 2 lays them out; this test needs no such kernel."""
    inner = tmp_path / "user" / "run"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, str(3 * GIB))):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{2 * GIB}\n")
        counters = f"anon 7\ninactive_file {GIB // 2}\nactive_file {GIB}\nfile_mapped {GIB // 4}\n"
        (folder / "memory.stat").write_text(counters)
    (tmp_path / "own").write_text("1:name=systemd:/elsewhere\n0::/user/run\n")
    monkeypatch.setattr(budget, "CGROUPS", tmp_path)
    monkeypatch.setattr(budget, "OWN_CGROUP", tmp_path / "own")
    room = cgroup_available(0)
    assert room is not None and room.limit == 3 * GIB
    assert room.bytes == 3 * GIB - (2 * GIB - (GIB // 2 + GIB - GIB // 4))
    held = cgroup_available(GIB // 4)
    assert held is not None and held.bytes == room.bytes + GIB // 4
    (tmp_path / "own").write_text("0::/../outside\n")
    assert cgroup_available(0) is None


def test_a_set_budget_is_a_limit_and_never_above_what_there_is() -> None:
    small, beyond = find_budget("cpu", 0.25), find_budget("cpu", 1e6)
    assert small.bytes == GIB // 4 and small.limit and small.reason == "memory.budget_gb"
    assert beyond.limit and beyond.bytes < 1e6 * GIB and "less than memory.budget_gb" in beyond.reason
    assert not find_budget("cpu", None).limit


def test_it_is_cheap_enough_for_every_step() -> None:
    available_bytes("cpu")
    times = []
    for _ in range(50):
        began = time.perf_counter()
        available_bytes("cpu")
        times.append(time.perf_counter() - began)
    assert min(times) < 1e-3


@pytest.mark.skipif(sys.platform != "linux", reason="told apart on Linux only")
def test_own_memory_tells_anonymous_from_resident() -> None:
    before = process_memory()
    held = bytearray(64 * MIB)
    after = process_memory()
    assert after.anonymous - before.anonymous > 60 * MIB and len(held) == 64 * MIB
    assert after.resident > after.anonymous
    assert available_memory("cpu").bytes > after.anonymous
