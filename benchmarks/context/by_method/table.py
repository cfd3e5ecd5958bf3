"""The tables of `run.py`, in Markdown, and their picture.

Intervals: 95 %, percentile bootstrap of 2,000 resamples over the held-out texts, the same texts under both rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import LENGTHS, ROWS, TARGET, Row
from run import SCORED, STRETCH
from texts import BLOCK, DEPTHS, TOLD

from longrepo.evaluation.scoring import Interval, paired_intervals

Results = dict[str, list[dict[str, Any]]]
STATES = ("before", "after")


def show(work: Path) -> None:
    """Print every table that there are results for."""
    results = _read(work)
    for title, lines in (
        *((f"Loss of the same {SCORED} tokens by length, {state} tuning", _losses(results, state)) for state in STATES),
        ("Needle: loss of the copy by length, nats a token, before → after tuning", _needles(results)),
        ("Needle: loss of the copy by length and depth, after tuning", _depths(results)),
        ("The tuning", _tunings(results)),
    ):
        print(f"\n### {title}\n", *lines, sep="\n")


def draw(work: Path, file: Path) -> None:
    """Loss by position before and after tuning, and of the needles after it, one line a row. The highest losses
    are cut off, so that the others can be told apart."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    results, labelled, drawn = _read(work), {}, list[float]()
    figure, (*both, needles) = pyplot.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for place, row in enumerate(ROWS):
        style: dict[str, Any] = {"color": f"C{place}", "linewidth": 1.4, "label": row.name}
        for axes, state in zip(both, STATES, strict=True):
            curves = [one for result in results[row.name] for one in result.get(state, {}).get("positions", [])]
            if curves:
                loss = np.sum(curves, axis=0) / len(curves) / np.diff([1, *range(STRETCH, TARGET + 1, STRETCH)])
                positions = np.arange(STRETCH, TARGET + 1, STRETCH) - STRETCH / 2
                labelled[row.name] = axes.plot(positions, smooth := _smooth(loss), **style)[0]
                drawn += list(smooth)
        if found := [one for one in results[row.name] if "needles after" in one]:
            copied = [_copied(found, "after", length) for length in LENGTHS]
            labelled[row.name] = needles.plot(LENGTHS, copied, marker=".", **style)[0]
    both[1].sharey(both[0])
    both[0].set_ylim(0.98 * min(drawn), np.percentile(drawn, 85))
    titles = ("loss by position, before tuning", "loss by position, after tuning", "needle, after tuning")
    for axes, title in zip((*both, needles), titles, strict=True):
        axes.set(title=title, xlabel="position in the text, tokens", xscale="log")
        axes.set_xticks([512, *LENGTHS], [f"{tick:,}" for tick in (512, *LENGTHS)])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    both[0].set_ylabel("nats a token, mean of 2,048 tokens around")
    needles.set(xlabel="length of the text, tokens", ylabel="nats a token of the copy", xlim=both[0].get_xlim())
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=len(ROWS), frameon=False)
    figure.savefig(file, facecolor="white", metadata={"Date": None})


def _read(work: Path) -> Results:
    found: Results = {row.name: [] for row in ROWS}
    for file in sorted((work / "results").glob("*.json")):
        result = json.loads(file.read_text())
        found[result["row"]].append(result)
    return found


def _smooth(values: Any, around: int = 2) -> Any:
    return np.array([values[max(0, at - around + 1) : at + around].mean() for at in range(len(values))])


def _table(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _rows(results: Results, part: str) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    for row in ROWS:
        if found := [one for one in results[row.name] if part in one]:
            yield row, found


def _losses(results: Results, state: str) -> Iterator[str]:
    yield from _table("row", "repositories", *(f"{length:,}" for length in LENGTHS), f"{TARGET:,} against truncated")
    first = {one["repository"]: one for one in results["truncated"] if state in one}
    for row, found in _rows(results, state):
        sums = [[nats for one in found for nats in one[state]["lengths"][str(length)]] for length in LENGTHS]
        losses = (f"{sum(some) / len(some) / SCORED:.3f}" for some in sums)
        shared = [one for one in found if one["repository"] in first]
        against = _percent(_compared([first[one["repository"]] for one in shared], shared, state)) if shared else ""
        yield _cells(f"`{row.name}`: {row.says}", len(found), *losses, "" if row.name == "truncated" else against)


def _compared(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], state: str) -> Interval:
    """The second's loss at the target against the first's, in percent of the first's."""
    columns = [[nats for one in some for nats in one[state]["lengths"][str(TARGET)]] for some in (first, second)]
    groups = [str(at) for at in range(len(columns[0]))]
    *_, difference = paired_intervals(columns, [SCORED] * len(groups), groups, transform=np.log)
    return Interval(*(100 * math.expm1(value) for value in difference))


def _percent(percent: Interval) -> str:
    return f"{percent.value:+.1f} % [{percent.low:+.1f}, {percent.high:+.1f}]"


def _needles(results: Results) -> Iterator[str]:
    yield from _table("row", "asked", *(f"{length:,}" for length in LENGTHS))
    for row, found in _rows(results, "needles before"):
        cells = [
            " → ".join(f"{_copied(found, state, length):.2f}" for state in STATES if f"needles {state}" in found[0])
            for length in LENGTHS
        ]
        count = sum(len(one["needles before"]) for one in found) // len(LENGTHS)
        yield _cells(f"`{row.name}`", count, *cells)


def _depths(results: Results) -> Iterator[str]:
    places = [(length, depth) for length in LENGTHS for depth in DEPTHS]
    yield from _table("row", *(f"{length // 1024}K, {depth} %" for length, depth in places))
    for row, found in _rows(results, "needles after"):
        yield _cells(f"`{row.name}`", *(f"{_copied(found, 'after', *place):.2f}" for place in places))


def _copied(found: Sequence[dict[str, Any]], state: str, length: int, depth: int | None = None) -> float:
    nats = [
        nats
        for one in found
        for at, percent, _, nats in one.get(f"needles {state}", [])
        if at == length and depth in (None, percent)
    ]
    return float(np.mean(nats)) / (BLOCK - TOLD)


def _tunings(results: Results) -> Iterator[str]:
    yield from _table("row", "runs", "minutes", "CPU minutes", "loss of the first text", "of the last", "searched")
    for row, found in _rows(results, "tuning"):
        minutes = [np.mean([one["seconds"]["tuning"][at] for one in found]) / 60 for at in (0, 1)]
        losses = [np.mean([one["tuning"]["losses"][at] for one in found]) for at in (0, -1)]
        factors = [one["factors"] for one in found if row.searched]
        searched = "; ".join(f"{one['start']:.4f} → {one['loss']:.4f}" for one in factors)
        yield _cells(
            f"`{row.name}`", len(found), *(f"{one:.1f}" for one in minutes), *(f"{one:.3f}" for one in losses), searched
        )
