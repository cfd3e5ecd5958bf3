"""What works with each base, from preparing to loading an export in other tools: a table of tiny random models.

    python benchmarks/bases/matrix.py --work W [--base NAME …]

Each base of `tiny_bases.py` is taken through the commands a person gives. A cell is `ok`, `–` with the line in which
longrepo says why not, or `FAIL`. Every base runs in a process of its own; what is done is kept in W. Exit status 1 if
a cell failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiny_bases import BASES, TinyBase, write

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
SHARE = 0.6
SETTINGS = (
    "lora.r=4", "lora.dropout=0.1", "model.quantization=none", "training.precision=float32", "training.report_to=none",
    "training.base_learning_rate=0.002", "training.gradient_accumulation_steps=2", "training.max_updates=4",
    "training.max_validation_sequences=2", "training.save_every_steps=1", "data.held_out_per_length=2",
    f"data.fim_share={SHARE}", "data.question_share=0.1", "long_context.phase1_max_length=256",
    "long_context.phase1_epochs=1", "long_context.phase2_min_length=384", "long_context.phase2_max_length=512",
    "long_context.phase2_epochs=0",
)  # fmt: skip
MORE: list[str] = []  # of --set
CHUNKED = ("memory.step=chunked", "memory.chunk_tokens=48")
BEFORE, AFTER = "class Basket:\n    def __init__(self, owner):\n        self.", "\n    return result\n"
NEW = 12


class Refused(Exception):
    """longrepo ended with status 2 and this line."""


def run(*words: str | Path) -> str:
    """Run a command of longrepo in this process; return what it printed. Raises Refused if it ended with status 2."""
    from longrepo.cli.app import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["longrepo", *map(str, words)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    if code == 2:
        raise Refused(err.getvalue().strip().splitlines()[-1])
    if code:
        raise AssertionError(f"status {code}: {err.getvalue()[-400:]}")
    return out.getvalue() + err.getvalue()


@dataclass
class BaseRun:
    """One base's folder, in which all of its cells leave what the next ones need."""

    base: TinyBase
    folder: Path
    repo: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def options(self, *more: str) -> list[str]:
        return [word for one in (f"model.name={self.model}", *SETTINGS, *MORE, *more) for word in ("--set", one)]

    @property
    def sequences(self) -> Path:
        return self.folder / "prepared" / "sequences"

    def prepare(self) -> str:
        """Prepare the sequences; the share of fill-in-the-middle is the one that was asked for, marks round-trip."""
        from longrepo.data.dataset import read_sequences
        from longrepo.data.metadata import tokenizer_of

        said = run("prepare", "--repo", self.repo, "--output-dir", self.folder / "prepared", *self.options())
        file = read_sequences(self.sequences)
        tokenizer = tokenizer_of(file.header, str(self.model))
        kinds, splits = file.column("kind"), file.column("split")
        for index in range(len(file)):
            text = tokenizer.decode(file.tokens(index).tolist())
            marks, again = (
                [id for id in ids if id in tokenizer.special_ids]
                for ids in (file.tokens(index).tolist(), tokenizer.encode_marked(text))
            )
            if marks != again:
                raise AssertionError(f"the marks of sequence {index} ({kinds[index]}) don't survive as text")
        if tokenizer.fim is None:
            if "fill-in-the-middle" not in said:
                raise AssertionError("no fill-in-the-middle, and not a word about it")
            return "no FIM: said"
        files = [i for i in range(len(file)) if kinds[i] == "hierarchical" and splits[i] == "train"]
        share = float(np.mean([tokenizer.fim.suffix in file.tokens(index) for index in files]))
        if abs(share - SHARE) > 0.25:
            raise AssertionError(f"fill-in-the-middle in {share:.0%} of the sequences, not {SHARE:.0%}")
        return f"FIM {share:.0%}"

    def train(self, name: str, *more: str) -> str:
        run("train", "--sequences", self.sequences, "--output", self.folder / name, *self.options(*more))
        losses = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        updates = [row for row in losses if row.get("record") == "update"]
        if len(updates) != 4 or not all(np.isfinite(row["loss"]) for row in updates):
            raise AssertionError(f"{len(updates)} updates")
        return ""

    def gradients(self) -> str:
        """Compare loss and all gradients of the plain and the chunked step of the torch engine."""
        import torch

        from longrepo.config.loader import load_settings
        from longrepo.data.tokenizer_loading import load_tokenizer
        from longrepo.engines.base import StepMethod
        from longrepo.engines.torch.engine import TorchEngine

        settings = load_settings(None, [f"model.name={self.model}", *SETTINGS, *MORE])
        tokenizer = load_tokenizer(str(self.model), None, settings.data.structure_tokens)
        engine = TorchEngine.create(settings, tokenizer, "cpu")
        generator = torch.Generator().manual_seed(1)
        for name, parameter in engine.parameters.items():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05, generator=generator)
        batch = _drawn_batch(tokenizer.vocabulary_size, engine.pad_id)
        found = []
        for method in (StepMethod(), StepMethod("chunked", 50), StepMethod("chunked", 50, "recompute", 2)):
            engine.use(method)
            engine.drop_gradients()
            loss = engine.accumulate(batch, batch.weight, 3)
            gradients = {n: p.grad.numpy().copy() for n, p in engine.parameters.items() if p.grad is not None}
            found.append((loss, gradients))
        return f"{_worst_difference(found):.0e}"

    def resume(self) -> str:
        """Stop a run after its second update, resume it, and compare its end to that of the run left alone."""
        from longrepo import api
        from longrepo.training.launch import SilentReporter

        class Stopper(SilentReporter):
            def update(self, record: Any) -> None:
                if record.update == 2:
                    signal.raise_signal(signal.SIGINT)

        output = self.folder / "resumed"
        overrides = [f"model.name={self.model}", *SETTINGS, *MORE, *CHUNKED]
        api.train(self.sequences, output, overrides=overrides, reporter=Stopper())
        run("train", "--sequences", self.sequences, "--output", output, "--resume", "auto", *self.options(*CHUNKED))
        one, other = (
            (self.folder / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("chunked", "resumed")
        )
        if one != other:
            raise AssertionError("the resumed run's adapter differs")
        return "to the bit"

    def evaluate(self) -> str:
        run("evaluate", self.folder / "plain", "--repo", self.repo, "--quick")
        return ""

    def generate(self) -> str:
        """Complete inside a file of the repository, the text after the position shown if the base has the tokens."""
        file = self.repo / "shop/invoice.py"
        return _fim_note(run("generate", self.folder / "plain", "--file", file, "--line", "12", "--max-tokens", "8"))

    def serve(self) -> str:
        """Ask the server with a `suffix`, and compare its answer to the engine's own."""
        import openai

        from longrepo import api
        from longrepo.data.template import completion_text
        from longrepo.serve.server import CompletionServer, listen

        tuned = api.load(self.folder / "plain", engine="torch")
        prompts, listening = tuned.prompts(256, None), listen("127.0.0.1", 0)
        server = CompletionServer(listening, tuned, prompts)
        from threading import Thread

        thread = Thread(target=server.run)
        thread.start()
        try:
            address = "http://{}:{}/v1".format(*listening.getsockname())
            with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
                answer = client.completions.create(model="any", prompt=BEFORE, suffix=AFTER, max_tokens=NEW)
        except openai.BadRequestError as error:
            raise Refused(str(error.body["message"] if isinstance(error.body, dict) else error)) from None
        finally:
            server.stop()
            thread.join(20)
        own = completion_text(tuned.tokenizer, tuned.engine.generate(prompts.from_text(BEFORE, AFTER, NEW).ids, NEW))
        if answer.choices[0].text != own.rstrip("\N{REPLACEMENT CHARACTER}"):  # no half characters are sent
            raise AssertionError("the server's completion isn't the engine's")
        return ""

    def export(self, kind: str) -> str:
        """Export a run; to mlx with a base of its own if mlx-lm would compute the published one otherwise."""
        options = ["--format", kind, *(["--precision", "float32"] if kind != "peft" else [])]
        said = run("export", self.folder / "plain", *options, "--output", self.folder / f"export-{kind}")
        return next((line for line in said.splitlines() if line.startswith("with a base of its own")), "")

    def _greedy(self) -> tuple[list[int], list[int]]:
        """A prompt and the engine's own greedy continuation."""
        from longrepo import api

        tuned = api.load(self.folder / "plain", engine="torch")
        prompt = tuned.tokenizer.encode(BEFORE)
        return prompt, tuned.engine.generate(prompt, NEW)

    def plain_peft(self) -> str:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        prompt, ours = self._greedy()
        adapter = self.folder / "export-peft"
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        model: Any = AutoModelForCausalLM.from_pretrained(self.model)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        _same(_transformers_greedy(PeftModel.from_pretrained(model, str(adapter)), prompt), ours)
        if tokenizer.encode(BEFORE, add_special_tokens=False) != prompt:
            raise AssertionError("AutoTokenizer gives other token ids than training")
        return ""

    def plain_transformers(self) -> str:
        from transformers import AutoModelForCausalLM

        prompt, ours = self._greedy()
        _same(_transformers_greedy(AutoModelForCausalLM.from_pretrained(self.folder / "export-merged"), prompt), ours)
        return ""

    def mlx_train(self) -> str:
        run("train", "--engine", "mlx", "--sequences", self.sequences, "--output", self.folder / "mlx",
            *self.options(*CHUNKED))  # fmt: skip
        return ""

    def mlx_gradients(self) -> str:
        """Compare loss and all gradients of the plain and the chunked step of the MLX engine, and its plain scores to
        torch's."""
        import mlx.core as mx

        from longrepo.config.loader import load_settings
        from longrepo.data.tokenizer_loading import load_tokenizer
        from longrepo.engines.base import StepMethod
        from longrepo.engines.mlx.engine import MlxEngine
        from longrepo.engines.torch.engine import TorchEngine

        settings = load_settings(
            None,
            [f"model.name={self.model}", *SETTINGS, *MORE, "training.use_gradient_checkpointing=false"],
        )
        tokenizer = load_tokenizer(str(self.model), None, settings.data.structure_tokens)
        engine = MlxEngine.create(settings, tokenizer, "cpu")
        batch = _drawn_batch(tokenizer.vocabulary_size, engine.pad_id)
        with engine.base_only():
            scores = engine.score(batch)
        torch_engine = TorchEngine.create(settings, tokenizer, "cpu")
        with torch_engine.base_only():
            apart = float(np.abs(scores - torch_engine.score(batch)).max())
        mx.random.seed(1)
        for slot in engine.slots:
            if slot.attribute == "lora_b":
                slot.value = 0.05 * mx.random.normal(slot.value.shape)
        found = []
        for method in (StepMethod(), StepMethod("chunked", 50), StepMethod("chunked", 50, "recompute", 2)):
            engine.use(method)
            engine.drop_gradients()
            loss = engine.accumulate(batch, batch.weight, 3)
            found.append((loss, {name: np.array(one) for name, one in engine._gradients.by_name.items()}))
        worst = _worst_difference(found)
        if apart > 1e-4:
            raise AssertionError(f"scores differ from torch's by {apart:.1e}")
        return f"{worst:.0e}, scores within {apart:.0e} of torch's"

    def plain_mlx(self) -> str:
        import mlx_lm

        prompt, ours = self._greedy()
        folder = self.folder / "export-mlx"
        base = folder / "base" if (folder / "base").is_dir() else self.model
        model, tokenizer = mlx_lm.load(str(base), adapter_path=str(folder / "adapters"), trust_remote_code=True)[:2]
        theirs = [one.token for one in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=NEW)]
        _same(theirs, ours)
        return ""


def _drawn_batch(vocabulary: int, pad_id: int) -> Any:
    from longrepo.engines.base import Batch

    draw = np.random.default_rng(0)
    return Batch.of([(draw.integers(0, vocabulary, 171), np.ones(171))], pad_id)


def _worst_difference(found: list[tuple[float, dict[str, Any]]]) -> float:
    """Return the largest difference of the later gradients to the first, relative to its norm, or to a fortieth of all
    gradients'. Raises AssertionError if it, or that of the losses, is above 1e-5."""
    loss, plain = found[0]
    whole = np.linalg.norm([np.linalg.norm(gradient) for gradient in plain.values()])
    worst = max(
        float(np.linalg.norm(one[name] - gradient) / max(np.linalg.norm(gradient), whole / 40))
        for _, one in found[1:] for name, gradient in plain.items()
    )  # fmt: skip
    if worst > 1e-5 or any(abs(other - loss) > 1e-5 * abs(loss) for other, _ in found):
        raise AssertionError(f"gradients differ by {worst:.1e}")
    return worst


def _fim_note(said: str) -> str:
    return "with the text after" if "between the text before and after" in said else "after the text before: said"


def _transformers_greedy(model: Any, prompt: list[int]) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW,
                                    do_sample=False, pad_token_id=0)  # fmt: skip
    return list(map(int, out[0, len(prompt) :]))


def _same(theirs: list[int], ours: list[int]) -> None:
    if theirs[: len(ours)] != ours or not ours:
        raise AssertionError(f"greedy completions differ: {theirs[:6]} and {ours[:6]}")


CELLS: dict[str, Callable[[BaseRun], str]] = {
    "prepare": BaseRun.prepare,
    "train": lambda one: one.train("plain", "memory.step=plain"),
    "in chunks": lambda one: one.train("chunked", *CHUNKED),
    "gradients": BaseRun.gradients,
    "resume": BaseRun.resume,
    "evaluate": BaseRun.evaluate,
    "generate": BaseRun.generate,
    "serve": BaseRun.serve,
    "export peft": lambda one: one.export("peft"),
    "PEFT": BaseRun.plain_peft,
    "export merged": lambda one: one.export("merged"),
    "transformers": BaseRun.plain_transformers,
    "MLX train": BaseRun.mlx_train,
    "MLX gradients": BaseRun.mlx_gradients,
    "export mlx": lambda one: one.export("mlx"),
    "mlx_lm": BaseRun.plain_mlx,
}

NEEDS = {  # what a cell goes on from, if not from the sequences
    "evaluate": "train",
    "generate": "train",
    "serve": "train",
    "resume": "in chunks",
    "export peft": "train",
    "PEFT": "export peft",
    "export merged": "train",
    "transformers": "export merged",
    "export mlx": "train",
    "mlx_lm": "export mlx",
}


def run_base(base: TinyBase, work: Path) -> None:
    """Fill one row; write it to `row.json`, and the tracebacks of failures beside it."""
    from small_repository import small_repository

    from longrepo.errors import InputError

    folder = work / base.name
    one = BaseRun(base, folder, small_repository(folder / "shop"))
    write(base, one.model)
    row: dict[str, tuple[str, str]] = {}
    for name, cell in CELLS.items():
        before = NEEDS.get(name, "prepare")
        if before in row and row[before][0] != "ok":
            row[name] = ("–", row[before][1] if row[before][0] == "–" else f"needs {before}")
            continue
        try:
            row[name] = ("ok", cell(one))
        except (Refused, InputError) as reason:
            row[name] = ("–", str(reason))
        except Exception as error:
            row[name] = ("FAIL", f"{type(error).__name__}: {error}"[:300])
            with (folder / "failures.txt").open("a") as file:
                file.write(f"== {name}\n{traceback.format_exc()}\n")
    (folder / "row.json").write_text(json.dumps(row, ensure_ascii=False, indent=1))


def table(rows: dict[str, dict[str, tuple[str, str]]]) -> str:
    """A Markdown table, and the reasons and figures below it."""
    lines = ["| base | " + " | ".join(CELLS) + " |", "|---" * (len(CELLS) + 1) + "|"]
    for base, row in rows.items():
        lines.append(f"| {base} | " + " | ".join(row[name][0] for name in CELLS) + " |")
    notes = [f"- {base}, {name}: {row[name][1]}" for base, row in rows.items() for name in CELLS if row[name][1]]
    return "\n".join([*lines, "", *notes])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--base", action="append", default=[], help="only these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in all runs")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    MORE.extend(arguments.set)
    if arguments.alone:
        run_base(next(base for base in BASES if base.name == arguments.alone), work)
        return 0
    rows = {}
    for base in BASES:
        if arguments.base and base.name not in arguments.base:
            continue
        file = work / base.name / "row.json"
        if not file.is_file():
            settings = [word for one in arguments.set for word in ("--set", one)]
            subprocess.run([sys.executable, __file__, "--work", work, "--alone", base.name, *settings], check=True)
        rows[base.name] = json.loads(file.read_text())
        print(
            base.name, {name: state for name, (state, _) in rows[base.name].items() if state != "ok"}, file=sys.stderr
        )
    print(table(rows))
    return int(any(state == "FAIL" for row in rows.values() for state, _ in row.values()))


if __name__ == "__main__":
    sys.exit(main())
