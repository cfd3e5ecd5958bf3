"""Measure a model folder on held-out text, and hold it to its gate.

    python gate.py WORK MODEL [--quick]      writes WORK/gate.json; exit status 1 where the gate is missed

The gate: (1) the second copy of a block of random identifiers, 1,000 tokens after the first, has at
most 0.25 times its loss; (2) files of the same directory before a held-out file lower its loss more
than files of another directory of that language do: the 95 % interval of the difference is above 0.
Held-out files and their held-out neighbours were in no training sequence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from packing import Corpus
from probes import copy_probe, losses
from tokenizer import FILE_SEP, REPO_NAME
from transformers import AutoModelForCausalLM

RATIO = 0.25
TARGET, CONTEXT = 512, 1024  # tokens


def interval(*columns: np.ndarray, statistic=np.mean, groups: list | None = None, draws: int = 2000) -> list[float]:
    """95 % percentile bootstrap over rows, or over whole groups of rows."""
    generator = np.random.default_rng(0)
    names = np.arange(len(columns[0])) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    values = []
    for _ in range(draws):
        rows = np.concatenate([members[n] for n in generator.integers(len(members), size=len(members))])
        values.append(statistic(*(column[rows] for column in columns)))
    return [round(float(value), 4) for value in np.percentile(values, [2.5, 97.5])]


def ratio_of_sums(above: np.ndarray, below: np.ndarray) -> float:
    """The ratio of two columns' sums."""
    return above.sum() / below.sum()


def by_language(model: torch.nn.Module, held: Corpus, most: int) -> dict[str, dict]:
    """Loss by language on the first 1,024 tokens of held-out files of at least 128."""
    out = {}
    for language, (numbers, _) in sorted(held.languages.items()):
        numbers = [n for n in numbers if held.rows[n]["length"] >= 128]
        random.Random(0).shuffle(numbers)
        sums, counts, characters = [], [], 0
        for number in numbers[:most]:
            row = held.rows[number]
            tokens = held.document(number)[:1024]
            sequence = [REPO_NAME, *held.tokenizer.encode(row["repository"]).ids, FILE_SEP, *tokens]
            of_file = losses(model, [sequence])[0][-len(tokens) :]
            sums.append(of_file.sum())
            counts.append(len(of_file))
            characters += len(held.tokenizer.decode(tokens))
        nats, tokens = np.array(sums), np.array(counts)
        out[language] = {
            "nats_per_token": round(float(nats.sum() / tokens.sum()), 3),
            "files": len(nats),
            "tokens": int(tokens.sum()),
            "interval": interval(nats, tokens, statistic=ratio_of_sums),
            "bits_per_character": round(float(nats.sum() / characters / np.log(2)), 3),
        }
    return out


def copying(model: torch.nn.Module, held: Corpus, count: int) -> dict[str, dict]:
    """The copy probe at several gaps; the gate's, 1,000, on `count` blocks, the others on a quarter."""
    out = {}
    for gap in (100, 500, 1000, 1800, 3000):
        first, second = copy_probe(model, held, count if gap == 1000 else count // 4, gap)
        out[str(gap)] = {
            "first": round(float(first.mean()), 3),
            "second": round(float(second.mean()), 3),
            "ratio": round(float(ratio_of_sums(second, first)), 4),
            "blocks": len(first),
            "interval": interval(second, first, statistic=ratio_of_sums),
        }
    return out


def filled(held: Corpus, numbers: list[int]) -> list[int]:
    """Files end to end, each after `<file_sep>`, cut at CONTEXT tokens."""
    out: list[int] = []
    for number in numbers:
        out += [FILE_SEP, *held.document(number)[:600]]
        if len(out) >= CONTEXT:
            break
    return out[:CONTEXT]


def in_context(model: torch.nn.Module, held: Corpus, most: int) -> dict:
    """Loss of the same TARGET tokens after nothing, after another directory's files, after neighbours."""
    draw, targets = random.Random(0), []
    for number, row in enumerate(held.rows):
        near = [n for n in held.neighbors(number) if n != number]
        if row["length"] >= TARGET and sum(min(600, held.rows[n]["length"]) for n in near) >= CONTEXT:
            targets.append((number, near))
    draw.shuffle(targets)
    kept, groups, conditions = [], [], {"none": [], "random": [], "related": []}
    for number, near in targets:
        row = held.rows[number]
        same = held.languages[row["language"]][0]
        other = [n for n in same if held.folder(held.rows[n]) != held.folder(row)]
        random_files = draw.sample(other, min(12, len(other)))
        draw.shuffle(near)
        contexts = {"none": [], "random": filled(held, random_files), "related": filled(held, near)}
        if len(contexts["random"]) < CONTEXT or len(kept) >= most:
            continue
        kept.append(number)
        groups.append(row["group"])
        name = held.tokenizer.encode(row["repository"]).ids
        for condition, context in contexts.items():
            conditions[condition].append([REPO_NAME, *name, *context, FILE_SEP, *held.document(number)[:TARGET]])
    scores = {
        condition: np.array([losses(model, [sequence])[0][-TARGET:].mean() for sequence in sequences])
        for condition, sequences in conditions.items()
    }
    gain = scores["random"] - scores["related"]
    return {
        "files": len(kept),
        "groups": len(set(groups)),
        "target_tokens": TARGET,
        "context_tokens": CONTEXT,
        "loss": {condition: round(float(values.mean()), 4) for condition, values in scores.items()},
        "related_below_random": round(float(gain.mean()), 4),
        "interval": interval(gain, groups=groups),
        "related_below_none": round(float((scores["none"] - scores["related"]).mean()), 4),
        "interval_none": interval(scores["none"] - scores["related"], groups=groups),
        "files_helped": round(float((gain > 0).mean()), 3),
    }


MEASURES = {"context": (in_context, 160), "copying": (copying, 160), "languages": (by_language, 40)}


def measure(name: str, work: Path, folder: Path, share: int) -> dict:
    """One of the three measurements, in its own process of one thread (see train.py for why)."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    function, size = MEASURES[name]
    return function(model, Corpus(work, "held-out"), max(4, size // share))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the sample: does everything run?")
    options = parser.parse_args()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        tasks = {
            name: pool.submit(measure, name, options.work, options.model, 40 if options.quick else 1)
            for name in MEASURES
        }
        figures = {name: task.result() for name, task in tasks.items()}
    passed = {"copying": figures["copying"]["1000"]["ratio"] <= RATIO, "context": figures["context"]["interval"][0] > 0}
    figures |= {"passed": passed, "quick": options.quick}
    beside = options.work / "gate.json.new"
    beside.write_text(json.dumps(figures, indent=1) + "\n")
    if not options.quick:
        os.replace(beside, options.work / "gate.json")
    print(json.dumps(figures, indent=1))
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
