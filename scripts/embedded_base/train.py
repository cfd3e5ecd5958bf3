"""Train the embedded base: pack its sequences, and hand them to `longrepo pretrain`; resumable.

    python train.py WORK --updates 1500 [--seed 0] [--pack-only]

Three phases, of 512, 1,024 and 2,048 tokens, take 45, 17 and 38 % of the updates, four sequences each. The order is
easy first with some chance, and easy is what is packed early: there the reach, the longest distance over which a block
of random identifiers returns, is 16 tokens, and it grows evenly (by factors) to 2,048 at the end. Run it again after
any interruption.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from packing import Corpus, sequence

from longrepo.data.dataset import write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer_loading import load_tokenizer

SHARES = {512: 0.45, 1024: 0.17, 2048: 0.38}  # tokens a sequence → of the updates
AN_UPDATE = 4  # sequences
HELD = 16  # sequences of each length, of held-out documents
FIRST_REACH, LAST_REACH = 16, 2048  # tokens
SETTINGS = {
    "data.structure_tokens": "none",
    "data.replay_share": "0",
    "training.gradient_accumulation_steps": str(AN_UPDATE),
    "training.save_every_steps": "200",
    "long_context.phase1_max_length": "512",
    "long_context.phase1_epochs": "1",
    "long_context.phase2_min_length": "513",
    "long_context.phase2_max_length": "1024",
    "long_context.phase2_epochs": "1",
    "long_context.phase2_lr_multiplier": "0.7",
    "long_context.phase3_min_length": "1025",
    "long_context.phase3_max_length": "2048",
    "long_context.phase3_epochs": "1",
    "long_context.phase3_lr_multiplier": "0.4",
    "long_context.phase3_enabled": "true",
}


def packed(work: Path, updates: int, seed: int) -> Iterator[SequenceRow]:
    """The sequences of every phase, then the held-out ones."""
    corpus, held, begun = Corpus(work), Corpus(work, "held-out"), 0.0
    for length, share in SHARES.items():
        count = AN_UPDATE * max(1, round(share * updates))
        for number in range(count):
            done = begun + share * number / count
            reach = int(FIRST_REACH * (LAST_REACH / FIRST_REACH) ** done)
            ids, _ = sequence(corpus, random.Random(f"{seed}/{length}/{number}"), length, reach)
            yield row(ids, done, "train")
        begun += share
        for number in range(HELD):
            ids, _ = sequence(held, random.Random(f"held/{length}/{number}"), length, FIRST_REACH)
            yield row(ids, 0.0, "validation")


def row(ids: list[int], score: float, split: str) -> SequenceRow:
    """Every token but the first is a target; the score decides the order within a phase."""
    weights = np.ones(len(ids), np.float32)
    weights[0] = 0
    return SequenceRow(np.array(ids, np.int32), weights, "window", "easy", score, {}, (), (), "Mixed", split, "packed")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pack-only", action="store_true")
    options = parser.parse_args()
    output, tokenizer, sequences = (options.work / name for name in ("training", "tokenizer", "packed"))
    command = [sys.executable, "-m", "longrepo", "pretrain", "--output", str(output)]
    if (output / "pretrain.yaml").exists():
        return subprocess.run([*command, "--resume", "auto"]).returncode
    of = TokenizerFacts.of(load_tokenizer(str(tokenizer), structure_tokens="none"))
    header = Header(of, [RepositoryFacts("packed", "")], made_by="embedded base", seed=options.seed)
    write_sequences(sequences, packed(options.work, options.updates, options.seed), header)
    if options.pack_only:
        return 0
    given = SETTINGS | {"training.seed": str(options.seed)}
    settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    what = ["--preset", "embedded", "--tokenizer", str(tokenizer), "--input", str(sequences)]
    return subprocess.run([*command, *what, *settings]).returncode


if __name__ == "__main__":
    sys.exit(main())
