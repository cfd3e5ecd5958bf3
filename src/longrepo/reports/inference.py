"""What answering needs and how fast it is, in the terminal, at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

GIB = 2**30


def show_inference(told: Mapping[str, Any], console: Console) -> None:
    """What `longrepo.memory.inference.inference_outlook` found, with `speeds` or why there are none (`unmeasured`)."""
    budget = told["budget"]
    console.print(
        f"[bold]{escape(told['model'])}[/bold] on {told['device']}, {told['dtype']}, engine: {told['engine']}"
    )
    console.print(f"budget: {_gib(budget['bytes'])} GiB ({escape(budget['reason'])})")
    libraries = f", libraries {_gib(told['overhead'])} GiB" if told["overhead"] else ""
    console.print(f"weights {_gib(told['weights'])} GiB, adapter {_gib(told['adapter'])} GiB{libraries}")
    _show_tiers(told, console)
    for bits, reason in told["why_not"].items():
        console.print(f"{bits}-bit keys and values: {escape(reason)}")
    if told["engine"] == "mlx":
        console.print("MLX: no dry run of an answer; all together is what it needs at least")
    if told["unmeasured"]:
        console.print(f"speed: not measured: {escape(told['unmeasured'])}")
    _show_speeds(told, console)


def _show_tiers(told: Mapping[str, Any], console: Console) -> None:
    table = Table(title="GiB by tokens of prompt and answer: keys and values, all, and the highest moment")
    table.add_column("tokens", justify="right")
    table.add_column("positions")
    for name in (f"KV {told['dtype']}", "8 bits", "4 bits", "all", "highest", "fits"):
        table.add_column(name, justify="right")
    for row in told["tiers"]:
        sizes = (*row["cache"].values(), row["together"], row["peak"])
        cells = ("–" if size is None else f"{size / GIB:.3f}" for size in sizes)
        table.add_row(f"{row['length']:,}", _positions(row["context"]), *cells, "yes" if row["fits"] else "no")
    console.print(table)


def _show_speeds(told: Mapping[str, Any], console: Console) -> None:
    for one in told["speeds"]:
        new = f", then {one['new_rate']:,.1f} new tokens/s" if one["new_rate"] else ""
        console.print(
            f"measured here, a prompt of {one['prompt']:,} tokens: {one['prompt_rate']:,.0f} tokens/s{new}; "
            f"{_gib(one['peak'])} GiB at the highest"
        )


def _positions(context: Mapping[str, Any]) -> str:
    window = "" if context["window"] == "keep" else f", {context['window']}"
    return f"{'own' if context['method'] == 'none' else context['method']}{window}"


def _gib(value: int) -> str:
    return f"{value / GIB:.2f}"
