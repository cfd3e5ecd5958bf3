"""How fast outlines are read, beside tree-sitter's bare parse of the same text: one core, by language.

    python benchmarks/data/outlines.py --repository rich=../rich --repository gin=../gin [--output outlines.json]

All files of HEAD with a grammar count, at most `--most` MB of each language; its processor time is the best of
`--repeats` over the whole set. "reading back" is `Outline.from_json` of everything that was stored.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table
from tree_sitter import Parser
from tree_sitter_language_pack import SupportedLanguage, get_language

from longrepo.repository.grammars import GRAMMARS
from longrepo.repository.outline import Outline, build_outline
from longrepo.repository.repository import Repository
from longrepo.repository.syntax import MAX_CHARACTERS

MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--most", type=float, default=1.5, metavar="MB")
    parser.add_argument("--least", type=float, default=0.05, metavar="MB", help="of a language, to be measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    by_language: defaultdict[str, list[str]] = defaultdict(list)
    for each in given.repository:
        with Repository.open(Path(each.partition("=")[2]).resolve()) as repository:
            for file in repository.snapshot(repository.resolve("HEAD")).files:
                texts = by_language[file.language]
                if file.language in GRAMMARS and len(file.text) <= MAX_CHARACTERS and size(texts) < given.most * MB:
                    texts.append(file.text)
    measured = {
        language: measure(language, texts, given.repeats)
        for language, texts in sorted(by_language.items(), key=lambda pair: -size(pair[1]))
        if size(texts) >= given.least * MB
    }
    show(measured)
    if given.output:
        given.output.write_text(json.dumps(measured, indent=1) + "\n")


def size(texts: list[str]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def measure(language: str, texts: list[str], repeats: int) -> dict[str, float]:
    grammar = get_language(cast(SupportedLanguage, GRAMMARS[language]))
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    stored = [build_outline(text, language).to_json() for text in texts]
    return {
        "files": len(texts),
        "MB": size(texts) / MB,
        "stored MB": size(stored) / MB,
        "parse s": fastest(repeats, lambda: [Parser(grammar).parse(one) is None for one in data]),
        "outline s": fastest(repeats, lambda: [build_outline(text, language) is None for text in texts]),
        "reading back s": fastest(repeats, lambda: [Outline.from_json(one) is None for one in stored]),
    }


def fastest(repeats: int, work: Callable[[], object]) -> float:
    """The least processor time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def show(measured: dict[str, dict[str, float]]) -> None:
    table = Table(title="outlines, one core")
    for name in ("language", "files", "MB", "bare parse MB/s", "outline MB/s", "outline s/MB", "reading back files/s"):
        table.add_column(name, justify="left" if name == "language" else "right")
    for language, one in measured.items():
        table.add_row(
            language,
            f"{one['files']:,}",
            f"{one['MB']:.2f}",
            f"{one['MB'] / one['parse s']:.2f}",
            f"{one['MB'] / one['outline s']:.2f}",
            f"{one['outline s'] / one['MB']:.3f}",
            f"{one['files'] / one['reading back s']:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
