"""A run's data, memory, epochs and settings as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longrepo.config.schema import Settings
from longrepo.data.metadata import Header
from longrepo.data.sequence import DIFFICULTIES
from longrepo.engines.base import StepMethod
from longrepo.reports.run_record import RunRecord

GIB = 2**30
KIND_LABELS = {"hierarchical": "related files", "commit_evolution": "commits", "qa": "questions", "window": "windows"}
_EVENT_SENTENCES = {
    "slow": "Sequences of up to {up_to:,} tokens ran at {share:.0%} of their usual speed.",
    "usual_speed": "Sequences of up to {up_to:,} tokens ran at their usual speed again.",
    "limit": "The limit changed to {bytes} bytes ({source}).",
    "pause": "The run waited for memory: {reason}.",
    "resume": "It went on after {seconds} s.",
    "returned": "The process held {gib} GiB with freed blocks: from then on they were returned to the system.",
    "engine": "From update {update} on it ran on the {now} engine, before on {was}.",
}


@dataclass(frozen=True)
class PageTable:
    """A table of the page. `bold`: the numbers of rows that sum up or stand out."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ShareBar:
    """A share of a whole, 0 to 1."""

    label: str
    value: str
    share: float


def sequence_tables(header: Header) -> PageTable:
    """Sequences by phase and split, by kind and by difficulty."""
    phases = [str(band["phase"]) for band in header.bands]
    columns = ["", *(f"phase {band['phase']}, {band['floor'] + 1:,}–{band['cap']:,} tokens" for band in header.bands)]
    cells = [header.counts.get("train", {}).get(phase, {}) for phase in phases]
    rows = [["to train on", *(f"{cell.get('sequences', 0):,}" for cell in cells)]]
    rows.append(["tokens", *(f"{cell.get('tokens', 0):,}" for cell in cells)])
    rows.append(["of them targets", *(f"{cell.get('target_tokens', 0):,}" for cell in cells)])
    for kind, words in KIND_LABELS.items():
        if any(cell.get("kinds", {}).get(kind) for cell in cells):
            rows.append([words, *(f"{cell.get('kinds', {}).get(kind, 0):,}" for cell in cells)])
    for name in DIFFICULTIES:
        if any(cell.get("difficulties", {}).get(name) for cell in cells):
            words = name.replace("_", " ")
            rows.append([words, *(f"{cell.get('difficulties', {}).get(name, 0):,}" for cell in cells)])
    for split in ("validation", "test"):
        found = [header.counts.get(split, {}).get(phase, {}).get("sequences", 0) for phase in phases]
        rows.append([f"held out: {split}", *(f"{count:,}" for count in found)])
    return PageTable(columns, rows, frozenset({0}))


def token_accounts(header: Header) -> PageTable:
    """Every token of the repository's text: used, or dropped and why."""
    phases = [(phase, account) for phase, account in sorted(header.accounts.items(), key=lambda item: int(item[0]))]
    reasons = list(dict.fromkeys(reason for _, account in phases for reason in account["dropped"]))
    rows = [["read", *(f"{account['tokenized']:,}" for _, account in phases)]]
    rows.append(["used", *(f"{account['used']:,}" for _, account in phases)])
    for reason in reasons:
        rows.append([f"dropped: {reason}", *(f"{one['dropped'].get(reason, 0):,}" for _, one in phases)])
    if not reasons:
        rows.append(["dropped", *("none" for _ in phases)])
    return PageTable(["tokens", *(f"phase {phase}" for phase, _ in phases)], rows)


def language_bars(header: Header, summary: Mapping[str, Any] | None) -> tuple[str, list[ShareBar]]:
    """Return what the shares are of, and the shares, largest first."""
    total: Counter[str] = Counter()
    for repository in (summary or {}).get("repositories", ()):
        for name, one in repository["files"]["languages"].items():
            total[name] += one["training_tokens"]
    what = "tokens of files to train on"
    if not total:
        what = "training sequences"
        for cell in header.counts.get("train", {}).values():
            total.update(cell["languages"])
    whole = sum(total.values()) or 1
    return what, [ShareBar(name, f"{count:,}", count / whole) for name, count in total.most_common() if count]


def left_out_tables(summary: Mapping[str, Any] | None) -> list[str]:
    """Say which files, commits and changes were left out, by reason."""
    lines = []
    for repository in (summary or {}).get("repositories", ()):
        groups = (
            ("files", repository["files"]["left_out"]),
            ("commits", repository["history"]["commits_left_out"]),
            ("changes", repository["history"]["changes_left_out"]),
        )
        for what, reasons in groups:
            if reasons:
                listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
                lines.append(f"{repository['name']}, {what} left out: {listed}")
    return lines


def memory_table(run: RunRecord) -> PageTable:
    """Planned and used memory by phase."""
    plans = (run.plan or {}).get("phases", {})
    spans = {phase: (start, end) for phase, start, end in run.history.spans}
    rows = []
    for number in sorted(set(plans) | {str(phase) for phase in spans}, key=int):
        plan = plans.get(number)
        start, end = spans.get(int(number), (0, 0))
        used = run.history.used(int(number))
        planned = plan["peak"] if plan else 0
        rows.append(
            [
                number,
                f"{plan['length']:,}" if plan else "–",
                str(StepMethod.from_dict(plan["method"])) if plan else "–",
                f"{planned / GIB:.2f}" if planned else "–",
                f"{used / GIB:.2f}" if used else "not measured" if end > start else "not run",
                f"{used / planned:.0%}" if used and planned else "–",
            ]
        )
    return PageTable(["phase", "longest", "method", "planned, GiB", "used, GiB", "of planned"], rows)


def event_sentences(run: RunRecord) -> list[str]:
    """Describe steps down, the memory guard's events and earlier budgets in sentences."""
    sentences = [
        f"Phase {number} was planned within {phase['budget']['bytes'] / GIB:.2f} GiB ({phase['budget']['reason']}), on "
        f"{phase['device']}."
        for number, phase in (run.plan["phases"].items() if run.plan else ())
        if "budget" in phase and "device" in phase
    ]
    sentences += [f"From update {one.update} on: {one.text}" for one in run.history.steps_down]
    for event in run.history.events:
        words = _EVENT_SENTENCES.get(str(event.get("event")))
        if words:
            sentences.append(words.format(**event))
    return sentences


def epoch_table(run: RunRecord) -> PageTable:
    """One row per epoch; the best is bold."""
    columns = (
        "phase", "epoch", "sequences", "replayed", "tokens", "train loss", "validation", "perplexity", "learning rate",
        "gradient norm: least, mean, most", "tokens a second", "peak, GiB",
    )  # fmt: skip
    rows = [
        [
            f"{one.phase}", f"{one.epoch}", f"{one.sequences:,}", f"{one.replayed:,}", f"{one.tokens:,}",
            f"{one.train_loss:.4f}", f"{one.validation.loss:.4f}", f"{one.perplexity:.2f}", f"{one.learning_rate:.2e}",
            f"{one.gradient_norm_min:.3f}, {one.gradient_norm_mean:.3f}, {one.gradient_norm_max:.3f}",
            f"{one.tokens_per_second:,.0f}", f"{one.peak_memory / GIB:.2f}",
        ]
        for one in run.history.epochs
    ]  # fmt: skip
    best = next((one for one in reversed(run.history.epochs) if one.best), None)
    return PageTable(columns, rows, frozenset(number for number, one in enumerate(run.history.epochs) if one is best))


def settings_tables(run: RunRecord) -> tuple[PageTable, PageTable]:
    """Return the settings that differ from their defaults, and all of them."""
    default = dict(flatten_settings(Settings()))
    mine = list(flatten_settings(run.settings))
    changed = [[key, value, default.get(key, "–")] for key, value in mine if value != default.get(key)]
    return PageTable(("setting", "value", "default"), changed), PageTable(
        ("setting", "value"), [list(one) for one in mine]
    )


def flatten_settings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (`section.key`, value as text)."""
    for section, values in settings.model_dump(mode="json").items():
        for key, value in values.items():
            yield f"{section}.{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
