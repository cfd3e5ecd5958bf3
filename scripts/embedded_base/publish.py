"""Write the model folder that ships: weights in half precision, tokenizer, configuration, card.

    python publish.py WORK PACKAGE

Without WORK/gate.json (see gate.py) there is no card yet; run it again after the gate. Files
are written beside and renamed, so a reader never finds half a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

import numpy
import tokenizers
import torch
import transformers
from card import card, notices
from model import ROPE_THETA, configuration
from safetensors.torch import load_file, save_file
from transformers import Starcoder2ForCausalLM

LIMIT = 12_000_000  # bytes the folder may have


def put(path: Path, text: str) -> None:
    """Write a text file atomically."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def weights(work: Path) -> dict[str, torch.Tensor]:
    """The finished run's float32 weights; the random initialisation where there is none."""
    latest = work / "training" / "run" / "model" / "model.safetensors"
    if latest.exists():
        return load_file(latest)
    torch.manual_seed(0)
    state = Starcoder2ForCausalLM(configuration()).state_dict()
    return {name: value for name, value in state.items() if name != "lm_head.weight"}


def parameters(work: Path) -> int:
    """Trained numbers; the tied head counts once."""
    return sum(value.numel() for value in weights(work).values())


def versions() -> str:
    """Versions of what trained the model."""
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"tokenizers {tokenizers.__version__}, numpy {numpy.__version__}"
    )


def rounding(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative error of the weights in each half precision (infinite where one overflows)."""
    norm = sum(value.double().square().sum() for value in state.values()).sqrt()
    return {
        str(half).removeprefix("torch."): float(
            sum((value.to(half).double() - value.double()).square().sum() for value in state.values()).sqrt() / norm
        )
        for half in (torch.float16, torch.bfloat16)
    }


def publish(work: Path, package: Path) -> None:
    """Write every file of the model folder; the half precision is the one that loses less."""
    package.mkdir(parents=True, exist_ok=True)
    errors = rounding(weights(work))
    name = min(errors, key=errors.get)
    half = getattr(torch, name)
    stored = {name: value.to(half).contiguous() for name, value in weights(work).items()}
    save_file(stored, package / "model.safetensors.new", metadata={"format": "pt"})
    (package / "model.safetensors.new").chmod(0o644)
    os.replace(package / "model.safetensors.new", package / "model.safetensors")
    config = configuration()
    config.dtype = half
    settings = json.loads(config.to_json_string(use_diff=False)) | {"rope_theta": ROPE_THETA}
    always = {"rope_theta", "architectures", "dtype", "use_bias", "hidden_act"}
    kept = {key: settings[key] for key in sorted(json.loads(config.to_json_string()).keys() | always)}
    put(package / "config.json", json.dumps(kept, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "_from_model_config": True}
    put(package / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if not (package / file).exists() or (package / file).read_bytes() != (work / "tokenizer" / file).read_bytes():
            shutil.copy(work / "tokenizer" / file, package / file)
    if (work / "gate.json").exists():
        words = ", ".join(f"{each} {error:.1e}" for each, error in errors.items())
        put(package / "README.md", card(work, name, f"relative rounding error: {words}"))
        put(package / "LICENSE-sources.md", notices(work))
    size = sum(path.stat().st_size for path in package.iterdir() if path.is_file())
    if size > LIMIT:
        raise SystemExit(f"{package}: {size} bytes, more than {LIMIT}")
    print(f"{package}: {size / 1e6:.2f} MB")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("package", type=Path)
    options = parser.parse_args()
    publish(options.work, options.package)


if __name__ == "__main__":
    main()
