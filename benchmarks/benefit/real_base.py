"""The same questions on a base that people use, with controls: what does tuning gain, and is it the repository's own?

    python benchmarks/benefit/run.py --base smollm2-135m --work DIR [--repos NAME=PATH …] [--plan | --table]

Repositories are those of `real_repositories.json`: those measured began after the base's weights were published. Arms,
each trained on as many tokens of the same length, so for about as long (both are in the table):

- `ours`: the defaults; `plain`: `data.recipe: plain`, shuffled chunks of single files with fill-in-the-middle;
  `plain_no_fim`: those without it. Each has the better of two learning rates, by validation on the first repository.

Measured on the same held-out lines of a repository by `longrepo evaluate`'s own measurements, whose files hold every
row: the base, all arms and seeds of the repository, `ours` at 0.6 of its strength (`lora.final_scale`: the same
training), and `ours` of a repository in the same and of one in another language. BM25 with the untuned base, and with
the tuned one, is among the contexts; forgetting is on neutral code.

A job is a process of its own with every core. What is done isn't done again: a training that was stopped goes on from
its checkpoint, a measuring from its last measurement. What was prepared by another version of the preparation is
prepared again, and everything that follows from it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data import clone

import longrepo
from longrepo.data.dataset import SEQUENCES_FOLDER, read_sequences
from longrepo.data.metadata import PREPARATION_VERSION
from longrepo.engines.adapter_io import scale_adapter
from longrepo.engines.registry import choose_engine
from longrepo.errors import InputError
from longrepo.evaluation.inputs import MEASUREMENTS_FILE
from longrepo.evaluation.run import Amount, EvaluationRun
from longrepo.reports.run_record import read_run_record
from longrepo.reports.training import TerminalProgress
from longrepo.training.artifact import find_artifact
from longrepo.training.checkpoint import OPTIMIZER, SETTINGS_FILE, STATE
from longrepo.utils.files import write_text_file

HERE = Path(__file__).resolve().parent
LENGTH = 1024  # tokens of a sequence, and of what is measured
EPOCHS = 2
RATES = (2e-4, 1e-3)
TRAINED, SCORED = 114, 340  # tokens a second, as measured on two cores; only for the plan of what wasn't done yet
COMMON = (
    "data.fim=add",  # the base has no fill-in-the-middle: its marks are added in every arm
    f"long_context.phase1_max_length={LENGTH}",
    f"long_context.phase1_epochs={EPOCHS}",
    "long_context.phase2_epochs=0",
    "long_context.phase3_enabled=false",
    "training.gradient_accumulation_steps=4",
    "training.max_validation_sequences=4",
    "training.early_stopping_patience=0",
    "training.save_every_steps=10",
)
ARMS: Mapping[str, tuple[str, ...]] = {
    "ours": (),
    "plain": ("data.recipe=plain",),
    "plain_no_fim": ("data.recipe=plain", "data.fim_share=0"),
}
SCALED, SCALE = "ours_scaled", 0.6
OTHERS = ("same_language", "other_language")  # repositories whose `ours` is a control


@dataclass(frozen=True)
class Place:
    """A repository: its public name, a commit, its main language; `measured`: not only trained on, as a control."""

    name: str
    commit: str
    language: str
    measured: bool

    @property
    def short(self) -> str:
        """The folder's name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class RealJob:
    """A piece of work: `kind` prepare, train or measure; `arm`, `seed`, `rate` where they matter. `others`: the
    adapters of other repositories to measure, control → key of a training."""

    kind: str
    place: Place
    arm: str = "ours"
    seed: int = 1
    rate: float = 0.0
    tokens: int = 0
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name, and that of its run's folder."""
        parts = {
            "prepare": (self.arm,),
            "train": (self.arm, str(self.seed), f"{self.rate:g}"),
            "measure": (str(self.seed),),
        }
        return "--".join((self.kind, self.place.short, *parts[self.kind]))

    def overrides(self, base: str) -> tuple[str, ...]:
        """The settings of its arm."""
        training = (
            f"training.seed={self.seed}",
            f"training.max_tokens_per_epoch={max(1, self.tokens // EPOCHS)}",
            *((f"training.base_learning_rate={self.rate}",) if self.rate else ()),
        )
        return (f"model.name={base}", *COMMON, *ARMS[self.arm], *training)


def arms_of(seed: int) -> list[str]:
    """The arms of a seed: all of the first, the main ones of others."""
    return [arm for arm in ARMS if seed == 1 or arm != "plain_no_fim"]


def amount_of(blocks: int) -> Amount:
    """How much is measured: `blocks` of lines, and of the tasks and of neutral code in proportion."""
    scored, written = max(1, blocks // 2), max(1, 3 * blocks // 8)
    return Amount("benchmark", 0, blocks, 0, (), 0, 0, (), 0, blocks + 2, scored=scored, written=written)


def read_places(file: Path) -> list[Place]:
    """Read the list of repositories."""
    return [Place(**one) for one in json.loads(file.read_text())]


def controls_of(place: Place, places: Sequence[Place]) -> dict[str, Place]:
    """Return the first repository in the same language, if there is one, and the next measured one in another."""
    at = places.index(place)
    following = [*places[at + 1 :], *places[:at]]
    same = [one for one in following if one.language == place.language]
    other = [one for one in following if one.language != place.language and one.measured]
    return {name: some[0] for name, some in zip(OTHERS, (same, other), strict=True) if some}


class RealBench:
    """All jobs on a base, main arms first."""

    def __init__(
        self, work: Path, base: str, places: Sequence[Place], sources: Mapping[str, str], tokens: int, blocks: int
    ) -> None:
        self.work, self.base, self.places, self._sources, self._tokens = work, base, places, sources, tokens
        self._blocks, self.amount = blocks, amount_of(blocks)
        (work / "logs").mkdir(parents=True, exist_ok=True)

    def train_job(self, place: Place, arm: str, seed: int, rate: float) -> RealJob:
        return RealJob("train", place, arm, seed, rate, self._tokens)

    def rate_jobs(self) -> Iterator[RealJob]:
        """The search for learning rates: `ours` and `plain` on the first repository."""
        for arm in ("ours", "plain"):
            for rate in RATES:
                yield self.train_job(self.places[0], arm, 1, rate)

    def main_jobs(self, seeds: int, rates: Mapping[str, float]) -> Iterator[RealJob]:
        """`ours` everywhere, then the other arms and the measuring; first all with seed 1."""
        measured = [place for place in self.places if place.measured]
        for place in self.places:
            yield self.train_job(place, "ours", 1, rates["ours"])
        for seed in range(1, seeds + 1):
            for place in measured:
                for arm in arms_of(seed):
                    yield self.train_job(place, arm, seed, rates["ours" if arm == "ours" else "plain"])
                others = controls_of(place, self.places)
                keys = {name: self.train_job(one, "ours", 1, rates["ours"]).key for name, one in others.items()}
                yield RealJob("measure", place, seed=seed, rate=rates["ours"], tokens=self._tokens, others=keys)

    def rates(self) -> dict[str, float]:
        """The better rate of each searched arm, by the validation loss of its best epoch; the first before that."""
        found = {}
        for arm in ("ours", "plain"):
            jobs = [job for job in self.rate_jobs() if job.arm == arm and self.is_done(job)]
            best = min(jobs, key=self._validated, default=None)
            found[arm] = best.rate if best else RATES[0]
        return found

    def _validated(self, job: RealJob) -> float:
        loss = self.record(job)["validation"]
        return float("inf") if loss is None else float(loss)

    def record(self, job: RealJob) -> dict[str, Any]:
        """What a finished job noted, or nothing."""
        try:
            found: dict[str, Any] = json.loads((self.work / "done" / f"{job.key}.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def identity(self, job: RealJob) -> dict[str, Any]:
        """What decides its result: if that changes, it is done again."""
        about = {"preparation": PREPARATION_VERSION, "commit": job.place.commit, "base": self.base}
        if job.kind == "measure":
            return {**about, "amount": asdict(self.amount), "against": self.adapters(job)}
        return {**about, "settings": list(job.overrides(self.base))}

    def adapters(self, job: RealJob) -> dict[str, list[Any]]:
        """Run → [arm, seed] of everything measured on a repository up to a seed, the others' seeds last."""
        rates = {"ours": job.rate, "plain": self.rates()["plain"]}
        found: dict[str, list[Any]] = {}
        for seed in range(1, job.seed + 1):
            for arm in arms_of(seed):
                key = self.train_job(job.place, arm, seed, rates["ours" if arm == "ours" else "plain"]).key
                found[key] = [arm, seed]
                if arm == "ours":
                    found[f"{key}--scaled"] = [SCALED, seed]
        return {**found, **{key: [name, 1] for name, key in job.others.items()}}

    def is_done(self, job: RealJob) -> bool:
        """Whether its result is there, and still what it would be now."""
        return self.record(job).get("identity") == json.loads(json.dumps(self.identity(job)))

    def run(self, jobs: Iterable[RealJob]) -> int:
        """Do the jobs that aren't done; the number of failed ones."""
        failed = 0
        for job in jobs:
            if job.kind == "train":
                failed += self.run([replace(job, kind="prepare", seed=1, rate=0.0, tokens=0)])
            if not self.is_done(job):
                failed += self._one(job)
        return failed

    def _one(self, job: RealJob) -> bool:
        about = {
            "work": str(self.work),
            "base": self.base,
            "job": asdict(job),
            "tokens": self._tokens,
            "blocks": self._blocks,
            "places": [asdict(one) for one in self.places],
            "source": self._sources.get(job.place.name),
        }
        cache, cores = os.environ.get("LONGREPO_CACHE", str(self.work / "cache")), str(os.cpu_count() or 1)
        began, log = time.monotonic(), self.work / "logs" / f"{job.key}.log"
        with log.open("a") as stream:
            done = subprocess.run(
                [sys.executable, str(HERE / "real_base.py"), json.dumps(about)],
                env={"OMP_NUM_THREADS": cores, **os.environ, "LONGREPO_CACHE": cache},
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode == 130:
            raise KeyboardInterrupt
        said = f"failed, see {log}" if done.returncode else "done"
        print(f"{job.key}: {said} in {time.monotonic() - began:.0f} s", flush=True)
        return bool(done.returncode)

    def print_plan(self, seeds: int) -> None:
        """Print every job, whether it is done, and the hours that it took or should take."""
        left = 0.0
        for key, job in {job.key: job for job in (*self.rate_jobs(), *self.main_jobs(seeds, self.rates()))}.items():
            seconds, done = self._seconds(job), self.is_done(job)
            left += 0 if done else seconds
            print(f"{'done ' if done else 'to do'} {seconds / 3600:5.2f} h  {key}")
        print(f"to do: {left / 3600:.1f} h (learning rates are known once the first {len(RATES) * 2} are done)")

    def _seconds(self, job: RealJob) -> float:
        """Seconds that a job took, or should take: by those of its kind that are done, else by the rates above."""
        own = self.record(job).get("seconds")
        if own is not None:
            return float(own)
        same = [json.loads(file.read_text()) for file in (self.work / "done").glob(f"{job.kind}--*.json")]
        if same:
            return float(sum(one["seconds"] for one in same) / len(same))
        if job.kind == "train":
            return self._tokens / TRAINED + (EPOCHS + 1) * 4 * 2 * LENGTH / SCORED  # with its validations
        much = self.amount  # five contexts of a block; four scopes, edits, messages, callees and arguments
        scored = much.blocks * 5 * LENGTH + much.neutral * 512 + (much.scored + much.written) * 8 * LENGTH
        models = len(arms_of(job.seed)) + 1 + (len(job.others) + 1 if job.seed == 1 else 0)
        return models * scored / SCORED


def do_prepare(bench: RealBench, job: RealJob, repository: Path) -> dict[str, Any]:
    """Prepare the sequences of an arm."""
    folder = bench.work / "data" / job.place.short / job.arm
    shutil.rmtree(folder, ignore_errors=True)
    made = longrepo.prepare(repository, folder, max_sequence_length=LENGTH, revision=job.place.commit,
                            overrides=job.overrides(bench.base), progress=TerminalProgress())  # fmt: skip
    return {"content": made.header.content_sha256, "counts": made.header.counts}


def do_train(bench: RealBench, job: RealJob) -> dict[str, Any]:
    """Train an arm; go on where it was stopped, unless what it is trained on has changed."""
    sequences = bench.work / "data" / job.place.short / job.arm / SEQUENCES_FOLDER
    output = bench.work / "runs" / job.key
    begun = [read_sequences(sequences).content_sha256, *job.overrides(bench.base)]
    resume = "auto" if (output / "last").exists() and bench.record(job).get("begun") == begun else None
    if resume is None:
        shutil.rmtree(output, ignore_errors=True)
        write_text_file(bench.work / "done" / f"{job.key}.json", json.dumps({"begun": begun}))
    done = longrepo.train(sequences, output, overrides=job.overrides(bench.base), resume=resume, device="cpu",
                          engine="torch")  # fmt: skip
    if done.exit_status:
        raise SystemExit(done.exit_status)
    history = read_run_record(output).history
    best = history.best
    return {
        "begun": begun,
        "tokens": history.tokens,
        "updates": len(history.updates),
        "training_seconds": history.seconds,
        "validation": best[1].loss if best else None,
    }


def write_scaled(run: Path, output: Path) -> None:
    """Write a run's folder with its adapter at a share of its strength, as `lora.final_scale` does."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(run / "adapter", output / "adapter")
    scale_adapter(output / "adapter", SCALE)
    (output / "last").mkdir()
    for name in (SETTINGS_FILE, f"last/{STATE}"):  # the second says what it was trained on
        shutil.copyfile(run / name, output / name)


def do_measure(bench: RealBench, job: RealJob, repository: Path) -> dict[str, Any]:
    """Measure everything on a repository's lines; return where each adapter's rows are."""
    adapters = bench.adapters(job)
    runs = [bench.work / "runs" / key for key in adapters]
    for key, (arm, _) in adapters.items():
        if arm == SCALED:
            write_scaled(bench.work / "runs" / key.removesuffix("--scaled"), bench.work / "runs" / key)
    choice = choose_engine("torch", "cpu", find_artifact(runs[0]).settings.training.weights)
    sequences = bench.work / "data" / job.place.short / "ours" / SEQUENCES_FOLDER
    loaded = EvaluationRun.of(runs[0], sequences, [repository], "test", choice, "cpu", [LENGTH], against=runs[1:])
    for note in loaded.notes:
        print(note)
    found = loaded.measured(bench.amount, [], bench.work / "results" / f"{job.key}.json", TerminalProgress())
    stores = [MEASUREMENTS_FILE, *(f"measurements-{one.adapter[:12]}.jsonl" for one in found.against)]
    return {
        "about": dict(found.about),
        "notes": list(found.notes),
        "stores": [[*what, f"{runs[0].name}/{store}"] for what, store in zip(adapters.values(), stores, strict=True)],
    }


def main(given: Mapping[str, Any]) -> None:
    """Do one job, and note that it is done."""
    places = [Place(**one) for one in given["places"]]
    job = RealJob(**{**given["job"], "place": Place(**given["job"]["place"])})
    bench = RealBench(Path(given["work"]), given["base"], places, {}, given["tokens"], given["blocks"])
    began = time.monotonic()
    former = bench.record(job).get("seconds_before", 0.0)
    repository = clone(bench.work, job.place.name, job.place.commit, given["source"])
    try:
        if job.kind == "prepare":
            result = do_prepare(bench, job, repository)
        elif job.kind == "train":
            result = do_train(bench, job)
        else:
            result = do_measure(bench, job, repository)
    except InputError as error:
        raise SystemExit(f"{job.key}: {error}") from None
    seconds = round(former + time.monotonic() - began, 1)
    record = {"job": asdict(job), "identity": bench.identity(job), "seconds": seconds, **result}
    write_text_file(bench.work / "done" / f"{job.key}.json", json.dumps(record, indent=1) + "\n")
    if job.kind == "train":
        for moments in (bench.work / "runs" / job.key).rglob(OPTIMIZER):  # only a run that goes on needs them
            moments.unlink()


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
