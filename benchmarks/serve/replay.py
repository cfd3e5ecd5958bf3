"""How long a completion takes while somebody types, with and without the reuse of prompts, side by side in one run.

    python benchmarks/serve/replay.py [--model embedded] [--file src/longrepo/serve/server.py] [--engine torch]

A part of a file is typed character by character into its middle, with a pause (a request) after each; each request goes
to a server that keeps prompts and to one that doesn't, and both must answer the same. The times are the client's, for a
whole answer; the first request, whose prompt nobody has read, is shown apart. Exit status 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import openai
from rich.console import Console
from rich.table import Table

from longrepo.config.loader import load_settings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.engines.tiers import TieredEngine, model_tiers
from longrepo.serve.model import TunedModel
from longrepo.serve.server import CompletionServer, listen

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    client: openai.OpenAI
    lines: list[str]
    seconds: list[float] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)

    def ask(self, prompt: str, suffix: str | None, new: int) -> str:
        began = time.perf_counter()
        answer = self.client.completions.create(model="", prompt=prompt, suffix=suffix, max_tokens=new)
        self.seconds.append(time.perf_counter() - began)
        while len(self.lines) < len(self.seconds):
            time.sleep(0.001)
        prompt_tokens, kept = re.findall(r"prompt ([\d,]+) tokens \(([\d,]+) kept", self.lines[-1])[0]
        self.computed.append(int(prompt_tokens.replace(",", "")) - int(kept.replace(",", "")))
        return answer.choices[0].text


@contextmanager
def serving(tuned: TunedModel, length: int, slots: int) -> Iterator[Server]:
    listening, lines = listen("127.0.0.1", 0), []
    kept = tuned.prompt_cache(length, slots, None)
    server = CompletionServer(listening, tuned, tuned.prompts(length, None), kept, lines.append)
    thread = Thread(target=server.run)
    thread.start()
    try:
        with openai.OpenAI(base_url="http://{}:{}/v1".format(*listening.getsockname()), api_key="none") as client:
            yield Server(client, lines)
    finally:
        server.stop()
        thread.join()


def load(model: str, engine: str) -> TunedModel:
    settings = load_settings(None, [f"model.name={model}"])
    tokenizer = load_tokenizer(model, None, settings.data.structure_tokens)
    loaded = create_engine(choose_engine(engine, "auto"), settings, tokenizer)
    tiers = model_tiers(settings.model, settings.context, None, 4096)
    return TunedModel(model, TieredEngine(loaded, tiers), tokenizer, settings, ())


def replay(servers: list[Server], text: str, before: int, after: int, characters: int, new: int) -> bool:
    """Type into the middle of a text; return whether all servers gave the same answers."""
    middle = len(text) // 2
    suffix = text[middle + characters : middle + characters + after] or None
    same = True
    for typed in range(characters):
        prompt = text[max(0, middle - before) : middle + typed]
        same &= len({server.ask(prompt, suffix, new) for server in servers}) == 1
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--engine", default="torch", choices=("torch", "mlx"))
    parser.add_argument("--file", type=Path, default=ROOT / "src/longrepo/serve/server.py")
    parser.add_argument("--length", type=int, default=2048, help="tokens of prompt and answer")
    parser.add_argument("--before", type=int, default=4000, help="characters before the cursor")
    parser.add_argument("--after", type=int, default=1000, help="characters after it")
    parser.add_argument("--characters", type=int, default=60, help="characters to type")
    parser.add_argument("--new", type=int, default=4, help="tokens of an answer")
    asked = parser.parse_args()
    tuned, text = load(asked.model, asked.engine), asked.file.read_text()
    table = Table(title=f"{asked.model}, {asked.engine}, {asked.characters} characters typed, {asked.new} new tokens")
    for column in ("prompt", "server", "first, s", "p50, s", "p95, s", "computed tokens, p50", "p95"):
        table.add_column(column, justify="right" if column != "prompt" else "left")
    same = True
    for name, after in (("text before", 0), ("text before and after", asked.after)):
        with ExitStack() as stack:
            servers = [stack.enter_context(serving(tuned, asked.length, slots)) for slots in (0, 4)]
            same &= replay(servers, text, asked.before, after, asked.characters, asked.new)
        rows = [statistics.quantiles(one.seconds[1:], n=20) for one in servers]
        for kind, one, seconds in zip(("reads all", "reuses"), servers, rows, strict=True):
            times = [f"{value:.3f}" for value in (one.seconds[0], seconds[9], seconds[18])]
            computed = statistics.quantiles(one.computed[1:], n=20)
            table.add_row(name, kind, *times, f"{computed[9]:.0f}", f"{computed[18]:.0f}")
        table.add_row("", "ratio", "", *(f"{rows[1][at] / rows[0][at]:.2f}" for at in (9, 18)), "", "")
    Console(width=110).print(table)
    print("all answers are the same" if same else "ANSWERS DIFFER")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
