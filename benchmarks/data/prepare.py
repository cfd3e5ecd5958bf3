"""What preparing costs and gives: rows 2, 3, 4 and 7 of the table of benchmarks/data.

    python benchmarks/data/prepare.py --repository rich=../rich.git --large ansible=../ansible.git --work /tmp/prepare

Every run is `prepare_long_context.py --model embedded` in a fresh process, start-up included, with the default
settings and an empty cache (the system's own file cache is warm). A --repository goes through all parts but memory, a
--large one through memory (twice) and fill:

throughput   tokens emitted a second, beside what the tokenizer alone encodes of the same text on all cores and on one
second run   HEAD after HEAD~10 (first parents) with the same cache, and HEAD once more with nothing new
memory       the largest sum over all processes, ten looks a second, with the default settings
memory, many commits   the same with data.max_commits=100000
fill         of training sequences: mean length by cap, share within the guide's ranges; tokens without an account
identical    bytes of five runs: two copies, folders, locales, time zones, hash seeds; cold, warm and no cache; one core

Throughput and second run are done --rounds times, in turn. Parts that are done are kept in DIR/prepare.json and
skipped when it is run again; --again PART or PART/NAME measures them anew, --only does no others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prepare_parts import MANY, Bench, fill, identical, memory, second_run, throughput
from table import prepared_rows, show

PARTS: dict[str, Callable[[Bench, str, Path], dict[str, Any]]] = {
    "memory": memory,
    "memory, many commits": partial(memory, extra=MANY),
    "throughput": throughput,
    "fill": fill,
    "second run": second_run,
    "identical": identical,
}
OF_LARGE = ("memory", "memory, many commits", "fill")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--large", action="append", default=[], metavar="NAME=PATH", help="of 30,000 commits or more")
    parser.add_argument("--work", type=Path, default=Path("prepare_benchmark"), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="wait for others before what is timed")
    parser.add_argument("--only", action="append", default=[], metavar="PART[/NAME]")
    parser.add_argument("--again", action="append", default=[], metavar="PART[/NAME]")
    parser.add_argument("--output", type=Path, metavar="JSON", help="copy the figures there, too")
    given = parser.parse_args()
    if unknown := [one for one in (*given.only, *given.again) if one.partition("/")[0] not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    bench = Bench(given.work.resolve(), given.rounds, given.patience)
    large, repositories = (
        {name: Path(path).resolve() for name, _, path in (one.partition("=") for one in ones)}
        for ones in (given.large, given.repository)
    )
    for part, measure in PARTS.items():
        wanted = (large if part in OF_LARGE else {}) | ({} if part.startswith("memory") else repositories)
        for name, path in wanted.items():
            if bench.wanted(part, name, given.only, given.again):
                bench.keep(part, name, measure(bench, name, path))
    show(prepared_rows(bench.done), bench.done["machine"])
    if given.output:
        given.output.write_text(json.dumps(bench.done, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
