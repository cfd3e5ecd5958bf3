"""The same commit and settings give the same bytes: wherever, however often, in however many processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
from git_helper import Made, environment, git, make_repo
from small_packages import NAMES, history, module
from tokenizers import Tokenizer
from whole import prepared

from longrepo.config.schema import Settings
from longrepo.data import workers as pooling
from longrepo.data.features import FileJob
from longrepo.data.prepare import write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.workers import ExtractionPool
from longrepo.errors import RunError
from longrepo.redaction.redactor import Redactor
from longrepo.utils.cache import SqliteCache

ROOT = Path(__file__).parents[2]
PEOPLE = [("Ottilie Fernbach", "of@fernbach-works.org")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started however little there is to do, and get small batches."""
    monkeypatch.setattr(pooling, "_MIN_PARALLEL_CHARACTERS", 0)
    monkeypatch.setattr(pooling, "_BATCH_CHARACTERS", 5_000)


def jobs() -> Iterator[tuple[str, FileJob]]:
    for number, name in enumerate(NAMES * 3):
        yield f"key {number}", FileJob(f"{name}.py", f"# {number} by Ottilie Fernbach\n{module(name, None, number)}")


def test_processes_give_what_one_gives_in_the_order_asked(tokenizer: RepoTokenizer, eager: None) -> None:
    redactor = Redactor(PEOPLE)
    here = list(ExtractionPool(tokenizer, redactor, 0.1, 1).run(jobs()))
    pool = ExtractionPool(tokenizer, redactor, 0.1, 2)
    children = len(psutil.Process().children())
    found = list(pool.run(jobs()))
    assert len(psutil.Process().children()) > children, "processes were started"
    assert found == here and [key for key, _ in found] == [key for key, _ in jobs()]
    assert list(pool.run(jobs())) == here and list(pool.run([])) == []
    pool.close()
    pool.close()
    assert len(psutil.Process().children(recursive=True)) <= children + 1  # Python's own resource tracker stays


def test_a_process_that_dies_is_said_in_a_line(tokenizer: RepoTokenizer, eager: None) -> None:
    pool = ExtractionPool(tokenizer, None, 0.1, 2)
    before = set(psutil.Process().children())
    answers = pool.run(jobs())
    next(answers)
    for child in set(psutil.Process().children()) - before:
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()
    with pytest.raises(RunError, match="helper process"):
        list(answers)
    pool.close()


def test_half_a_result_isnt_waited_for(tokenizer: RepoTokenizer, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it writes leaves a future that is never done."""
    monkeypatch.setattr(pooling, "_POLL_SECONDS", 0.2)
    pool = ExtractionPool(tokenizer, None, 0.1, 2)
    answers = pool.run(jobs())
    next(answers)
    for process in pool._processes:
        process.kill()
    with pytest.raises(RunError, match=r"helper process ended .*killed while it wrote its result"):
        pool._wait(Future())
    pool.close()


def test_little_work_starts_no_process(tokenizer: RepoTokenizer) -> None:
    pool = ExtractionPool(tokenizer, None, 0.1, 8)
    children = psutil.Process().children()
    assert len(list(pool.run(jobs()))) == 30 and psutil.Process().children() == children


def test_one_or_two_workers_prepare_the_same_bytes(
    long_history: Path, tokenizer: RepoTokenizer, settings: Settings, eager: None, tmp_path: Path
) -> None:
    for workers in (1, 2):
        made = prepared(long_history, tokenizer, settings, phases=2, workers=workers)
        write_prepared(tmp_path / str(workers), made.prepared)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert len(one) >= 4 and one == two


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backend: Tokenizer) -> Path:
    """A repository with two authors, odd file names and a merge in `repo`, a tokenizer in `model`."""
    folder = tmp_path_factory.mktemp("bytes")
    odd = {"naïve/ünï.py": module("unicode", None, 6), "a b.py": module("spaced", None, 6)}
    commits = [
        Made({path: text}, f"Add {path}", author="Ottilie Fernbach <of@fernbach-works.org>")
        for path, text in odd.items()
    ]
    make_repo(folder / "repo", [*history(12), *commits])
    (folder / "model").mkdir()
    backend.save(str(folder / "model" / "tokenizer.json"))
    return folder


def run(place: Path, repo: Path, out: Path, **given: str) -> None:
    # What git is told not to read, and what makes Python's order of sets and texts another.
    env = environment() | {"PYTHONPATH": str(ROOT / "src"), "LONGREPO_CACHE": "off"} | given
    words = ["prepare_long_context.py", "--repo", str(repo), "--output-dir", str(out), "--phases", "2"]
    words += ["--model", str(place / "model"), "--set", "data.held_out_per_length=4"]
    cwd = out.parent
    cwd.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_path_locale_hash_seed_and_clone_give_the_same_bytes(place: Path, tmp_path: Path) -> None:
    run(place, place / "repo", tmp_path / "one" / "out", LC_ALL="C", PYTHONHASHSEED="1", TZ="UTC")
    git(tmp_path, "clone", "-q", "--no-local", str(place / "repo"), str(tmp_path / "else where" / "repo"))
    other = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONUTF8": "0"}
    run(place, tmp_path / "else where" / "repo", tmp_path / "täwo" / "out", **other)
    one, two = contents(tmp_path / "one" / "out"), contents(tmp_path / "täwo" / "out")
    assert len(one) >= 4 and one == two


SLOW = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
def now(when):
    if os.environ["WHEN"] == when:
        os.write(1, b"now\\n")  # at once: two processes may say it together
        time.sleep(0.5)
if __name__ == "__mp_main__":
    now("starting")
from longrepo.data import workers
workers._MIN_PARALLEL_CHARACTERS, workers._BATCH_CHARACTERS = 0, 3_000
results = workers.ExtractionPool._results
def slow(*given):
    found = list(results(*given))
    now("working")
    return found
workers.ExtractionPool._results = slow
from longrepo import api
api.os.cpu_count = lambda: 2
from longrepo.cli.app import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("when", ["starting", "working"])
@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_leaves_no_process_and_nothing_half_written(
    place: Path, tmp_path: Path, to_group: bool, when: str
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), "prepare", "--repo", str(place / "repo"), "--output-dir", "out"]
    command += ["--model", str(place / "model"), "--phases", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "LONGREPO_CACHE": str(tmp_path / "cache"), "WHEN": when}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, text=True, start_new_session=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n", process.communicate()
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) >= 3
    if to_group:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    else:
        os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "stopped: nothing was written" in said
    assert not list(_alive(family, 10))
    assert not [one for one in (tmp_path / "out").rglob("*") if one.is_file()]
    cache = SqliteCache(tmp_path / "cache")
    cache.put({"a": b"1"})
    assert cache.get(["a"]) == {"a": b"1"}
    cache.close()
    shutil.rmtree(tmp_path / "cache")


def _alive(family: Iterable[psutil.Process], seconds: float) -> Iterator[psutil.Process]:
    """Those that still run after so many seconds at most."""
    until = time.monotonic() + seconds
    for one in family:
        while one.is_running() and one.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.05)
        if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
            yield one
