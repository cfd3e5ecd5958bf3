"""Does the leak check bite? It must find no leak in prepared sequences, and some in a naive split of their rows.

The naive split takes the training rows and calls one in ten of them test, at random, with every token of weight 1
scored: what a split by sequence, in place of one by ancestry, would measure.

python benchmarks/data/leaks.py SEQUENCES … [--seed 42] [--output leaks.json]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longrepo.data.contamination import HELD_OUT_SPLITS, LEAK_KINDS, LeakCheck, check_leaks
from longrepo.data.dataset import SequenceFile, read_sequences, write_sequences
from longrepo.data.metadata import tokenizer_of
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer import RepoTokenizer

NAIVE_SHARE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path, nargs="+")
    parser.add_argument("--model", help="where their tokenizer is")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    figures: dict[str, dict[str, dict[str, int]]] = {}
    for path in given.sequences:
        clean, leaky, name = compare(path, given.model, given.seed)
        figures[name] = {
            what: {"scored lines": one.scored_lines, "leaks": len(one.leaks), "rows with a leak": one.rows}
            for what, one in (("prepared", clean), ("naive", leaky))
        }
        if given.output:
            given.output.write_text(json.dumps(figures, indent=1) + "\n")
        assert leaky.leaks, "the check doesn't bite"
        assert not clean.leaks, f"{len(clean.leaks)} leaks; see longrepo check-leaks {path}"


def compare(path: Path, model: str | None, seed: int) -> tuple[LeakCheck, LeakCheck, str]:
    """The check of prepared sequences and of a naive split of them, and what they are of; prints both."""
    prepared = read_sequences(path)
    tokenizer = tokenizer_of(prepared.header, model)
    table = Table(title=f"{path}: {len(prepared):,} rows, {prepared.lengths().sum():,} tokens")
    for name in ("split", "rows", "scored lines", *LEAK_KINDS, "rows with a leak", "s"):
        table.add_column(name, justify="right", no_wrap=name in LEAK_KINDS)
    clean = add_check(table, "prepared", prepared, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        naive = write_naive(Path(folder) / "naive", prepared, seed)
        leaky = add_check(table, f"naive {NAIVE_SHARE:.0%}", naive, tokenizer)
    Console().print(table)
    return clean, leaky, prepared.header.name


def add_check(table: Table, name: str, file: SequenceFile, tokenizer: RepoTokenizer) -> LeakCheck:
    """Run the check and add its row."""
    started = time.perf_counter()
    check = check_leaks(file, tokenizer)
    seconds = time.perf_counter() - started
    counts = [sum(check.held_out_rows.values()), check.scored_lines, *map(check.count, LEAK_KINDS), check.rows]
    table.add_row(name, *[f"{count:,}" for count in counts], f"{seconds:.1f}")
    return check


def write_naive(path: Path, file: SequenceFile, seed: int) -> SequenceFile:
    """The training rows alone, one in ten relabelled as test."""
    draw = random.Random(seed)

    def rows() -> Iterator[SequenceRow]:
        for index, split in enumerate(file.column("split")):
            if split not in HELD_OUT_SPLITS:
                row = file.row(index)
                row["difficulty_parts"] = json.loads(row["difficulty_parts"])
                row["split"] = "test" if draw.random() < NAIVE_SHARE else "train"
                row["input_ids"], row["loss_weights"] = file.tokens(index), file.weights(index)
                yield SequenceRow(**row)

    write_sequences(path, rows(), file.header)
    return read_sequences(path)


if __name__ == "__main__":
    main()
