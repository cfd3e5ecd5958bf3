"""Loading a base in 4-bit: transformers' from_pretrained, ours from the published files, ours from what it kept.

    python benchmarks/memory/true_shape.py SHAPES            (makes SHAPES/starcoder2-3b-shape, 6 GB, random weights)
    python benchmarks/memory/loading.py --model SHAPES/starcoder2-3b-shape [--precision bfloat16] [--cap-gib 5.33]

Each way in a process of its own, its memory sampled every 20 ms; `above` is the peak of anonymous memory without what
the libraries held before and what the loaded model holds after it. Linux; --cap-gib needs the right to make cgroups.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from capped import GIB, memory_cgroup
from rich.console import Console
from rich.table import Table

WAYS = ("from_pretrained", "ours, first start", "ours, next start")
EVERY = 0.02  # seconds between two samples
ADDED = 20  # rows of the embedding, as the real tokenizer's structure tokens have them


class StructureTokens:
    def __init__(self, vocabulary: int) -> None:
        self.vocabulary_size = vocabulary + ADDED
        self.initial_from = {vocabulary + k: k for k in range(ADDED)}


def status(pid: int | str, key: str) -> int:
    """Bytes of a line of the kernel's account of a process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), 0)


def load(way: str, model: str, precision: str) -> None:
    """In the child: import, say so, load, say what it took."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from longrepo.config.loader import load_settings
    from longrepo.engines.torch.device import select_torch_device, torch_dtype
    from longrepo.engines.torch.load import load_base

    tokens = StructureTokens(json.loads((Path(model) / "config.json").read_text())["vocab_size"])
    AutoModelForCausalLM.from_pretrained  # noqa: B018  # imports what it needs
    settings = load_settings(None, [f"model.name={model}", f"training.precision={precision}"])
    placement = select_torch_device("cpu", precision)
    before = status("self", "RssAnon")
    began = time.perf_counter()
    notes: list[str] = []
    loaded: Any
    if way == "from_pretrained":
        loaded = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=torch_dtype(placement),
            device_map={"": "cpu"},
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch_dtype(placement),
            ),
        )
        loaded.resize_token_embeddings(tokens.vocabulary_size, mean_resizing=False)
    else:
        loaded, notes = load_base(settings.model, tokens, placement)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in loaded.state_dict().values()}
    print(
        json.dumps(
            {
                "seconds": seconds,
                "before": before,
                "held": status("self", "RssAnon") - before,
                "resident": status("self", "VmHWM"),
                "tensors": sum(storages.values()),
                "notes": notes,
                "threads": torch.get_num_threads(),
            }
        )
    )


def measure(way: str, given: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """Run one way in a child, sample its anonymous memory, and return what it said with the peak."""
    command = [sys.executable, __file__, "--model", given.model, "--precision", given.precision, "--way", way]
    limit = None if given.cap_gib is None else int(given.cap_gib * GIB)
    with memory_cgroup(limit) if limit else nullcontext() as group:
        child = subprocess.Popen(
            group.within(command) if group else command,
            env={**os.environ, "LONGREPO_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak = 0
        while child.poll() is None:
            peak = max(peak, status(child.pid, "RssAnon"))
            time.sleep(EVERY)
        out, errors = child.communicate()
        killed = group is not None and group.kills() > 0
    if child.returncode and not killed:
        sys.exit(errors)
    return {"peak": peak, "killed": killed, **(json.loads(out.splitlines()[-1]) if not killed else {})}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--cap-gib", type=float)
    parser.add_argument("--only", choices=WAYS, action="append", help="this way alone; may be repeated")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        load(given.way, given.model, given.precision)
        return 0
    versions = " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers", "bitsandbytes"))
    cap = f", memory cgroup of {given.cap_gib} GiB" if given.cap_gib else ""
    table = Table(
        title=f"loading {Path(given.model).name} in 4-bit, {given.precision}{cap}",
        caption=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions}; GiB\n"
        f"python {shlex.join(['benchmarks/memory/loading.py', *sys.argv[1:]])}",
    )
    for column in ("way", "seconds", "peak resident", "peak anonymous", "libraries", "held after", "tensors", "above"):
        table.add_column(column, justify="left" if column == "way" else "right")
    with tempfile.TemporaryDirectory() as cache:
        for way in given.only or WAYS:
            found = measure(way, given, Path(cache))
            if found["killed"]:
                table.add_row(way, "killed", "", f"{found['peak'] / GIB:.2f}")
                continue
            print(f"{way}: {'; '.join(found['notes'])}", file=sys.stderr)
            above = found["peak"] - found["before"] - found["held"]
            figures = (found["resident"], found["peak"], found["before"], found["held"], found["tensors"], above)
            table.add_row(way, f"{found['seconds']:.1f}", *(f"{figure / GIB:.2f}" for figure in figures))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
