"""The output of `longrepo plan`, `doctor` and `models` in the terminal, at 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longrepo.engines.lora_targets import experts_line
from longrepo.memory.doctor_checks import DoctorFinding
from longrepo.rope.apply import NATIVE_CONTEXT, describe_context

GIB, MIB = 2**30, 2**20
PART_LABELS = {
    "weights": "base model's weights",
    "adapter": "adapter (LoRA, structure tokens)",
    "gradients": "the adapter's gradients",
    "moments": "optimizer (two moments each)",
    "kept": "activations kept for the backward",
    "working": "activations at work",
}


def show_plan(report: dict[str, Any], console: Console) -> None:
    """Print the result of `longrepo.memory.report.plan_report`."""
    counts, budget = report["parameters"], report["budget"]
    trained = counts["lora"] + counts["structure tokens"]
    console.print(f"[bold]{escape(report['model'])}[/bold] on {report['device']}, {report['dtype']}")
    if report["configuration"] == "shipped":
        console.print("configuration: the copy in this package, as the hub's isn't on this machine")
    console.print(f"engine: {report['engine']} ({escape(report['engine_reason'])})")
    console.print(f"budget: {_gib(budget['bytes'])} GiB ({escape(budget['reason'])})")
    console.print(
        f"parameters: {counts['total']:,}, trained {trained:,} "
        f"({', '.join(f'{name} {count / 1e6:.1f} M' for name, count in counts['by_module'].items())})"
    )
    if report["experts"]:
        console.print(experts_line(report["experts"]))
    fitting = [entry for entry in report["phases"] if "method" in entry]
    _show_memory_parts(fitting, report["overhead"], console)
    for entry in report["phases"]:
        console.print(_phase_line(entry))
    if report["plain_only"]:
        console.print(f"only the plain step, not in chunks: {escape(report['plain_only'])}")
    if any(entry["seconds"] is None for entry in fitting):
        untimed = "before longrepo plan --calibrate has timed this machine (about a minute)"
        console.print(f"hours: not known {untimed if report['this_machine'] else 'on another machine'}")
    _show_epochs(report["epochs"] or (), console)
    if report["engine"] == "mlx":
        console.print(_mlx_note(report["device"]))
    longest = f"{report['longest']:,} tokens" if report["longest"] else "none"
    console.print(f"the longest sequence that fits: {longest}")


def show_machines(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the fastest method that fits, by machine and length."""
    lengths = list(rows[0]["methods"])
    table = Table(title="the cheapest way that fits: chunk, and where layers' inputs are kept", padding=(0, 0))
    table.add_column("machine")
    table.add_column("GiB", justify="right")
    for length in lengths:
        table.add_column(f"{length // 1024}K", justify="right")
    for row in rows:
        cells = (_short_method(row["methods"][length]) for length in lengths)
        table.add_row(row["name"], f"{row['usable'] / GIB:.1f}", *cells)
    console.print(table)


def _show_memory_parts(entries: list[dict[str, Any]], overhead: int, console: Console) -> None:
    if not entries:
        return
    unit, word = (GIB, "GiB") if max(entry["parts"]["peak"] for entry in entries) >= GIB else (MIB, "MiB")
    table = Table(title=f"highest moment of a step, {word}, by tokens of a sequence")
    table.add_column("")
    for entry in entries:
        table.add_column(f"{entry['length']:,}", justify="right")

    def row(words: str, sizes: list[int], style: str | None = None) -> None:
        table.add_row(words, *(f"{size / unit:,.2f}" for size in sizes), style=style)

    for part, words in PART_LABELS.items():
        row(words, [entry["parts"][part] for entry in entries])
    row("all tensors", [entry["parts"]["peak"] for entry in entries], "bold")
    if overhead:
        row("libraries and their buffers", [overhead] * len(entries))
        row("the process", [entry["peak"] for entry in entries], "bold")
    row("(head and loss, at another moment)", [entry["parts"]["head"] for entry in entries], "dim")
    console.print(table)


def _phase_line(entry: dict[str, Any]) -> str:
    what = f"{entry['name']} ({entry['length']:,})" if entry["name"].startswith("phase") else entry["name"]
    if "method" not in entry:
        return f"{what}: [red]{entry['why_not']}[/red]"
    words = [f"{what}: {entry['said']}", f"{_gib(entry['peak'])} GiB"]
    if entry["parts"]["disk_written"]:
        words.append(f"{_gib(entry['parts']['disk_written'])} GiB written to disk a sequence")
    if entry["seconds"] is not None:
        words.append(f"{entry['seconds']:.0f} s a sequence")
    if entry["positions"] != describe_context(NATIVE_CONTEXT):
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


def _mlx_note(device: str) -> str:
    """Say how MLX's plan was made."""
    where = "Metal" if device == "metal" else "this CPU"
    return f"MLX's plan: measured on {where} with a few layers and random weights, and extrapolated"


def _short_method(method: str | None) -> str:
    if method is None:
        return "–"
    return method.replace("chunks of ", "").replace("1 layer in ", "1/").replace(", memory", "")


def _gib(value: int) -> str:
    return f"{value / GIB:.2f}"


GIB = 2**30


def show_inference(report: Mapping[str, Any], console: Console) -> None:
    """Print the result of `longrepo.memory.report.inference_report`, with `speeds` or why there are none."""
    budget = report["budget"]
    console.print(
        f"[bold]{escape(report['model'])}[/bold] on {report['device']}, {report['dtype']}, engine: {report['engine']}"
    )
    console.print(f"budget: {_gib(budget['bytes'])} GiB ({escape(budget['reason'])})")
    libraries = f", libraries {_gib(report['overhead'])} GiB" if report["overhead"] else ""
    console.print(f"weights {_gib(report['weights'])} GiB, adapter {_gib(report['adapter'])} GiB{libraries}")
    _show_tiers(report, console)
    for bits, reason in report["why_not"].items():
        console.print(f"{bits}-bit keys and values: {escape(reason)}")
    if report["engine"] == "mlx":
        console.print('MLX has no dry run of inference: "all" is a lower bound')
    if report["unmeasured"]:
        console.print(f"speed: not measured: {escape(report['unmeasured'])}")
    _show_speeds(report, console)


def _show_tiers(report: Mapping[str, Any], console: Console) -> None:
    table = Table(title="GiB by tokens of prompt and answer: keys and values, all, and the highest moment")
    table.add_column("tokens", justify="right")
    table.add_column("positions")
    for name in (f"KV {report['dtype']}", "8 bits", "4 bits", "all", "highest", "fits"):
        table.add_column(name, justify="right")
    for row in report["tiers"]:
        sizes = (*row["cache"].values(), row["together"], row["peak"])
        cells = ("–" if size is None else f"{size / GIB:.3f}" for size in sizes)
        table.add_row(f"{row['length']:,}", _positions_label(row["context"]), *cells, "yes" if row["fits"] else "no")
    console.print(table)


def _show_speeds(report: Mapping[str, Any], console: Console) -> None:
    for one in report["speeds"]:
        new = f", then {one['new_rate']:,.1f} new tokens/s" if one["new_rate"] else ""
        console.print(
            f"measured here, a prompt of {one['prompt']:,} tokens: {one['prompt_rate']:,.0f} tokens/s{new}; "
            f"{_gib(one['peak'])} GiB at the highest"
        )


def _positions_label(context: Mapping[str, Any]) -> str:
    window = "" if context["window"] == "keep" else f", {context['window']}"
    return f"{'own' if context['method'] == 'none' else context['method']}{window}"


STATUS_MARKS = {"ok": "[green]✓[/green]", "note": "[yellow]![/yellow]", "problem": "[red]✗[/red]"}
TOPIC_WIDTH = 9  # characters of the longest topic


def print_findings(findings: Iterable[DoctorFinding], console: Console) -> list[DoctorFinding]:
    """Print each finding as it comes with its remedy below, and a verdict at the end. Return all of them."""
    shown = []
    with console.status("looking"):
        for finding in findings:
            table = Table.grid(padding=(0, 1))
            table.add_column(width=1)
            table.add_column(width=TOPIC_WIDTH)
            table.add_column(overflow="fold")
            remedy = f"\n[dim]→ {escape(finding.remedy)}[/dim]" if finding.remedy else ""
            table.add_row(STATUS_MARKS[finding.status], finding.topic, escape(finding.what) + remedy)
            console.print(table)
            shown.append(finding)
    console.print(f"\n{doctor_verdict(shown)}")
    return shown


def doctor_verdict(findings: Sequence[DoctorFinding]) -> str:
    """The verdict of all findings in one sentence."""
    problems = [finding.topic for finding in findings if finding.status == "problem"]
    if not problems:
        return "The main job would run."
    return f"The main job would not run: {', '.join(dict.fromkeys(problems))}."


def findings_as_json(findings: Sequence[DoctorFinding]) -> str:
    """Return `{"runs": bool, "findings": [{status, topic, what, remedy}]}`."""
    runs = all(finding.status != "problem" for finding in findings)
    return json.dumps({"runs": runs, "findings": [asdict(finding) for finding in findings]}, indent=2)


GIB, MIB, KIB = 2**30, 2**20, 2**10


def show_presets(rows: Sequence[Mapping[str, Any]], contexts: Sequence[int], console: Console) -> None:
    """Print one line per size: `name`, the counts of `longrepo.pretrain.requirements.calculate_requirements`, and
    `steps` (context → bytes), empty if not requested."""
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
        _show_preset_steps(rows, console)


def _show_preset_steps(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="training all weights, one sequence, a plain step: GiB by context")
    table.add_column("preset")
    for context in rows[0]["steps"]:
        table.add_column(f"{context:,}", justify="right")
    for row in rows:
        table.add_row(row["name"], *(f"{size / GIB:.2f}" for size in row["steps"].values()))
    console.print(table)


def show_bases(report: Mapping[str, Any], console: Console) -> None:
    """Print the result of `longrepo.memory.report.bases_report`."""
    facts = Table(title=f"bases to tune, as of {report['date']}", padding=(0, 0))
    for column in ("base (--model)", "B", "use at work", "tokens", "FIM", "engines"):
        facts.add_column(column, justify="right" if column in ("B", "tokens") else "left", overflow="fold")
    for row in report["bases"]:
        size = f"{row['parameters'] / 1e9:.1f}" if row["parameters"] else "?"
        tokens = f"{row['positions'] // 1024}K" if row["positions"] else "?"
        fim = {True: "yes", False: "no", None: "?"}[row["fim"]]
        use = f"{row['use_at_work']} ({row['license']})"
        facts.add_row(row["name"], size, use, tokens, fim, _engines_label(row))
    console.print(facts)
    for kind, kinds in (("Macs", "Mac"), ("GPUs", "")):
        names = [name for name in report["machines"] if name.startswith("Mac") == bool(kinds)]
        console.print(_memory_of_bases(report["bases"], kind, names))
    console.print(
        "memory: GiB of a step of one sequence with the default settings, 4-bit, by torch in bfloat16 (Macs: Metal's "
        "working set; GPUs: an RTX 4060, a T4, an RTX 4090). c: in chunks, –: more than that, ?: not planned.\n"
        "for this machine, by more methods: longrepo plan --model BASE; what of it works: longrepo doctor --model BASE"
    )
    unverified = [f"{row['name']} ({', '.join(row['unverified'])})" for row in report["bases"] if row["unverified"]]
    console.print(f"not verified: {'; '.join(unverified)}")


def _engines_label(row: Mapping[str, Any]) -> str:
    if not row["torch"]:
        return "?"
    return " ".join(("torch" if row["chunks"] else "torch, no chunks", *(["MLX"] if row["mlx"] else [])))


def _memory_of_bases(rows: Sequence[Mapping[str, Any]], kind: str, machines: Sequence[str]) -> Table:
    lengths = list(rows[0]["fits"][machines[0]])
    table = Table(title=f"memory on {kind}", padding=(0, 0))
    table.add_column("base")
    for tokens in lengths:
        for name in machines:
            table.add_column(f"{tokens // 1024}K on {name.split()[-2]}", justify="right")
    for row in rows:
        cells = (_fit_cell(row, row["fits"][name][tokens]) for tokens in lengths for name in machines)
        table.add_row(row["name"].partition("/")[2], *cells)
    return table


def _fit_cell(row: Mapping[str, Any], fit: tuple[str, int] | None) -> str:
    if fit is None:
        return "–" if row["planned"] else "?"
    method, peak = fit
    return f"{peak / GIB:.1f}{'' if method == 'plain' else 'c'}"


def show_requirements(name: str, report: Mapping[str, Any], console: Console) -> None:
    """Print the result of `longrepo.pretrain.requirements.calculate_requirements`."""
    window = f", attention over {report['window']:,}" if report["window"] else ""
    console.print(
        f"[bold]{escape(name)}[/bold]: {report['layers']} layers of {report['hidden']:,}, {report['heads']} heads "
        f"({report['kv_heads']} of keys and values), vocabulary {report['vocabulary']:,}, "
        f"{report['max_positions']:,} positions{window}"
    )
    _show_parameters(report, console)
    _show_inference_memory(report["inference"], console)
    if report.get("unplanned"):
        console.print(f"training isn't planned: {escape(report['unplanned'])}")
        return
    _show_training_memory(report["training"], console)
    if "machines" in report:
        _show_machine_rows(report["machines"], console)


def _show_parameters(report: Mapping[str, Any], console: Console) -> None:
    table = Table(title="parameters")
    for column in ("part", "count", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, count in report["by_part"].items():
        if count or part in ("positions", "head"):
            table.add_row(_part_label(part, report), f"{count:,}", f"{count / report['parameters']:.2%}")
    table.add_row("all", f"{report['parameters']:,}", "", style="bold")
    console.print(table)
    if lora := report["lora"]:
        share = lora["parameters"] / report["parameters"]
        console.print(
            f"LoRA at r={lora['r']} on {', '.join(lora['modules'])}: {lora['parameters']:,} more ({share:.2%})"
        )


def _part_label(part: str, report: Mapping[str, Any]) -> str:
    if part == "positions":
        return "positions (rotary: none)" if report["rotary"] else "positions (learned)"
    return "head (tied to the embedding)" if part == "head" and report["tied"] else part


def _show_inference_memory(found: Mapping[str, Any], console: Console) -> None:
    table = Table(title="answering, GiB: weights, and keys and values in bf16 by tokens")
    weights = {f"weights, {name}": size for name, size in found["weights"].items()}
    cache = {f"KV, {tokens:,}": size for tokens, size in found["cache"].items()}
    for column in (*weights, *cache):
        table.add_column(column, justify="right")
    table.add_row(*(f"{size / GIB:.3f}" for size in (*weights.values(), *cache.values())))
    console.print(table)
    console.print(f"keys and values of a token: {found['cache_token'] / KIB:.1f} KiB")


def _show_training_memory(steps: Sequence[Mapping[str, Any]], console: Console) -> None:
    contexts = sorted({step["context"] for step in steps})
    table = Table(title="training, GiB of tensors in a plain step (bf16, fused attention), by context")
    for column in ("trained", "batch", *(f"{context:,}" for context in contexts)):
        table.add_column(column, justify="left" if column == "trained" else "right")
    peaks = {(step["trained"], step["batch"], step["context"]): step["peak"] for step in steps}
    for trained, batch in dict.fromkeys((step["trained"], step["batch"]) for step in steps):
        cells = (f"{peaks[trained, batch, context] / GIB:.2f}" for context in contexts)
        table.add_row(trained, str(batch), *cells)
    console.print(table)


def _show_machine_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
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
