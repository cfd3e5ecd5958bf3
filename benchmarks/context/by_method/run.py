"""Which position scaling? Loss and planted names at 2K, 4K, 8K and 16K tokens, before and after the same tuning.

    python benchmarks/context/by_method/run.py --work DIR --repo google/gson=PATH --repo NAME=PATH [--only ROW,ROW]
    python benchmarks/context/by_method/run.py --work DIR --table [--picture FILE.svg]

The embedded base (2,048 positions, window 4,096), bfloat16, one thread, the plain computation; with the kept window,
whose plain computation masks every pair of tokens, exact chunks. PATH is a clone of a repository of `repositories.json`
that holds the commit named there. Resumable: each row's figures stay in DIR, part by part. Several at once, each on a
repository of its own, are fine.

- Loss by length: the same last 512 tokens of each held-out text, behind as much of the text as the length holds.
- Loss by position: all tokens of each held-out text of 16,384 tokens, in stretches of 512.
- A needle: 64 tokens of made-up names planted in held-out text stand again at its end; loss of the last 56. The base
  can copy names and can't pick a number among decoys, which is what `longrepo evaluate` asks of real models.
- The tuning: LoRA as the demo has it, 6 texts of 16,384 tokens, an update each, the learning rate falling to a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch

from rows import LENGTHS, ROWS, TARGET, Row
from texts import BLOCK, TOLD, Texts, read_texts

HERE = Path(__file__).resolve().parent
SCORED, STRETCH = 512, 512  # tokens
RATE, CHUNK = 1e-2, 1024
Tree = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--repo", action="append", default=[], metavar="NAME=PATH", help="a clone")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[row.name for row in ROWS])
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--picture", type=Path, help="with --table: loss by position, drawn")
    given = parser.parse_args()
    if given.table:
        from table import draw, show

        show(given.work)
        if given.picture:
            draw(given.work, given.picture)
        return
    commits: dict[str, str] = json.loads((HERE / "repositories.json").read_text())
    sources = dict(one.split("=", 1) for one in given.repo)
    if unknown := [*(sources.keys() - commits), *(set(given.only) - {row.name for row in ROWS})]:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join([*commits, *(row.name for row in ROWS)])}")
    for name, source in sources.items():
        texts = _texts(Path(source), commits[name])
        for row in ROWS:
            if row.name in given.only:
                Measuring(given.work, name, row, texts).run()


class Measuring:
    """A row on a repository: parts of its result, each done once."""

    def __init__(self, work: Path, repository: str, row: Row, texts: Texts) -> None:
        self._row, self._texts = row, texts
        name = f"{repository.rpartition('/')[2]}--{row.name}"
        self._file, self._adapter = work / "results" / f"{name}.json", work / "adapters" / name
        self._text = work / f"{repository.rpartition('/')[2]}.txt"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.result: Tree = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.result |= {"repository": repository, "row": row.name}

    def run(self) -> None:
        """What isn't there yet."""
        if self._row.searched:
            self._part("factors", self._search)
        self._part("before", self._measure)
        self._part("needles before", self._find)
        if not self._row.by_length:
            self._part("tuning", self._tune)
            self._part("after", self._measure)
            self._part("needles after", self._find)

    def _part(self, name: str, make: Callable[[], Any]) -> None:
        if name in self.result:
            return
        began, cpu = time.perf_counter(), time.process_time()
        self.result[name] = make()
        self.result.setdefault("seconds", {})[name] = [time.perf_counter() - began, time.process_time() - cpu]
        beside = self._file.with_suffix(".part")
        beside.write_text(json.dumps(self.result) + "\n")
        beside.replace(self._file)
        print(f"{self._file.stem}: {name}, {time.perf_counter() - began:.0f} s", flush=True)

    def _engine(self, length: int = TARGET) -> Any:
        """At the row's positions for texts of a length, with the adapter if it is tuned."""
        if not hasattr(self, "_made"):
            from longrepo.engines.base import StepMethod
            from longrepo.engines.registry import choose_engine, create_engine

            self._made = create_engine(
                choose_engine("torch", "cpu"), self._row.settings(), self._texts.tokenizer, "cpu"
            )
            if self._row.window == "keep" and self._row.reads == TARGET:
                self._made.use(StepMethod("chunked", CHUNK))
            if "tuning" in self.result:
                self._made.load_adapter(self._adapter)
        factors = self.result.get("factors", {}).get("factors")
        self._made.position(self._row.context(length, factors and tuple(factors)))
        return self._made

    def _losses(self, ids: Any, scored: int, length: int) -> Any:
        """Nats of the last `scored` tokens."""
        import numpy as np

        from longrepo.engines.base import Batch

        read = ids[-min(length, self._row.reads) :]
        weights = (np.arange(len(read)) >= len(read) - scored).astype(np.float32)
        engine = self._engine(length)
        return engine.score(Batch.of([(read, weights)], engine.pad_id))[0][-scored:].astype(np.float64)

    def _measure(self) -> Tree:
        """What a row reads is scored once: the last stretch of a whole text is its loss at the target."""
        read = [length for length in LENGTHS if length <= self._row.reads]
        losses = {
            length: [
                self._losses(ids, SCORED if length < TARGET else TARGET - 1, length) for ids in self._texts.held_out
            ]
            for length in read
        }
        by_length = {
            length: [float(one[-SCORED:].sum()) for one in losses[min(length, read[-1])]] for length in LENGTHS
        }
        if self._row.reads < TARGET:
            return {"lengths": by_length}
        stretches = [[float(part.sum()) for part in _stretches(one)] for one in losses[TARGET]]
        return {"lengths": by_length, "positions": stretches}

    def _find(self) -> list[list[float]]:
        """(length, depth, draw, nats of the copy)"""
        return [
            [one.length, one.depth, one.draw, float(self._losses(one.ids, BLOCK - TOLD, one.length).sum())]
            for one in self._texts.needles()
        ]

    def _tune(self) -> Tree:
        import numpy as np

        from longrepo.engines.base import Batch

        engine, losses = self._engine(), []
        for step, ids in enumerate(self._texts.tuning):
            pieces = ids.reshape(-1, min(TARGET, self._row.reads))
            batch = [Batch.of([(one, np.ones(len(one), np.float32))], engine.pad_id) for one in pieces]
            weight = sum(one.weight for one in batch)
            losses.append(sum(engine.accumulate(one, weight, key=step) for one in batch) / weight)
            engine.apply_update(RATE * (1 - 0.9 * step / len(self._texts.tuning)), 1.0)
        self._adapter.mkdir(parents=True, exist_ok=True)
        engine.save_adapter(self._adapter)
        return {"losses": losses, "facts": engine.facts()}

    def _search(self) -> Tree:
        from longrepo.data.marks import FILE_END, FILE_START
        from longrepo.engines.longrope_search import search_long_factors
        from longrepo.engines.model_shape import read_config

        text = "\n".join(self._texts.tokenizer.decode(ids.tolist()) for ids in self._texts.tuning[:2])
        self._text.write_text(text.replace(FILE_START, "").replace(FILE_END, "\n"))
        settings = self._row.settings()
        found = search_long_factors(
            settings.model.name, None, read_config(settings.model.name).to_dict(), settings.context, self._text
        )
        return {"factors": found.factors, "loss": found.loss, "start": found.start, "tried": found.tried}


def _stretches(losses: Any) -> list[Any]:
    """Of all tokens but the first, which nothing stands before."""
    import numpy as np

    return np.split(losses, range(STRETCH - 1, TARGET - 1, STRETCH))


def _texts(folder: Path, commit: str) -> Texts:
    from longrepo.data.tokenizer_loading import load_tokenizer

    settings = ROWS[0].settings()
    return read_texts(folder, commit, load_tokenizer(settings.model.name), settings)


if __name__ == "__main__":
    main()
