"""A plan in the terminal, at 80 columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longrepo.context.change import OWN
from longrepo.context.recorded import said

GIB, MIB = 2**30, 2**20
PARTS = {
    "weights": "base model's weights",
    "adapter": "adapter (LoRA, structure tokens)",
    "gradients": "the adapter's gradients",
    "moments": "optimizer (two moments each)",
    "kept": "activations kept for the backward",
    "working": "activations at work",
}


def show_outlook(told: dict[str, Any], console: Console) -> None:
    """What `longrepo.memory.outlook.outlook` found."""
    counts, budget = told["parameters"], told["budget"]
    trained = counts["lora"] + counts["structure tokens"]
    console.print(f"[bold]{escape(told['model'])}[/bold] on {told['device']}, {told['dtype']}")
    console.print(f"engine: {told['engine']} ({escape(told['engine_reason'])})")
    console.print(f"budget: {_gib(budget['bytes'])} GiB ({escape(budget['reason'])})")
    console.print(
        f"parameters: {counts['total']:,}, trained {trained:,} "
        f"({', '.join(f'{name} {count / 1e6:.1f} M' for name, count in counts['by_module'].items())})"
    )
    fitting = [entry for entry in told["phases"] if "method" in entry]
    _show_parts(fitting, told["overhead"], console)
    for entry in told["phases"]:
        console.print(_line(entry))
    if told["plain_only"]:
        console.print(f"only the plain step, not in chunks: {escape(told['plain_only'])}")
    if any(entry["seconds"] is None for entry in fitting):
        untimed = "before longrepo plan --calibrate has timed this machine (about a minute)"
        console.print(f"hours: not known {untimed if told['this_machine'] else 'on another machine'}")
    _show_epochs(told["epochs"] or (), console)
    if told["engine"] == "mlx":
        console.print(_how_sure(told["device"], told["checked_peak"]))
    longest = f"{told['longest']:,} tokens" if told["longest"] else "none"
    console.print(f"the longest sequence that fits: {longest}")


def show_machines(rows: list[dict[str, Any]], console: Console) -> None:
    """Machines against lengths: the cheapest method that fits."""
    lengths = list(rows[0]["methods"])
    table = Table(title="the cheapest way that fits: chunk, and where layers' inputs are kept", padding=(0, 0))
    table.add_column("machine")
    table.add_column("GiB", justify="right")
    for length in lengths:
        table.add_column(f"{length // 1024}K", justify="right")
    for row in rows:
        cells = (_short(row["methods"][length]) for length in lengths)
        table.add_row(row["name"], f"{row['usable'] / GIB:.1f}", *cells)
    console.print(table)


def _show_parts(entries: list[dict[str, Any]], overhead: int, console: Console) -> None:
    if not entries:
        return
    unit, word = (GIB, "GiB") if max(entry["parts"]["peak"] for entry in entries) >= GIB else (MIB, "MiB")
    table = Table(title=f"highest moment of a step, {word}, by tokens of a sequence")
    table.add_column("")
    for entry in entries:
        table.add_column(f"{entry['length']:,}", justify="right")

    def row(words: str, sizes: list[int], style: str | None = None) -> None:
        table.add_row(words, *(f"{size / unit:,.2f}" for size in sizes), style=style)

    for part, words in PARTS.items():
        row(words, [entry["parts"][part] for entry in entries])
    row("all tensors", [entry["parts"]["peak"] for entry in entries], "bold")
    if overhead:
        row("libraries and their buffers", [overhead] * len(entries))
        row("the process", [entry["peak"] for entry in entries], "bold")
    row("(head and loss, at another moment)", [entry["parts"]["head"] for entry in entries], "dim")
    console.print(table)


def _line(entry: dict[str, Any]) -> str:
    what = f"{entry['name']} ({entry['length']:,})" if entry["name"].startswith("phase") else entry["name"]
    if "method" not in entry:
        return f"{what}: [red]{entry['why_not']}[/red]"
    words = [f"{what}: {entry['said']}", f"{_gib(entry['peak'])} GiB"]
    if entry["parts"]["disk_written"]:
        words.append(f"{_gib(entry['parts']['disk_written'])} GiB written to disk a sequence")
    if entry["seconds"] is not None:
        words.append(f"{entry['seconds']:.0f} s a sequence")
    if entry["positions"] != said(OWN):
        words.append(f"positions {entry['positions']}")
    return ", ".join(words)


def _show_epochs(epochs: Iterable[dict[str, Any]], console: Console) -> None:
    for one in epochs:
        hours = (
            ""
            if one["seconds"] is None
            else (f", {one['seconds'] / 3600:.1f} h an epoch, {one['seconds'] * one['epochs'] / 3600:.1f} h in all")
        )
        wear = f", {one['written'] / GIB:.0f} GiB written to disk an epoch" if one["written"] else ""
        console.print(
            f"phase {one['phase']}: {one['sequences']:,} sequences, {one['tokens']:,} tokens, "
            f"{one['epochs']} epochs{hours}{wear}"
        )


def _how_sure(device: str, checked: tuple[int, int] | None) -> str:
    """Of MLX's plan: what a calibration found, or that there was none."""
    where = "Metal" if device == "metal" else "this CPU"
    if checked is None:
        doubt = "validated on the CPU and not on Metal, until longrepo plan --calibrate was run there"
        return f"MLX's plan: {doubt}"
    planned, measured = checked
    off = (planned / measured - 1) * 100
    found = f"{planned / MIB:,.1f} MiB planned, {measured / MIB:,.1f} measured ({off:+.1f} %)"
    return f"MLX's plan, on {where}: a small step {found}"


def _short(method: str | None) -> str:
    if method is None:
        return "–"
    return method.replace("chunks of ", "").replace("1 layer in ", "1/").replace(", memory", "")


def _gib(value: int) -> str:
    return f"{value / GIB:.2f}"
