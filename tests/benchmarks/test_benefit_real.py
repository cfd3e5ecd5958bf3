"""The benchmark on a real base goes from repositories to tables, and goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from git_helper import git
from small_repository import small_repository

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "benefit"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "bases"))

import real_base
import real_table
import tiny_bases
from real_base import Place, RealBench, controls_of, read_places

LENGTH, TOKENS = 256, 600


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Shorter texts, jobs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        common = (one.replace("=1024", f"={LENGTH}") for one in real_base.COMMON)
        patch.setattr(real_base, "COMMON", (*common, "lora.r=4", "model.quantization=none"))
        patch.setattr(real_base, "LENGTH", LENGTH)
        patch.setattr(real_base, "RATES", (1e-3,))
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> RealBench:
    """Two repositories, one of them only as a control, and a tiny base."""
    work = tmp_path_factory.mktemp("real")
    base = work / "base"
    tiny_bases.write(next(one for one in tiny_bases.BASES if one.name == "SmolLM2-135M"), base)
    places = []
    for name in ("shop", "other"):
        folder = small_repository(work / "repos" / name)
        places.append(Place(f"someone/{name}", git(folder, "rev-parse", "HEAD").strip(), "Python", name == "shop"))
    return RealBench(work, str(base), places, {}, TOKENS, 2)


class Jobs:
    """Does jobs in this process, and keeps their names."""

    def __init__(self, stop: str = "") -> None:
        self.done: list[str] = []
        self.stop = stop

    def __call__(self, bench: RealBench, job: Any) -> bool:
        if job.key == self.stop:
            raise KeyboardInterrupt
        given: Mapping[str, Any] = {
            "work": str(bench.work), "base": bench.base, "job": real_base.asdict(job), "tokens": TOKENS, "blocks": 2,
            "places": [real_base.asdict(one) for one in bench.places], "source": None,
        }  # fmt: skip
        real_base.main(given)
        self.done.append(job.key)
        return False


def done_by(bench: RealBench, monkeypatch: pytest.MonkeyPatch, stop: str = "") -> list[str]:
    jobs = Jobs(stop)
    monkeypatch.setattr(RealBench, "_one", lambda self, job: jobs(self, job))
    try:
        assert not bench.run(bench.rate_jobs())
        assert not bench.run(bench.main_jobs(1, bench.rates()))
    except KeyboardInterrupt:
        assert stop
    return jobs.done


def test_from_repositories_to_tables_in_two_sittings(
    bench: RealBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four trainings of a tiny base take some seconds: nothing smaller has an adapter of each kind."""
    first = done_by(bench, monkeypatch, stop="measure--shop--1")
    kinds = [key.partition("--")[0] for key in first]
    assert kinds.count("train") == 2 * len(real_base.RATES) + 2 and kinds.count("prepare") == 4
    capsys.readouterr()
    bench.print_plan(1)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said if line.startswith("to do ") and " h  " in line] == ["measure--shop--1"]
    assert done_by(bench, monkeypatch) == ["measure--shop--1"]
    assert done_by(bench, monkeypatch) == []
    every = real_table.read_measured(bench.work)
    assert [one.arm for one in every] == ["ours", "base", "ours_scaled", "plain", "plain_no_fim", "same_language"]
    ours, _, scaled, *_ = every
    assert ours.sums(real_table.LINES) != scaled.sums(real_table.LINES)
    for one in every:
        assert one.sums(real_table.LINES).keys() == every[0].sums(real_table.LINES).keys() != set()
        assert one.sums(real_table.NEUTRAL)
    result = json.loads((bench.work / "results" / "measure--shop--1.json").read_text())
    (figure,) = [
        one for one in result["figures"] if one["measure"] == "context" and one["parts"]["context"] == "related"
    ]
    tokens, nats = (sum(column) for column in zip(*every[0].sums(real_table.LINES).values(), strict=True))
    assert nats / tokens == pytest.approx(figure["tuned"]["value"])
    tables = table_of(bench, capsys)
    assert "another repository's, same language" in tables and "another language" not in tables
    assert "shop--plain_no_fim--1--0.001" in tables
    assert len([line for line in tables.splitlines() if line.startswith("| next lines, loss | ")]) == 2
    assert not list((bench.work / "runs").rglob("optimizer.safetensors"))
    assert "base, retrieved → ours, related" in tables and "| same_language |" in tables


def table_of(bench: RealBench, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    real_table.show_real(bench.work)
    return capsys.readouterr().out


def test_what_another_version_prepared_is_prepared_again(bench: RealBench, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = list(bench.rate_jobs())
    monkeypatch.setattr(RealBench, "_one", lambda self, job: Jobs()(self, job))
    assert not bench.run(jobs[:1])  # done before, if the test above ran here
    assert bench.is_done(jobs[0])
    monkeypatch.setattr(real_base, "PREPARATION_VERSION", real_base.PREPARATION_VERSION + 1)
    assert not any(bench.is_done(job) for job in (*jobs, *bench.main_jobs(1, bench.rates())))


def test_a_training_goes_on_unless_what_it_is_trained_on_has_changed(
    bench: RealBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in its middle; then with other tokens, or with other sequences."""
    asked: list[str | None] = []

    def stopped(sequences: Path, output: Path, *, resume: str | None, **_: object) -> None:
        asked.append(resume)
        (output / "last").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(RealBench, "_one", lambda self, job: Jobs()(self, job))
    monkeypatch.setattr(real_base.longrepo, "train", stopped)
    job = bench.train_job(bench.places[0], "ours", 7, 1e-3)
    bench.run([real_base.replace(job, kind="prepare", seed=1, rate=0.0, tokens=0)])
    for tokens in (TOKENS, TOKENS, 2 * TOKENS, 2 * TOKENS):
        with pytest.raises(KeyboardInterrupt):
            real_base.do_train(bench, real_base.replace(job, tokens=tokens))
    digest = real_base.read_sequences(bench.work / "data" / "shop" / "ours" / "sequences").content_sha256
    monkeypatch.setattr(real_base, "read_sequences", lambda _: type("Other", (), {"content_sha256": digest[::-1]}))
    with pytest.raises(KeyboardInterrupt):
        real_base.do_train(bench, real_base.replace(job, tokens=2 * TOKENS))
    assert asked == [None, "auto", None, "auto", None]


def test_controls_are_of_the_same_and_of_another_language() -> None:
    places = read_places(Path(real_base.__file__).with_name("real_repositories.json"))
    measured = [one for one in places if one.measured]
    assert len({one.language for one in measured}) >= 3 and len({one.short for one in places}) == len(places)
    for one in measured:
        found = controls_of(one, places)
        assert found["same_language"] != one and found["same_language"].language == one.language
        assert found["other_language"].language != one.language
