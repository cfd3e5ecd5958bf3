"""The model card and the sources' notices, written from the measured figures and the template `card.md`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

NOTES = {
    "PSF-2.0": "Copyright (c) Python Software Foundation",
    "BSD-3-Clause": "Copyright (c) The Go Authors; Django Software Foundation and individual contributors",
    "MIT OR Apache-2.0": "Copyright (c) The Rust Project Developers",
    "Apache-2.0": "Copyright (c) The Guava Authors; The Netty Project; Google, Inc., Netflix, Inc., Microsoft Corp. "
    "and contributors (RxJS)",
    "curl (MIT-like)": "Copyright (c) Daniel Stenberg and contributors",
    "blessing (public domain)": "SQLite: the authors disclaim copyright",
    "MIT": "Copyright (c) Twisted Matrix Laboratories; SQLAlchemy authors; Node.js contributors; Lua.org, PUC-Rio; "
    "Rich Felker et al. (musl); Meta Platforms, Inc. and affiliates (React Native); Drifty Co. (Capacitor); "
    "OpenJS Foundation and other contributors (ESLint); JS Foundation and other contributors (webpack); "
    "three.js authors; Effectful Technologies Inc",
}


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
        lines.append(
            f"| {package['name']} | {package['manager']} | `{archive}` | {package['licence']} | "
            f"{tokens.get(package['name'].strip('@'), 0) / 1e6:.2f} |"
        )
    total = sum(tokens.values()) / 1e6
    held = sum(row["length"] for row in rows if row["split"] != "train") / 1e6
    lines += [
        "",
        f"Together {total:.1f} M tokens for training, {held:.1f} M held out; drawn by language weight, "
        "so that some were seen more than once and many never.",
    ]
    return "\n".join(lines)


def trained(work: Path) -> dict[str, float]:
    """Seed, steps, tokens and seconds of the finished run."""
    run = work / "training" / "run"
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    updates = [record for record in records if record["record"] == "update"]
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    sums = {key: sum(update[key] for update in updates) for key in ("tokens", "seconds")}
    return sums | {"step": len(updates), "seed": settings["training"]["seed"]}


def card(work: Path, half: str, rounding: str) -> str:
    """README.md of the model folder."""
    gate = json.loads((work / "gate.json").read_text())
    state = trained(work)
    rows = json.loads((work / "index.json").read_text())
    notes = work / "training" / "notes.md"  # what this run did otherwise than the script says
    from packing import CHANGE_SHARE, RENAME_SHARE  # its constants are what was done
    from publish import parameters, versions

    context, asked = gate["context"], {True: "met", False: "missed"}
    return (
        (Path(__file__).parent / "card.md")
        .read_text()
        .format(
            parameters=parameters(work) / 1e6,
            native=2048,
            half=half,
            rounding=rounding,
            notes=notes.read_text() if notes.exists() else "",
            density=sum(row["characters"] for row in rows) / sum(row["length"] for row in rows),
            tokens_m=state["tokens"] / 1e6,
            steps=state["step"],
            minutes=state["seconds"] / 60,
            seed=state["seed"],
            speed=state["tokens"] / state["seconds"],
            versions=versions(),
            renamed=RENAME_SHARE,
            changes=CHANGE_SHARE,
            copy_verdict=asked[gate["passed"]["copying"]],
            context_verdict=asked[gate["passed"]["context"]],
            languages="\n".join(
                f"| {name} | {v['nats_per_token']:.3f} | {v['interval'][0]:.3f} to {v['interval'][1]:.3f} | "
                f"{v['bits_per_character']:.3f} | {v['files']} | {v['tokens']} |"
                for name, v in gate["languages"].items()
            ),
            copying="\n".join(
                f"| {gap} | {v['first']:.3f} | {v['second']:.3f} | {v['ratio']:.3f} | {v['interval'][0]:.3f} to "
                f"{v['interval'][1]:.3f} | {v['blocks']} |"
                for gap, v in gate["copying"].items()
            ),
            target=context["target_tokens"],
            context=context["context_tokens"],
            files=context["files"],
            groups=context["groups"],
            **context["loss"],
            gain=context["related_below_random"],
            gain_low=context["interval"][0],
            gain_high=context["interval"][1],
            helped=context["files_helped"],
            gain_none=context["related_below_none"],
            none_low=context["interval_none"][0],
            none_high=context["interval_none"][1],
            sources=sources_table(work),
        )
    )


def notices(work: Path) -> str:
    """LICENSE-sources.md: whose code the model learned from, under which licence."""
    record = json.loads((work / "sources.json").read_text())["packages"]
    lines = [
        "# Licences of the training sources",
        "",
        "The weights hold no copy of these files; the notices are given as a courtesy and for provenance.",
        "",
    ]
    for licence, holders in NOTES.items():
        names = ", ".join(package["name"] for package in record if package["licence"] == licence)
        lines += [f"- **{licence}**: {names}. {holders}."]
    return "\n".join(lines) + "\n"
