"""The tables of `run.py`, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from arms import ABLATIONS, ARMS, BASE, BEFORE, LENGTHS, OURS, PLAIN, RATES_ON, STAGES, TRIED, TUNED, VARIED, Arm
from results import ELSEWHERE, Compared, Lines, Result, compared, read
from samples import LAYOUTS

from longrepo.evaluation.context_loss import CROSS_FILE_CLASSES, SHORT_CONTEXT_TOKENS
from longrepo.evaluation.scoring import Interval

LONG = max(LENGTHS)
HEADLINE = Lines("related", LONG, CROSS_FILE_CLASSES)
OTHERS = Lines("related", LONG, ELSEWHERE)
SHORTENED = Lines("short", SHORT_CONTEXT_TOKENS)


def show(work: Path) -> None:
    """Print every table that there are results for."""
    results = read(work)
    tuned = {arm.name: _best_rate(results, arm.name) for arm in TUNED}
    chosen = [one for one in results if one.rate in (0, tuned.get(one.arm, tuned[OURS.name]))]
    by_arm = {name: [one for one in chosen if one.arm == name] for name in ARMS}
    for title, lines in (
        (f"Learning rates, validation loss on {RATES_ON}", _rates(results)),
        (f"`ours` against `plain`, related context, {LONG} tokens", _main(by_arm)),
        ("`ours` against `plain` by context and length", _contexts(by_arm)),
        ("`ours` against the base, all held-out lines, related context", _tuned(by_arm)),
        ("What related context is worth: loss with it against without", _gains(by_arm)),
        ("`ours` with one thing left out, against `ours`", _ablations(by_arm)),
        ("Changes of what `ours` was before, against that, on validation", _tried(by_arm, BEFORE, (OURS, *TRIED))),
        ("Changes of `ours` as it is, against that, on validation", _tried(by_arm, OURS, VARIED)),
        ("Layouts, validation loss at 1,024 tokens", _layouts(by_arm)),
        ("What a run is", _runs(by_arm)),
        ("Validation loss on the way", _curves(by_arm)),
    ):
        print(f"\n### {title}\n", *lines, sep="\n")


def _best_rate(results: Sequence[Result], arm: str) -> float:
    tried = [one for one in results if (one.repository, one.arm, one.seed) == (RATES_ON, arm, 1)]
    return min(tried, key=lambda one: one.chosen_by).rate if tried else 0.0


def _table(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _rates(results: Sequence[Result]) -> Iterator[str]:
    yield from _table("arm", "rate", "nats a token", "layout")
    for arm in TUNED:
        for one in sorted(results, key=lambda one: one.rate):
            if (one.repository, one.arm, one.seed) == (RATES_ON, arm.name, 1):
                yield _row(arm.name, f"{one.rate:g}", f"{one.chosen_by:.4f}", one.layout)


def _main(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table(
        "repository", "seeds", "commits", "cross-file tokens", "base", "plain", "ours", "cross-file", "other lines",
        f"behind {SHORT_CONTEXT_TOKENS} tokens",
    )  # fmt: skip
    names = list(dict.fromkeys(one.repository for one in by_arm[OURS.name]))
    for name in [*names, ""]:
        arms = [[one for one in by_arm[arm.name] if name in ("", one.repository)] for arm in (PLAIN, OURS, BASE)]
        headline, base = compared(arms[0], arms[1], HEADLINE), compared(arms[2], arms[1], HEADLINE)
        if headline is None:
            continue
        yield _row(
            name or f"all {headline.repositories}", headline.runs, headline.commits, headline.tokens,
            f"{base.first:.3f}" if base else "", f"{headline.first:.3f}", f"{headline.second:.3f}",
            _percent(headline), *(_percent(compared(arms[0], arms[1], lines)) for lines in (OTHERS, SHORTENED)),
        )  # fmt: skip


def _contexts(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table("context", "tokens", "cross-file: plain", "ours", "difference", "other lines", "all lines")
    for context in ("none", "related"):
        for length in LENGTHS:
            one, two, both = (
                compared(by_arm[PLAIN.name], by_arm[OURS.name], Lines(context, length, *classes))
                for classes in ((CROSS_FILE_CLASSES,), (ELSEWHERE,), ())
            )
            if one:
                yield _row(context, length, f"{one.first:.3f}", f"{one.second:.3f}", *map(_percent, (one, two, both)))


def _tuned(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table("repository", "runs", "commits", "scored tokens", *(f"{length:,} tokens" for length in LENGTHS))
    for name in dict.fromkeys(one.repository for one in by_arm[OURS.name]):
        base, ours = ([one for one in by_arm[arm.name] if one.repository == name] for arm in (BASE, OURS))
        found = [compared(base, ours, Lines("related", length)) for length in LENGTHS]
        if one := found[-1]:
            yield _row(name, one.runs, one.commits, one.tokens, *map(_percent, found))


def _gains(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    """Means over runs; the context is laid out alike, and a length's lines are the same with and without it."""
    yield from _table("arm", "runs", *(f"{what}, {length:,}" for what in ("cross-file", "all") for length in LENGTHS))
    for arm in (BASE, PLAIN, OURS):
        if results := by_arm[arm.name]:
            kinds = [(length, *classes) for classes in ((CROSS_FILE_CLASSES,), ()) for length in LENGTHS]
            yield _row(arm.name, len(results), *(f"{_gain(results, *kind):+.1f} %" for kind in kinds))


def _gain(results: Sequence[Result], length: int, *classes: Sequence[str]) -> float:
    def nats(one: Result, context: str) -> float:
        return sum(nats for _, nats in one.sums(Lines(context, length, *classes)).values())

    return sum(100 * (nats(one, "related") / nats(one, "none") - 1) for one in results) / len(results)


def _ablations(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table(
        "left out",
        "repositories",
        "runs",
        "cross-file",
        "other lines",
        f"behind {SHORT_CONTEXT_TOKENS} tokens",
        "what it is",
    )
    for arm in (PLAIN, *ABLATIONS):
        found = [compared(by_arm[OURS.name], by_arm[arm.name], lines) for lines in (HEADLINE, OTHERS, SHORTENED)]
        if found[0]:
            yield _row(arm.name, found[0].repositories, found[0].runs, *map(_percent, found), arm.says)


def _tried(by_arm: dict[str, list[Result]], of: Arm, arms: Sequence[Arm]) -> Iterator[str]:
    yield from _table("arm", "repositories", "cross-file tokens", "cross-file", "all lines", "what it is")
    for arm in (PLAIN, *arms):
        kinds = (Lines("related", LONG, CROSS_FILE_CLASSES, "validation"), Lines("related", LONG, split="validation"))
        first, second = ([one for one in by_arm[name] if one.validation] for name in (of.name, arm.name))
        found = [compared(first, second, lines) for lines in kinds]
        if found[0]:
            yield _row(arm.name, found[0].repositories, found[0].tokens, *map(_percent, found), arm.says)


def _layouts(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table("arm", "runs", *LAYOUTS)
    for name, results in by_arm.items():
        if results:
            losses = [[one.by_layout[layout] for one in results if layout in one.by_layout] for layout in LAYOUTS]
            yield _row(name, len(results), *(f"{sum(some) / len(some):.3f}" if some else "" for some in losses))


def _runs(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table("arm", "runs", "tokens", "learnt from", "updates", "seconds", "CPU seconds", "layouts")
    for name, results in by_arm.items():
        if results:
            keys = ("tokens", "learnt", "updates", "seconds", "cpu_seconds")
            spans = [_span([one.tree[key] for one in results if key in one.tree]) for key in keys]
            layouts = sorted({one.layout for one in results})
            yield _row(name, len(results), *spans, ", ".join(layouts))


def _curves(by_arm: dict[str, list[Result]]) -> Iterator[str]:
    yield from _table("arm", "runs", *(f"{step}/{STAGES}" for step in range(1, STAGES + 1)), "CPU seconds at each")
    for name, results in by_arm.items():
        curves = [one.curve for one in results if len(one.curve) == STAGES]
        if curves:
            mean = _means(curves)
            losses = [f"{mean(step, 'validation'):.3f}" for step in range(STAGES)]
            yield _row(
                name, len(curves), *losses, ", ".join(f"{mean(step, 'cpu_seconds'):.0f}" for step in range(STAGES))
            )


def _means(curves: Sequence[Sequence[dict[str, float]]]) -> Callable[[int, str], float]:
    return lambda step, key: sum(curve[step][key] for curve in curves) / len(curves)


def _span(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = round(min(values)), round(max(values))
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _percent(found: Compared | None) -> str:
    return _interval(found.percent) if found else ""


def _interval(percent: Interval) -> str:
    return f"{percent.value:+.1f} % [{percent.low:+.1f}, {percent.high:+.1f}]"
