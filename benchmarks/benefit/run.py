"""Does each ingredient help? Plain LoRA on shuffled chunks against longrepo's defaults, and those with one thing left
out, on five public repositories.

    python benchmarks/benefit/run.py --work DIR [--repos NAME=PATH …] [--only PART] [--seeds 3]
    python benchmarks/benefit/run.py --work DIR --table
    python benchmarks/benefit/run.py --base smollm2-135m …    # on a real base, with controls: see real_base.py

Repositories are those of `repositories.json`, cloned from their public place or from a local path. A run is a process
of its own with one thread; its result is one file in DIR/results, and a run whose result is there isn't done again.

Equal in every arm: the base (embedded), LoRA's modules, rank and alpha, optimizer, warm-up and cosine decay, engine,
precision, the tokens trained on (200,000, as near as whole sequences allow), the number of updates (as near as whole
micro-batches allow; both are in the table), the snapshot and the redaction, the lines measured on, the number of
learning rates tried (four for `plain`, four for `ours`, on one repository, by validation).
Not equal: what the tokens are. `plain` sees code alone, at 2,048 tokens or to the end of a file, with one cosine;
`ours` sees prose and history too, a tenth of the loss weight on context, and three phases of growing length, each with
its own warm-up. An arm with something left out has the learning rate of `ours`.

Every arm is measured in the layout that serves it best, chosen on validation: structure tokens (where it has them), the
base's own file separator, a comment with the path, or nothing but an end token between files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from arms import RATES, RATES_ON, TUNED, Job, ablation_jobs, folder_of, main_jobs, rate_jobs, tried_jobs
from results import Result

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--repos", nargs="*", default=[], metavar="NAME=PATH", help="where to clone from")
    parser.add_argument("--list", type=Path, help="the repositories, as JSON (default: those beside this file)")
    parser.add_argument("--only", choices=["rates", "tried", "main", "ablations"])
    parser.add_argument("--seeds", type=int, help="default: 3, with --base 2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--base", default="embedded", help="a real base: other repositories and arms")
    parser.add_argument("--plan", action="store_true", help="with --base: print the jobs and the hours, run nothing")
    parser.add_argument("--tokens", type=int, default=100_000, help="with --base: trained on in each run")
    parser.add_argument("--blocks", type=int, default=16, help="with --base: held-out blocks of each repository")
    options = parser.parse_args()
    if options.base != "embedded":
        return run_real_base(options)
    if options.table:
        from table import show

        show(options.work)
        return 0
    commits: dict[str, str] = json.loads((options.list or HERE / "repositories.json").read_text())
    sources = dict(one.split("=", 1) for one in options.repos)
    bench = Bench(options.work.resolve(), commits, sources, options.jobs)
    return bench.walk(options.only, options.seeds or 3)


def run_real_base(options: argparse.Namespace) -> int:
    """Run, plan or print the benchmark on a real base. The number of failed jobs."""
    from real_base import RealBench, read_places

    places = read_places(options.list or HERE / "real_repositories.json")
    sources, seeds = dict(one.split("=", 1) for one in options.repos), options.seeds or 2
    bench = RealBench(options.work.resolve(), options.base, places, sources, options.tokens, options.blocks)
    if options.table:
        from real_table import show_real

        show_real(bench.work)
    elif options.plan:
        bench.print_plan(seeds)
    else:
        try:
            failed = bench.run(bench.rate_jobs())
            return failed or bench.run(bench.main_jobs(seeds, bench.rates()))
        except KeyboardInterrupt:
            print("stopped: the same command goes on from there")
            return 130
    return 0


class Bench:
    """Jobs, one after the other or a few at a time."""

    def __init__(self, work: Path, commits: Mapping[str, str], sources: Mapping[str, str], jobs: int) -> None:
        self._work, self._commits, self._sources, self._jobs = work, commits, sources, jobs
        (work / "logs").mkdir(parents=True, exist_ok=True)

    def walk(self, only: str | None, seeds: int) -> int:
        """Rates, then main and ablations so that what there is makes sense at any time. The number of failed jobs."""
        failed = self._all(rate_jobs())
        if failed or only == "rates":
            return failed
        rates = {arm.name: self._best_rate(arm.name) for arm in TUNED}
        print("learning rates:", ", ".join(f"{name} {rate:g}" for name, rate in rates.items()), flush=True)
        if only == "tried":
            return self._all(tried_jobs(rates))
        names = list(self._commits)
        if only != "ablations":
            failed += self._all(main_jobs(names, 1, rates))
        if only != "main":
            failed += self._all(ablation_jobs(names, 1, rates))
        if only != "ablations":
            failed += self._all(main_jobs(names, seeds, rates))
        if only != "main":
            for seed in range(2, seeds + 1):
                failed += self._all(ablation_jobs(names, seed, rates))
        return failed

    def _best_rate(self, arm: str) -> float:
        def loss(rate: float) -> float:
            return Result(json.loads(self._result(Job(RATES_ON, arm, 1, rate)).read_text())).chosen_by

        return min(RATES, key=loss)

    def _result(self, job: Job) -> Path:
        return folder_of(self._work, "results") / f"{job.key}.json"

    def _all(self, jobs: Iterable[Job]) -> int:
        with ThreadPoolExecutor(self._jobs) as pool:
            return sum(pool.map(self._one, jobs))

    def _one(self, job: Job) -> bool:
        """Do a job in a process of its own; whether it failed."""
        if self._result(job).exists():
            return False
        about = {
            "work": str(self._work),
            "job": asdict(job),
            "commit": self._commits[job.repository],
            "source": self._sources.get(job.repository),
        }
        cache = os.environ.get("LONGREPO_CACHE", str(self._work / "cache"))
        threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        began = time.monotonic()
        with (self._work / "logs" / f"{job.key}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, str(HERE / "one.py"), json.dumps(about)],
                env={**os.environ, **threads, "LONGREPO_CACHE": cache},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        said = f"failed, see {log.name}" if done.returncode else "done"
        print(f"{job.key}: {said} in {time.monotonic() - began:.0f} s", flush=True)
        return bool(done.returncode)


if __name__ == "__main__":
    status = main()
    sys.exit(status if status == 130 else min(status, 1))
