"""The model card and the sources' notices, written from the measured figures."""

from __future__ import annotations

import json
from pathlib import Path

NOTES = {
    "PSF-2.0": "Copyright (c) Python Software Foundation",
    "BSD-3-Clause": "Copyright (c) The Go Authors; Copyright (c) Django Software Foundation and individual contributors",
    "MIT OR Apache-2.0": "Copyright (c) The Rust Project Developers",
    "Apache-2.0": "Copyright (c) The Guava Authors; The Netty Project; Google, Inc., Netflix, Inc., Microsoft Corp. and "
                  "contributors (RxJS)",
    "curl (MIT-like)": "Copyright (c) Daniel Stenberg and contributors",
    "blessing (public domain)": "SQLite: the authors disclaim copyright",
    "MIT": "Copyright (c) Twisted Matrix Laboratories; SQLAlchemy authors; Node.js contributors; Lua.org, PUC-Rio; "
           "Rich Felker et al. (musl); Meta Platforms, Inc. and affiliates (React Native); Drifty Co. (Capacitor); "
           "OpenJS Foundation and other contributors (ESLint); JS Foundation and other contributors (webpack); "
           "three.js authors; Effectful Technologies Inc",
}

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [code, starcoder2]
---

# The embedded base model

A code model of {parameters:.1f} M parameters with StarCoder2's architecture that ships inside the package. `--model embedded`
loads it exactly as any Hugging Face folder.

**What it is for.** Trying every command of longrepo within minutes, offline, on any machine; tests and
demonstrations that need a model that reads code, repeats what it saw a thousand tokens earlier and gains from related files.

**What it is not for.** Writing code that anyone uses. It has seen {tokens_m:.1f} M tokens, about a hundred-thousandth of what
StarCoder2-3B has; it knows no library and follows no instruction. Absolute figures of runs on it say nothing about larger models.
Text beyond {native} tokens was never trained on; the model runs there, and the copy probe below says how well.

| | |
|---|---|
| layers, width, MLP | 6, 256, 1024 (`gelu_pytorch_tanh`, biases, LayerNorm, tied embeddings) |
| attention | 8 query heads and 2 KV heads of 32, RoPE (theta 100000), sliding window 4096 |
| context | {native} native |
| vocabulary | 4096, byte-level BPE, one token a digit; StarCoder2's 38 reserved tokens with ids 0-37 in its order; {density:.2f} characters a token |
| weights | {half} ({rounding}) |

## Held-out loss

Files of directory groups kept out of training (3 % of each language), first 1,024 tokens each, after the
repository's name and the path. Intervals: 95 %, bootstrap over files.

| language | nats a token | interval | bits a character | files | tokens |
|---|---|---|---|---|---|
{languages}

## The gate

1. **Copying: {copy_verdict}.** Blocks of 64 tokens of random identifiers stand twice in held-out code; loss of the second copy against the first
   (each without the block's first token). Asked: at most 0.25 at a gap of 1,000 tokens.

| gap in tokens | first copy | second copy | ratio | 95 % interval | blocks |
|---|---|---|---|---|---|
{copying}

2. **Related context: {context_verdict}.** The same {target} tokens at the head of {files} held-out files (in {groups} directory groups), after
   {context} tokens of other files: of the same directory (held out as well), of another directory in the same language, or none.
   Asked: the interval of the difference excludes 0 (bootstrap over directory groups).

| before the file | nats a token |
|---|---|
| nothing | {none:.3f} |
| files of another directory | {random:.3f} |
| files of the same directory | {related:.3f} |

   Related below random: **{gain:.3f}** [{gain_low:.3f}, {gain_high:.3f}]; {helped:.0%} of the files gain. Related below nothing: {gain_none:.3f} [{none_low:.3f}, {none_high:.3f}].

## Training

Seed {seed}; {tokens_m:.2f} M tokens in {steps} steps of 4,096, {minutes:.0f} minutes of training at {speed:.0f} tokens/s on two cores
of a shared Xeon with AMX (bf16 model, float32 master weights; two processes). Muon on the matrices (0.02), AdamW on the rest (0.003); 100 steps of warm-up, constant, linear
to 0 over the last 35 %. Sequences of 512 tokens, from 45 % of the time on 1,024, from 62 % on 2,048. Versions: {versions}.

- Packs in StarCoder2's repository form, neighbours of one directory together; fill-in-the-middle on a quarter of the
  files; identifiers renamed at random, consistently across the pack, in {renamed:.0%} of the packs; about {changes:.0%} synthetic changes in the pull-request
  form (an identifier renamed, a block added: no real history).
- A block of random identifiers repeated in half of the sequences, in a quarter once the reach is 512 tokens. The reach (longest
  distance between copies) starts at 16 tokens and grows by a half whenever the copies' loss falls below 2 nats; it ended at {reach}.
{notes}
The schedule follows the clock, so another machine repeats the method, not the bits. Commands: `scripts/embedded_base/README.md`.

## Sources

{sources}

Left out: generated, minified and vendored files, tables, files over 200 kB, files most of whose lines stand in an earlier one.
No repository that a benchmark measures on is among the sources: `scripts/embedded_base/exclusions` lists them, names are checked when
fetching, and `sources.py check-repository` compares a repository's lines with the sources'. Notices: `LICENSE-sources.md`.
"""


def sources_table(work: Path) -> str:
    """Packages with version (from the archive's name), licence and tokens."""
    record = json.loads((work / "sources.json").read_text())["packages"]
    rows = json.loads((work / "index.json").read_text())
    tokens: dict[str, int] = {}
    for row in rows:
        if row["split"] == "train":
            tokens[row["repository"]] = tokens.get(row["repository"], 0) + row["length"]
    lines = ["| package | from | archive | licence | M tokens for training |", "|---|---|---|---|---|"]
    for package in record:
        archive = ", ".join(name for name in package["archives"] if ".orig-" not in name)
        lines.append(f"| {package['name']} | {package['manager']} | `{archive}` | {package['licence']} | "
                     f"{tokens.get(package['name'].strip('@'), 0) / 1e6:.2f} |")
    total = sum(tokens.values()) / 1e6
    held = sum(row["length"] for row in rows if row["split"] != "train") / 1e6
    return "\n".join(lines) + f"\n\nTogether {total:.1f} M tokens for training, {held:.1f} M held out; drawn by language weight, so that some " \
        "were seen more than once and many never."


def card(work: Path, half: str, rounding: str) -> str:
    """README.md of the model folder."""
    gate = json.loads((work / "gate.json").read_text())
    state = json.loads((work / "training" / "state.json").read_text())
    rows = json.loads((work / "index.json").read_text())
    notes = work / "training" / "notes.md"  # what this run did otherwise than the script says
    from packing import CHANGE_SHARE, RENAME_SHARE  # its constants are what was done
    from publish import parameters, versions

    context, asked = gate["context"], {True: "met", False: "missed"}
    return CARD.format(
        parameters=parameters(work) / 1e6, native=2048, half=half, rounding=rounding,
        notes=notes.read_text() if notes.exists() else "", reach=int(state["reach"]),
        density=sum(row["characters"] for row in rows) / sum(row["length"] for row in rows),
        tokens_m=state["tokens"] / 1e6, steps=state["step"], minutes=state["seconds"] / 60, seed=state["seed"],
        speed=state["tokens"] / state["seconds"], versions=versions(), renamed=RENAME_SHARE, changes=CHANGE_SHARE,
        copy_verdict=asked[gate["passed"]["copying"]], context_verdict=asked[gate["passed"]["context"]],
        languages="\n".join(
            f"| {name} | {v['nats_per_token']:.3f} | {v['interval'][0]:.3f} to {v['interval'][1]:.3f} | "
            f"{v['bits_per_character']:.3f} | {v['files']} | {v['tokens']} |" for name, v in gate["languages"].items()),
        copying="\n".join(
            f"| {gap} | {v['first']:.3f} | {v['second']:.3f} | {v['ratio']:.3f} | {v['interval'][0]:.3f} to "
            f"{v['interval'][1]:.3f} | {v['blocks']} |" for gap, v in gate["copying"].items()),
        target=context["target_tokens"], context=context["context_tokens"], files=context["files"], groups=context["groups"],
        **context["loss"], gain=context["related_below_random"], gain_low=context["interval"][0],
        gain_high=context["interval"][1], helped=context["files_helped"], gain_none=context["related_below_none"],
        none_low=context["interval_none"][0], none_high=context["interval_none"][1], sources=sources_table(work),
    )


def notices(work: Path) -> str:
    """LICENSE-sources.md: whose code the model learned from, under which licence."""
    record = json.loads((work / "sources.json").read_text())["packages"]
    lines = ["# Licences of the training sources", "",
             "The weights hold no copy of these files; the notices are given as a courtesy and for provenance.", ""]
    for licence, holders in NOTES.items():
        names = ", ".join(package["name"] for package in record if package["licence"] == licence)
        lines += [f"- **{licence}**: {names}. {holders}."]
    return "\n".join(lines) + "\n"
