"""What other files are worth to an untuned base: held-out lines behind different contexts, before anything is trained.

    python benchmarks/data/related_context.py --work /tmp/related --repository flask=../flask.git --blocks 48

Each held-out block (new lines of a commit) is scored behind up to --length tokens: the beginning of its own file in
half of the room, and other files in front of it:

none        nothing else
random      other files of the tree before the commit, in the order of a hash
neighbours  whole files, nearest first by imports, then by name and folder
related     what the lines above the block use, as training, `evaluate`, `generate` and `serve` show it
retrieved   pieces of 20 lines found by BM25 with the 20 lines above the block

Rows are kept in DIR/MODEL-NAME.jsonl and skipped when it is run again. The table gives nats a token over all scored
lines, over cross-file lines, and differences with 95 % intervals over commits (paired bootstrap) to none and to random.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.corpus import candidates_by_split
from longrepo.data.dedup import TrainingTexts
from longrepo.data.held_out import TargetChooser
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.splits import split_by_ancestry
from longrepo.data.template import FilePiece
from longrepo.data.tokenizer_loading import base_tokenizer
from longrepo.engines.base import Batch, Engine
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.evaluation import context_loss
from longrepo.evaluation.blocks import HeldOutBlock
from longrepo.evaluation.context_loss import CROSS_FILE_CLASSES, LineClassifier, TargetSpan, lay_out_prompt
from longrepo.evaluation.scoring import paired_intervals
from longrepo.repository.repository import Repository
from longrepo.utils.cache import SqliteCache

SEED = 0
BLOCK_TOKENS = 400
Row = dict[str, Any]


def _neighbours(place: TargetSpan, seed: int) -> Iterator[FilePiece]:
    tree = place.held.tree
    return (FilePiece.whole(tree.texts[path], False) for path in tree.related(place.of.path, place.held.imports_above))


context_loss.CONTEXT_SOURCES["neighbours"] = _neighbours
ARMS = ("none", "random", "neighbours", "related", "retrieved")


def held_out_blocks(
    path: Path, name: str, settings: Settings, cache: SqliteCache, most: int, snapshot: bool
) -> list[HeldOutBlock]:
    """Choose blocks of the commits that the default settings hold out. Their context is the tree of the commit's
    parent, or with `snapshot` that of the last commit of training."""
    repository = Repository.open(path)
    head = repository.resolve()
    trees = RepoTrees(repository, head, base_tokenizer(settings), settings, cache, name)
    splits = split_by_ancestry(repository, settings.data, head, cache, lambda _: None)
    shown = TrainingTexts(trees.reader.tokenizer, trees.at(splits.train).texts.values())
    chooser = TargetChooser(trees.reader, shown, BLOCK_TOKENS, SEED)
    candidates = candidates_by_split(trees.reader, splits, settings.data.max_commits)
    chosen = chooser.choose({"test": candidates["test"] + candidates["validation"]}, {"test": most})["test"]
    records = {
        record.id: record
        for split in candidates
        for record in splits.held_out(repository, split, settings.data.max_commits, cache)
    }
    blocks = []
    for target in chosen:
        record = records[target.commit or ""]
        others = {one.path: one.after for one in record.changes if one.after and one.path != target.of.path}
        before = splits.train if snapshot else record.parent or splits.train
        blocks.append(HeldOutBlock(target, before, trees, others))
    return sorted(blocks, key=lambda one: (one.before, one.key))


def measure(held: HeldOutBlock, arm: str, length: int, engine: Engine) -> Row:
    """Score a block behind a context."""
    place = TargetSpan.of_block(held)
    layout = lay_out_prompt(place, length, arm, SEED, held.trees.reader.tokenizer)
    assert layout is not None
    wanted = np.zeros(len(layout.ids), np.float32)
    wanted[layout.start :] = held.scored
    losses = engine.score(Batch.of([(layout.ids, wanted)], engine.pad_id))[0][layout.start :].astype(float)
    classes, cross = LineClassifier(held), np.zeros(len(losses), bool)
    for row in held.rows:
        if classes.of(row) in CROSS_FILE_CLASSES:
            at = [held.target.of.row_token(one) - held.target.start for one in (row, row + 1)]
            cross[at[0] : at[1]] = True
    scored = held.scored
    return {
        "arm": arm,
        "block": held.key,
        "group": held.group,
        "tokens": int(scored.sum()),
        "loss": float(losses[scored].sum()),
        "cross_tokens": int((scored & cross).sum()),
        "cross_loss": float(losses[scored & cross].sum()),
        "prompt": layout.start,
        "files": list(dict.fromkeys(part.of.path for part in layout.parts if part.of.path != held.path)),
    }


def read_rows(file: Path) -> list[Row]:
    """The rows that are done."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def table(name: str, rows: Sequence[Row], arms: Sequence[str]) -> str:
    """Losses and differences, in nats a token."""
    against = [one for one in ("none", "random") if one in arms]
    of_arm = {arm: {row["block"]: row for row in rows if row["arm"] == arm} for arm in arms}
    blocks = sorted(set.intersection(*(set(found) for found in of_arm.values())))
    lines = [f"{name}: {len(blocks)} blocks of {len({of_arm[arms[0]][one]['group'] for one in blocks})} commits"]
    for arm in arms:
        cells = []
        for prefix in ("", "cross_"):
            counts = [of_arm[arm][one][f"{prefix}tokens"] for one in blocks]
            groups = [of_arm[arm][one]["group"] for one in blocks]
            losses = [[of_arm[one_arm][one][f"{prefix}loss"] for one in blocks] for one_arm in (arm, *against)]
            cell = f"{sum(losses[0]) / max(1, sum(counts)):.3f}"
            for other in losses[1:]:
                *_, (value, low, high) = paired_intervals([other, losses[0]], counts, groups)
                cell += f"  {value:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells.append(cell)
        lines.append(f"  {arm:12} " + "  |  ".join(cells))
    return "\n".join(lines)


def missing_rows(
    given: argparse.Namespace, path: Path, name: str, rows: Sequence[Row], engine: Engine, settings: Settings
) -> Iterator[Row]:
    """Yield the rows that aren't done."""
    done = {(row["arm"], row["block"]) for row in rows}
    cache = SqliteCache(given.work / "cache")
    blocks = held_out_blocks(path, name, settings, cache, given.blocks, given.snapshot)
    if given.first:
        blocks.sort(key=lambda one: (-int(one.scored.sum()), one.key))
        blocks = sorted(blocks[: given.first], key=lambda one: (one.before, one.key))
    for held in blocks:
        for arm in given.arm or ARMS:
            if (arm, held.key) not in done:
                yield measure(held, arm, given.length, engine)
    cache.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--first", type=int, metavar="N", help="measure only the N blocks with the most lines")
    parser.add_argument("--snapshot", action="store_true", help="context from the last commit of training: faster")
    parser.add_argument("--length", type=int, default=2048, metavar="TOKENS")
    parser.add_argument("--arm", action="append", choices=ARMS, help="repeatable (default: all)")
    parser.add_argument("--again", action="append", default=[], metavar="ARM", help="measure it anew")
    parser.add_argument("--show", action="store_true", help="only show what is done")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    settings = load_settings(None, [f"model.name={given.model}"])
    engine = (
        None if given.show else create_engine(choose_engine("torch", "cpu"), settings, base_tokenizer(settings), "cpu")
    )
    for name, _, path in (one.partition("=") for one in given.repository):
        file = given.work / f"{given.model.replace('/', '_')}-{name}.jsonl"
        rows = [row for row in read_rows(file) if row["arm"] not in given.again]
        if engine is not None:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            with file.open("a") as out:
                for row in missing_rows(given, Path(path), name, rows, engine, settings):
                    rows.append(row)
                    out.write(json.dumps(row) + "\n")
                    out.flush()
        print(table(name, rows, given.arm or ARMS), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
