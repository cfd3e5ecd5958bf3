"""Models and presets in the terminal, at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

GIB, MIB, KIB = 2**30, 2**20, 2**10


def show_presets(rows: Sequence[Mapping[str, Any]], contexts: Sequence[int], console: Console) -> None:
    """One line a size: `name`, the counts of `longrepo.models.needs.calculated`, and `steps` (context → bytes), empty
    where they weren't asked for."""
    table = Table(title="presets: StarCoder2's architecture, rotary positions, tied embeddings", padding=(0, 0))
    columns = ("preset", "parameters", "layers", "width", "heads", "KV", "words", "bf16, GiB", "KV, B/token")
    for column in columns:
        table.add_column(column, justify="left" if column == "preset" else "right")
    for row in rows:
        weights, cache = row["inference"]["weights"]["bfloat16"], row["inference"]["cache_token"]
        shape = (row[key] for key in ("layers", "hidden", "heads", "kv_heads"))
        words = f"{row['vocabulary']:,}"
        counts = (f"{row['parameters']:,}", *map(str, shape), words, f"{weights / GIB:.2f}", f"{cache:,}")
        table.add_row(row["name"], *counts)
    console.print(table)
    console.print(f"contexts of each: {', '.join(map(str, contexts))}; a preset's name is size_context: 150M_1024")
    if rows and rows[0]["steps"]:
        _show_steps(rows, console)


def _show_steps(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="training all weights, one sequence, a plain step: GiB by context")
    table.add_column("preset")
    for context in rows[0]["steps"]:
        table.add_column(f"{context:,}", justify="right")
    for row in rows:
        table.add_row(row["name"], *(f"{size / GIB:.2f}" for size in row["steps"].values()))
    console.print(table)


def show_calculated(name: str, told: Mapping[str, Any], console: Console) -> None:
    """What `longrepo.models.needs.calculated` found."""
    window = f", attention over {told['window']:,}" if told["window"] else ""
    console.print(
        f"[bold]{escape(name)}[/bold]: {told['layers']} layers of {told['hidden']:,}, {told['heads']} heads "
        f"({told['kv_heads']} of keys and values), vocabulary {told['vocabulary']:,}, "
        f"{told['max_positions']:,} positions{window}"
    )
    _show_parts(told, console)
    _show_inference(told["inference"], console)
    if told.get("unplanned"):
        console.print(f"training isn't planned: {escape(told['unplanned'])}")
        return
    _show_training(told["training"], console)
    if "machines" in told:
        _show_machines(told["machines"], console)


def _show_parts(told: Mapping[str, Any], console: Console) -> None:
    table = Table(title="parameters")
    for column in ("part", "count", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, count in told["by_part"].items():
        if count or part in ("positions", "head"):
            table.add_row(_said(part, told), f"{count:,}", f"{count / told['parameters']:.2%}")
    table.add_row("all", f"{told['parameters']:,}", "", style="bold")
    console.print(table)
    if lora := told["lora"]:
        share = lora["parameters"] / told["parameters"]
        console.print(
            f"LoRA at r={lora['r']} on {', '.join(lora['modules'])}: {lora['parameters']:,} more ({share:.2%})"
        )


def _said(part: str, told: Mapping[str, Any]) -> str:
    if part == "positions":
        return "positions (rotary: none)" if told["rotary"] else "positions (learned)"
    return "head (tied to the embedding)" if part == "head" and told["tied"] else part


def _show_inference(found: Mapping[str, Any], console: Console) -> None:
    table = Table(title="answering, GiB: weights, and keys and values in bf16 by tokens")
    weights = {f"weights, {name}": size for name, size in found["weights"].items()}
    cache = {f"KV, {tokens:,}": size for tokens, size in found["cache"].items()}
    for column in (*weights, *cache):
        table.add_column(column, justify="right")
    table.add_row(*(f"{size / GIB:.3f}" for size in (*weights.values(), *cache.values())))
    console.print(table)
    console.print(f"keys and values of a token: {found['cache_token'] / KIB:.1f} KiB")


def _show_training(steps: Sequence[Mapping[str, Any]], console: Console) -> None:
    contexts = sorted({step["context"] for step in steps})
    table = Table(title="training, GiB of tensors in a plain step (bf16, fused attention), by context")
    for column in ("trained", "batch", *(f"{context:,}" for context in contexts)):
        table.add_column(column, justify="left" if column == "trained" else "right")
    peaks = {(step["trained"], step["batch"], step["context"]): step["peak"] for step in steps}
    for trained, batch in dict.fromkeys((step["trained"], step["batch"]) for step in steps):
        cells = (f"{peaks[trained, batch, context] / GIB:.2f}" for context in contexts)
        table.add_row(trained, str(batch), *cells)
    console.print(table)


def _show_machines(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    lengths = list(rows[0]["methods"])
    table = Table(title="training all weights, one sequence at a time: the cheapest way that fits", padding=(0, 0))
    table.add_column("machine")
    table.add_column("GiB", justify="right")
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    for row in rows:
        cells = (row["methods"][length] or "–" for length in lengths)
        table.add_row(row["name"], f"{row['usable'] / GIB:.1f}", *(cell.replace(", memory", "") for cell in cells))
    console.print(table)
