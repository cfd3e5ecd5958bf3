"""How fast `--help` and errors in arguments and settings answer: each must take under a second.

    python benchmarks/answer_times.py [--repeats 5]

Exit status 1 if the median of any is a second or more.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CASES = {
    "prepare --help": (["prepare_long_context.py", "--help"], 0),
    "tokenize --help": (["tokenizers/git_tokenizer_rich.py", "--help"], 0),
    "train --help": (["training/model_trainer_unified.py", "--help"], 0),
    "pipeline --help": (["run_pipeline_dynamic.py", "--help"], 0),
    "an unknown option": (["run_pipeline_dynamic.py", "--rep", "."], 2),
    "a wrong setting": (["run_pipeline_dynamic.py", "--repo", ".", "--set", "lora.rr=3"], 2),
    "no such settings file": (["training/model_trainer_unified.py", "--config", "nowhere.yaml"], 2),
    "no such sequences": (["training/model_trainer_unified.py", "--sequences", "nowhere.json"], 2),
    "not a repository": (["prepare_long_context.py", "--repo", "/", "--output-dir", "nowhere"], 2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    table = Table(title=f"answer times, {repeats} runs each, Python {sys.version.split()[0]}")
    for column in ("case", "median, s", "slowest, s"):
        table.add_column(column, justify="left" if column == "case" else "right")
    slow = False
    for name, ((door, *arguments), status) in CASES.items():
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, ROOT / door, *arguments], cwd=ROOT, capture_output=True, text=True)
            times.append(time.perf_counter() - began)
            if done.returncode != status:
                print(f"{name}: status {done.returncode}, expected {status}\n{done.stderr}", file=sys.stderr)
                return 1
        slow |= statistics.median(times) >= 1
        table.add_row(name, f"{statistics.median(times):.2f}", f"{max(times):.2f}")
    Console().print(table)
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
