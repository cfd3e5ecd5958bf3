"""The memory plan's estimate for StarCoder2-3B (r=32, batch 1, bfloat16), by device and length. Loads no weights.

python benchmarks/memory_estimates.py [--set lora.r=16]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from full_shape import CONFIG, GIB
from rich.console import Console
from rich.table import Table

from longrepo.config.load import load_settings
from longrepo.memory.estimate import estimate_step
from longrepo.memory.shape import read_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    settings = load_settings(None, parser.parse_args().overrides)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        shape = read_shape(folder)
    table = Table(title="estimated peak of one training step, GiB")
    for column in ("device", "1,024", "2,048", "4,096 tokens"):
        table.add_column(column, justify="right")
    for device, name in (("mps", "Metal (scores materialised)"), ("cuda", "CUDA (fused attention)"), ("cpu", "CPU")):
        totals = [estimate_step(shape, settings, length, device, 2).total / GIB for length in (1024, 2048, 4096)]
        table.add_row(name, *(f"{total:.2f}" for total in totals))
    Console().print(table)


if __name__ == "__main__":
    main()
