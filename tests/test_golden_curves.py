"""The demo's settings, shortened, give the loss curves in tests/golden, so that a change of the numerics is noticed.

A change that is meant to alter them writes the curves again, and says so:

    LONGREPO_WRITE_GOLDEN=1 python -m pytest tests/test_golden_curves.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_repository import small_repository

ROOT = Path(__file__).parents[1]
SHORT = {
    "training.precision": "float32",
    "training.report_to": "none",
    "training.gradient_accumulation_steps": 2,
    "training.max_validation_sequences": 1,
    "training.save_every_steps": 0,
    "long_context.phase2_epochs": 0,
    "long_context.phase3_enabled": "false",
}
LENGTHS = {  # MLX is slow on a CPU: fewer and shorter sequences
    "torch": {"training.max_tokens_per_epoch": 1500, "long_context.phase1_max_length": 256},
    "mlx": {"training.max_tokens_per_epoch": 700, "long_context.phase1_max_length": 128},
}
# On one thread a CPU repeats itself; this is room for the rounding of other instruction sets (not measured on any).
TOLERANCE = 1e-5  # relative


MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"]  # what lora.target_modules=auto comes to


@pytest.mark.parametrize("engine", LENGTHS)
def test_the_demos_losses_are_those_on_file(engine: str, tmp_path: Path) -> None:
    changed = [word for key, value in (SHORT | LENGTHS[engine]).items() for word in ("--set", f"{key}={value}")]
    settings = ["--config", str(ROOT / "examples" / "demo.yaml"), *changed]

    def longrepo(command: str, *options: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "longrepo", command, *options, *settings],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    small_repository(tmp_path / "shop")
    longrepo("prepare", "--repo", "shop", "--output-dir", "prep", "--phases", "1")
    longrepo("train", "--sequences", "prep/sequences", "--output", "run", "--engine", engine, "--device", "cpu")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [record["loss"] for record in records if record["record"] == "update"]
    file = ROOT / "tests" / "golden" / f"{engine}.json"
    if os.environ.get("LONGREPO_WRITE_GOLDEN"):
        file.write_text(json.dumps({"update losses": found}, indent=2) + "\n")
    assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["lora"]["target_modules"] == MODULES
    assert len(found) > 1 and found == pytest.approx(json.loads(file.read_text())["update losses"], rel=TOLERANCE)
