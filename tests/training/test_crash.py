"""After a process that died without a word: a rung lower where it was killed for memory, else exactly as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from small_runs import Told, run, weights_of
from test_step_down import DISK, MEMORY, MIB, SMALLER, planned

from longrepo.errors import OutOfMemory, RunError
from longrepo.memory.budget import MemoryPressure, MemorySample
from longrepo.memory.guard import RecordingSensors
from longrepo.training import crash
from longrepo.training.crash import CrashMarker
from longrepo.training.state import MemoryState


class Killed(BaseException):
    """Stands for SIGKILL."""


class KilledAt(Told):
    def update(self, record: object) -> None:
        super().update(record)  # type: ignore[arg-type]
        if len(self.updates) == 5:
            raise Killed


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    with pytest.raises(Killed):
        run(tmp_path / "run", told=KilledAt(), memory=planned(MEMORY, DISK, SMALLER))
    return tmp_path / "run"


def alter(path: Path, **changes: Any) -> None:
    file = path / "in_flight.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def resumed(path: Path, **more: Any) -> tuple[FakeEngine, Told]:
    engine, told = FakeEngine(), Told()
    run(path, resume="auto", engine=engine, told=told, memory=more.pop("memory", planned(MEMORY, DISK, SMALLER)))
    return engine, told


def test_the_file_says_what_is_at_work_and_is_gone_after_every_clean_end(dead: Path, tmp_path: Path) -> None:
    said = json.loads((dead / "in_flight.json").read_text())
    assert (said["phase"], said["method"], said["length"], said["planned"]) == (1, str(MEMORY), 64, 8 * MIB + 64)
    assert said["kills"].keys() == crash.oom_kill_counts().keys() and said["boot"] == crash.boot_id()
    resumed(dead)
    assert not (dead / "in_flight.json").exists()

    class Pressed(Told):
        def update(self, record: object) -> None:
            raise KeyboardInterrupt

    class Full(Told):
        def update(self, record: object) -> None:
            raise RunError("no")

    for number, (told, error) in enumerate(((Pressed(), KeyboardInterrupt), (Full(), RunError))):
        with pytest.raises(error):
            run(tmp_path / f"{number}", told=told)
        assert not (tmp_path / f"{number}" / "in_flight.json").exists()


def test_killed_by_a_person_it_goes_on_exactly_as_it_was(dead: Path, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    engine, told = resumed(dead)
    assert set(engine.used) == {str(MEMORY)} and weights_of(dead) == weights_of(tmp_path / "whole")
    assert any("the previous process died" in note and "nothing suggests that memory" in note for note in told.notes)


def test_killed_for_memory_it_goes_on_a_rung_lower(dead: Path, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    file = tmp_path / "memory.oom_control"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    alter(dead, kills={str(file): 2})
    engine, told = resumed(dead)
    assert str(MEMORY) not in engine.used[1:] and engine.method == DISK
    assert any("killed for memory in this cgroup" in note and "bit for bit" in note for note in told.notes)
    assert weights_of(dead) == weights_of(tmp_path / "whole")


def test_killed_for_memory_on_the_lowest_rung_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", told=KilledAt(), memory=planned(MEMORY))
    alter(tmp_path / "run", kills={}, sample={"used": 95, "limit": 100, "critical": False})
    with pytest.raises(OutOfMemory, match="95% of the limit was in use just before; nothing needs less") as caught:
        resumed(tmp_path / "run", memory=planned(MEMORY))
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "in_flight.json").exists()


def test_what_was_learnt_after_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    class KilledAt3(Told):
        def update(self, record: object) -> None:
            super().update(record)  # type: ignore[arg-type]
            if len(self.updates) == 3:
                raise Killed

    engine, seen = FakeEngine(), [0]

    def fails(call: str) -> bool:
        seen[0] += call == "accumulate"
        return seen[0] == 5  # update 3; update 2 was saved

    engine.fails = fails
    with pytest.raises(Killed):
        run(tmp_path / "run", engine=engine, told=KilledAt3(), memory=planned(MEMORY, DISK))
    engine, _ = resumed(tmp_path / "run", memory=planned(MEMORY, DISK))
    assert set(engine.used) == {str(DISK)}


BOOT = "this"


@pytest.mark.parametrize("own, system, boot, why", [
    (2, 5, BOOT, "this cgroup"), (1, 5, BOOT, None), (None, 5, BOOT, "this system"), (None, 4, BOOT, None),
    (0, 5, BOOT, "this system"), (2, 5, "another", None),
])  # fmt: skip
def test_the_own_cgroup_counts_and_without_it_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int | None, system: int, boot: str, why: str | None
) -> None:
    """A counter that fell is of another cgroup with the same name."""
    monkeypatch.setattr(crash, "SYSTEM_COUNTERS", str(tmp_path / "vmstat"))
    monkeypatch.setattr(crash, "boot_id", lambda: BOOT)
    (tmp_path / "vmstat").write_text(f"pgfault 7\noom_kill {system}\n")
    if own is not None:
        (tmp_path / "own").write_text(f"oom_kill {own}\n")
    before = {str(tmp_path / "own"): 1, str(tmp_path / "vmstat"): 4}
    found = crash.oom_kill_reason(before, boot, {"used": 99, "limit": 100, "critical": True})
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize("sample, boot, why", [
    ({"used": 95, "limit": 100, "critical": False}, "another", "95% of the limit"),
    ({"used": 50, "limit": 100, "critical": True}, BOOT, "pressure was critical"),
    ({"used": 50, "limit": 100, "critical": False}, BOOT, None),
    (None, BOOT, "died at once"), (None, "another", None),
])  # fmt: skip
def test_where_kills_are_not_counted_the_last_sample_decides(
    monkeypatch: pytest.MonkeyPatch, sample: Any, boot: str, why: str | None
) -> None:
    monkeypatch.setattr(crash, "boot_id", lambda: BOOT)
    found = crash.oom_kill_reason({}, boot, sample)
    assert (found is None) if why is None else (found is not None and why in found)


def test_samples_are_noted_every_few_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensors:
        def sample(self) -> MemorySample:
            return MemorySample(7, 7, 0, MemoryPressure(level=4))

        def room(self) -> Any:
            return type("Room", (), {"limit": 10})

    in_flight = CrashMarker(tmp_path)
    sensors = RecordingSensors(Sensors(), lambda: 9, lambda sample: in_flight.renew(sample=sample))
    sensors.sample()
    assert not list(tmp_path.iterdir()), "nothing is at work yet"
    in_flight.write(1, 0, "plain", 64, 5, MemoryState())
    sensors.sample()
    assert json.loads((tmp_path / "in_flight.json").read_text())["sample"] is None
    in_flight._written -= 6
    sensors.sample()
    said = json.loads((tmp_path / "in_flight.json").read_text())
    assert said["sample"] == {"used": 9, "limit": 10, "critical": True}
    assert in_flight.crash() is not None


@pytest.mark.parametrize("used, killed", [(89, False), (90, False), (91, True)])
def test_more_than_nine_tenths_of_the_limit_tell_a_kill_for_memory(
    monkeypatch: pytest.MonkeyPatch, used: int, killed: bool
) -> None:
    monkeypatch.setattr(crash, "boot_id", lambda: BOOT)
    sample = {"used": used, "limit": 100, "critical": False}
    assert (crash.oom_kill_reason({}, BOOT, sample) is not None) == killed
