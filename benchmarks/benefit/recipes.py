"""What else than the sequences could be changed? Recipes on plain chunks of one repository, and what each forgets.

    python benchmarks/benefit/recipes.py --work DIR --on pallets/click [--repos NAME=PATH …] [--general PATH …] ARM …
    python benchmarks/benefit/recipes.py --work DIR --table

Each arm trains the embedded base on the same tokens of `plain` (--tokens), in the same order, one chunk an update, with
one cosine. Measured on validation lines of the repository (every second block), and on those of the others in
`repositories.json` (every eighth): what was forgotten. Arms, A×B being the adapter of arm A at B of its strength:

    base  lr=3e-3  lr=3e-3×0.6          no training; a learning rate; its adapter scaled afterwards
    lr=3e-3,plus=4                      LoRA+: B learns so many times as fast as A
    lr=3e-3,kl=1                        KL to the base on general code (--general: other repositories' clones), so much
    pieces  study=0.5                   pieces of at most 768 tokens; half of the loss a KL to the base that sees other
                                        files' nearest pieces (BM25) before each, which the adapter doesn't
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ARMS, DEMO, OURS, folder_of
from data import clone, sequences_of
from one import measure
from samples import make_samples, samples_of

from longrepo.config.loader import load_settings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.utils.files import write_text_file

HERE = Path(__file__).resolve().parent
COMMITS: dict[str, str] = json.loads((HERE / "repositories.json").read_text())
LAYOUT = "comment"  # the best of plain's and the base's on validation
LENGTH, TOP = 1024, 64  # tokens measured at; of the teacher's log-probabilities
PIECE, CONTEXT, GENERAL = 768, 1200, 256  # tokens
Ids = np.ndarray[Any, Any]
Teacher = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids and log-probabilities of its likeliest, and of the rest


class Trainer:
    """The embedded base with an adapter that begins anew for each arm."""

    def __init__(self, seed: int) -> None:
        settings = load_settings(
            DEMO, ("training.precision=float32", f"training.seed={seed}", "data.structure_tokens=none")
        )
        tokenizer = load_tokenizer(settings.model.name, None, settings.data.structure_tokens)
        engine = create_engine(choose_engine("torch", "cpu"), settings, tokenizer, "cpu")
        assert isinstance(engine, TorchEngine)
        self.engine, self.tokenizer = engine, tokenizer
        self._start = self.weights()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: one.detach().clone() for name, one in self.engine.parameters.items()}

    def load(self, weights: dict[str, torch.Tensor], scale: float = 1.0) -> None:
        with torch.no_grad():
            for name, one in self.engine.parameters.items():
                one.copy_(weights[name] * (scale if "lora_B" in name else 1.0))

    def logits(self, ids: Ids) -> torch.Tensor:
        """`[tokens, vocabulary]`."""
        return self.engine.model(input_ids=torch.from_numpy(ids)[None]).logits[0].float()

    @torch.no_grad()
    def teach(self, ids: Ids, scored: int) -> Teacher:
        """What the base says of the last `scored` tokens."""
        self.engine.model.eval()
        with self.engine.base_only():
            logs = torch.log_softmax(self.logits(ids)[-scored - 1 : -1], -1)
        values, at = logs.topk(TOP, -1)
        return at, values, _rest(values)

    def train(self, texts: list[tuple[Ids, Ids | None]], arm: dict[str, float], general: list[Ids], group: int) -> None:
        """`texts`: (text, context that the teacher sees before it)."""
        self.load(self._start)
        named = self.engine.parameters.items()
        a, b = ([one for name, one in named if ("lora_B" in name) == second] for second in (False, True))
        optimizer = torch.optim.AdamW([{"params": a}, {"params": b}], weight_decay=0.0)
        taught: dict[int, Teacher] = {}
        groups = [texts[at : at + group] for at in range(0, len(texts), group)]
        for update, several in enumerate(groups):
            weight = sum(len(text) - 1 for text, _ in several)
            for text, context in several:
                self._loss(text, context, arm.get("study", 0.0)).div(weight).backward()
            if kl := arm.get("kl"):
                at = update % len(general)
                if at not in taught:
                    taught[at] = self.teach(general[at], len(general[at]) - 1)
                self.engine.model.train()
                loss = _divergence(taught[at], torch.log_softmax(self.logits(general[at])[:-1], -1))
                (kl * loss / (len(general[at]) - 1)).backward()
            torch.nn.utils.clip_grad_norm_([*a, *b], 1.0)
            rate = _cosine(update, len(groups)) * arm.get("lr", 3e-3)
            for part, times in zip(optimizer.param_groups, (1.0, arm.get("plus", 1.0)), strict=True):
                part["lr"] = rate * times
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _loss(self, text: Ids, context: Ids | None, study: float) -> torch.Tensor:
        teacher = None
        if study and context is not None:
            teacher = self.teach(np.concatenate([context, text[1:]]), len(text) - 1)
        self.engine.model.train()
        logs = torch.log_softmax(self.logits(text)[:-1], -1)
        own = (1 - study) * torch.nn.functional.nll_loss(logs, torch.from_numpy(text[1:]), reduction="sum")
        return own if teacher is None else own + study * _divergence(teacher, logs)


def _rest(values: torch.Tensor) -> torch.Tensor:
    return torch.log1p(-values.exp().sum(-1).clamp(max=1 - 1e-6))


def _divergence(teacher: Teacher, logs: torch.Tensor) -> torch.Tensor:
    """KL from the teacher, all but its likeliest tokens taken as one; a sum over positions, nats."""
    at, values, rest = teacher
    own = logs.gather(-1, at)
    return ((values.exp() * (values - own)).sum(-1) + rest.exp() * (rest - _rest(own))).sum()


def _cosine(update: int, updates: int) -> float:
    warm = math.ceil(0.15 * updates)
    if update < warm:
        return (update + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (update - warm + 1) / max(1, updates - warm))))


def chunks(work: Path, name: str, tokens: int, seed: int, cut: int | None) -> list[tuple[Ids, Ids | None]]:
    """Chunks of `plain` in an order of chance, up to so many tokens; cut to pieces, each has others' nearest pieces."""
    file = sequences_of(work, work / "repos" / name.rpartition("/")[2], COMMITS[name], ARMS["plain"])
    paths = [files[0] if files else "" for files in file.column("files")]
    train = [at for at, split in enumerate(file.column("split")) if split == "train"]
    whole = [(paths[at], file.tokens(at).astype(np.int64)) for at in train]
    if cut is not None:
        whole = [(path, ids[at : at + cut]) for path, ids in whole for at in range(0, len(ids), cut)]
        whole = [(path, ids) for path, ids in whole if len(ids) > 32]
    near = Nearest(whole) if cut is not None else None
    found, total = list[tuple[Ids, Ids | None]](), 0
    order = np.arange(len(whole))
    np.random.default_rng(seed).shuffle(order)
    for at in order:
        if total >= tokens:
            break
        ids = whole[at][1]
        total += len(ids)
        found.append((np.concatenate([[0], ids]), near.of(at)) if near else (ids, None))
    return found


class Nearest:
    """Other files' pieces that are like a piece, by BM25 over tokens."""

    def __init__(self, pieces: list[tuple[str, Ids]]) -> None:
        self._pieces = pieces
        self._bags = [Counter(ids.tolist()) for _, ids in pieces]
        seen = Counter(token for bag in self._bags for token in bag)
        self._rare = {token: math.log(1 + (len(pieces) - n + 0.5) / (n + 0.5)) for token, n in seen.items()}
        self._mean = float(np.mean([len(ids) for _, ids in pieces]))

    def of(self, at: int) -> Ids:
        def score(other: int) -> float:
            bag, length = self._bags[other], 1.2 * (0.25 + 0.75 * len(self._pieces[other][1]) / self._mean)
            return sum(self._rare[one] * bag[one] * 2.2 / (bag[one] + length) for one in self._bags[at] if one in bag)

        path = self._pieces[at][0]
        others = sorted((one for one, (of, _) in enumerate(self._pieces) if of != path), key=score, reverse=True)
        shown, room = list[Ids](), CONTEXT
        for other in others[:6]:
            ids = self._pieces[other][1][: room - 1]
            if room < 64:
                break
            shown.insert(0, np.append(ids, 0))
            room -= len(ids) + 1
        return np.concatenate([[0], *shown])


def general_code(clones: list[Path], trainer: Trainer) -> list[Ids]:
    """Pieces of code of other repositories, as many of each."""
    chance, found = random.Random(0), list[Ids]()
    for folder in clones:
        git = ["git", "-C", str(folder)]
        names = subprocess.run([*git, "ls-tree", "-r", "--name-only", "HEAD"], capture_output=True, text=True).stdout
        code = [
            name for name in names.splitlines() if name.endswith((".java", ".go", ".js", ".py", ".rs", ".cc", ".h"))
        ]
        chance.shuffle(code)
        taken = 0
        for name in code:
            text = subprocess.run([*git, "show", f"HEAD:{name}"], capture_output=True, text=True).stdout
            ids = trainer.tokenizer.encode(text)
            if len(ids) > 2 * GENERAL and taken < 8:
                at = chance.randrange(len(ids) - GENERAL)
                found.append(np.array([0, *ids[at : at + GENERAL - 1]], np.int64))
                taken += 1
    chance.shuffle(found)
    return found


def run(options: argparse.Namespace, name: str, trainer: Trainer) -> None:
    """Train an arm, or scale another's adapter, and measure it."""
    place = folder_of(options.work, "recipes") / options.on.rpartition("/")[2]
    result = place / f"{name}--{options.seed}.json"
    if result.exists():
        return
    of, _, scale = name.partition("×")
    if scale:
        trainer.load(torch.load(place / f"{of}--{options.seed}.pt"), float(scale))
    elif of != "base":
        arm = {key: float(value or 0) for key, _, value in (part.partition("=") for part in of.split(","))}
        cut = PIECE if {"pieces", "study"} & set(arm) else None
        general = general_code(options.general, trainer) if "kl" in arm else []
        trainer.train(
            chunks(options.work, options.on, options.tokens, options.seed, cut), arm, general, 2 if cut else 1
        )
    trainer.engine.model.eval()
    if of == "base":
        with trainer.engine.base_only():
            tree = measured(options, trainer)
    else:
        tree = measured(options, trainer)
        place.mkdir(parents=True, exist_ok=True)
        torch.save(trainer.weights(), place / f"{name}--{options.seed}.pt")
    write_text_file(result, json.dumps(tree) + "\n")


def measured(options: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """Rows of `one.measure` on the repository's own lines and on the others'."""

    def rows(name: str, every: int) -> list[list[Any]]:
        folder = options.work / "repos" / name.rpartition("/")[2]
        chosen = [one for one in samples_of(options.work, folder, "validation", LAYOUT) if one.length == LENGTH]
        return measure(trainer.engine, chosen[::every])

    return {"own": rows(options.on, 2), "others": [row for one in COMMITS if one != options.on for row in rows(one, 8)]}


def show(work: Path) -> None:
    """Print each arm against the base, with intervals over commits."""
    for folder in sorted(folder_of(work, "recipes").iterdir()):
        results = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
        base = next(tree for name, tree in results.items() if name.startswith("base--"))
        for name, tree in results.items():
            cells = [f"{part} {_against(base[part], tree[part])}" for part in ("own", "others")]
            print(f"{folder.name:8} {name:22} {'   '.join(cells)}")


def _against(first: list[list[Any]], second: list[list[Any]]) -> str:
    sums = [Counter[str](), Counter[str]()]
    for into, rows in zip(sums, (first, second), strict=True):
        for _, _, group, _, _, nats in rows:
            into[group] += nats
    a, b = (np.array([one[group] for group in sums[0]]) for one in sums)
    draw = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    low, high = np.percentile(100 * (b[draw].sum(1) / a[draw].sum(1) - 1), [2.5, 97.5])
    return f"{100 * (b.sum() / a.sum() - 1):+.2f} % [{low:+.1f}, {high:+.1f}] ({len(a)} commits)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--on", choices=list(COMMITS), default="pallets/click", help="the repository to train on")
    parser.add_argument("--repos", nargs="*", default=[], metavar="NAME=PATH", help="where to clone from")
    parser.add_argument("--general", nargs="*", type=Path, default=[], help="clones of other repositories, for kl")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return show(options.work)
    torch.set_num_threads(1)
    sources = dict(one.split("=", 1) for one in options.repos)
    (options.work / "repos").mkdir(parents=True, exist_ok=True)
    for name, commit in COMMITS.items():
        folder = clone(options.work, name, commit, sources.get(name))
        make_samples(options.work, folder, sequences_of(options.work, folder, commit, OURS))
    trainer = Trainer(options.seed)
    for arm in options.arms:
        run(options, arm, trainer)
    return None


if __name__ == "__main__":
    main()
