"""The demo's settings, shortened, give the loss curves in tests/golden: no change moves the numerics unseen.

A change that is meant to move them writes the curves again, and says so:

    LONGREPO_WRITE_GOLDEN=1 python -m pytest tests/test_golden_curves.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_repository import small_repository

ROOT = Path(__file__).parents[1]
SHORT = {
    "training.precision": "float32",
    "training.report_to": "none",
    "training.max_tokens_per_epoch": 1500,
    "training.gradient_accumulation_steps": 2,
    "training.max_validation_sequences": 1,
    "training.save_every_steps": 0,
    "long_context.phase1_max_length": 256,
    "long_context.phase2_epochs": 0,
    "long_context.phase3_enabled": "false",
}
# On one thread a CPU repeats itself; this is room for the rounding of other instruction sets (not measured on any).
TOLERANCE = 1e-5  # relative


def longrepo(folder: Path, *words: str) -> None:
    settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "longrepo", *words, "--config", str(ROOT / "examples" / "demo.yaml"), *settings]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["torch"])
def test_the_demos_losses_are_those_on_file(engine: str, tmp_path: Path) -> None:
    small_repository(tmp_path / "shop")
    longrepo(tmp_path, "prepare", "--repo", "shop", "--output-dir", "prep", "--phases", "1")
    longrepo(
        tmp_path, "train", "--sequences", "prep/sequences", "--output", "run", "--engine", engine, "--device", "cpu"
    )
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [record["loss"] for record in records if record["record"] == "update"]
    file = ROOT / "tests" / "golden" / f"{engine}.json"
    if os.environ.get("LONGREPO_WRITE_GOLDEN"):
        file.write_text(json.dumps({"update losses": found}, indent=2) + "\n")
    assert len(found) > 1 and found == pytest.approx(json.loads(file.read_text())["update losses"], rel=TOLERANCE)
