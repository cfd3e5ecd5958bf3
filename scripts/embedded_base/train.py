"""Train the embedded base model on a CPU; resumable.

    python train.py WORK --minutes 75 [--seed 0]

Two processes of one thread each (data parallel over gloo): on shared cores 2.5 times as fast as one
process of two threads, whose threads wait for each other in every product. Each process runs Muon
on every other layer's matrices; AdamW on the rest runs in both. bf16 model, float32 master weights. The schedule
runs on `progress`, the share of the training minutes that is used up (pauses don't count): warm-up,
constant, linear to 0 over the last 35 %. Run again with another `--minutes` to plan anew: the decay always
happens. Sequences: 512 tokens, from 0.45 on 1,024, from 0.62 on 2,048. The repetition's reach starts at 16 tokens
and grows by a half whenever the copies' loss, averaged over about 50 steps, falls below 2 nats: a reach that
grew with the clock had taught no copying after 4.7 M tokens.
Because the schedule follows the clock, another machine sees another number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from attention import register
from model import configuration
from packing import Corpus, sequence
from probes import quick
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, linear
from transformers import Starcoder2ForCausalLM

TOKENS = 4096  # a step
COPIED_WELL = 2.0  # nats a token at which the reach grows
MATRIX_RATE, OTHER_RATE = 0.02, 3e-3
DECAY = 0.35
SAVE_EVERY, LOOK_EVERY = 180, 480  # seconds


def rate(progress: float, step: int) -> float:
    """Learning-rate factor: 100 steps of warm-up, constant, linear to 0."""
    return min(1.0, (step + 1) / 100, max(0.0, 1 - progress) / DECAY)


def length_at(progress: float) -> int:
    """Tokens a sequence."""
    return 512 if progress < 0.45 else 1024 if progress < 0.62 else 2048


class Trainer:
    """Model, master weights, optimizers and the run's counters."""

    def __init__(self, work: Path, seed: int, rank: int = 0, world: int = 1) -> None:
        torch.manual_seed(seed)
        self.rank, self.world = rank, world
        self.folder = work / "training"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = configuration()
        config.use_cache = False
        self.model = Starcoder2ForCausalLM._from_config(config, attn_implementation=register())
        self.masters = {n: p.detach().clone().requires_grad_() for n, p in self.model.named_parameters()}
        self.model.bfloat16()
        matrices = {n: p for n, p in self.masters.items() if p.ndim == 2 and "embed" not in n}
        # Layers are alike, so that shards by layer number have equal sizes.
        self.shards = [{n: p for n, p in matrices.items() if int(n.split(".")[2]) % world == r} for r in range(world)]
        others = [p for n, p in self.masters.items() if n not in matrices]
        mine = list(self.shards[rank].values())
        self.muon = torch.optim.Muon(mine, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95)
        self.adamw = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.state = {"step": 0, "tokens": 0, "seconds": 0.0, "seed": seed, "reach": 16.0, "copy_loss": 8.0}
        if (self.folder / "state.pt").exists():
            self.resume()

    def resume(self) -> None:
        """Continue from the latest checkpoint."""
        saved = torch.load(self.folder / "state.pt", weights_only=True)
        self.state |= saved["state"]
        for name, value in saved["masters"].items():
            self.masters[name].data.copy_(value)
        self.adamw.load_state_dict(saved["adamw"])
        for name, parameter in self.shards[self.rank].items():
            self.muon.state[parameter]["momentum_buffer"] = saved["momenta"][name]
        self.spread()
        if self.rank == 0:
            print("resumed", self.state, flush=True)

    def spread(self) -> None:
        """Copy the master weights into the bf16 model."""
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(self.masters[name].data)

    def gathered(self, mine: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every matrix by name, from each process's tensors in the order of its shard."""
        flat = torch.cat([tensor.reshape(-1) for tensor in mine])
        parts = [torch.empty_like(flat) for _ in range(self.world)]
        dist.all_gather(parts, flat)
        out: dict[str, torch.Tensor] = {}
        for shard, part in zip(self.shards, parts, strict=False):
            pieces = part.split([p.numel() for p in shard.values()])
            out |= {name: piece.view(p.shape) for (name, p), piece in zip(shard.items(), pieces, strict=False)}
        return out

    def save(self) -> None:
        """Write weights and the resumable state, each beside and then renamed; all processes take part."""
        momenta = self.gathered([self.muon.state[p]["momentum_buffer"] for p in self.shards[self.rank].values()])
        if self.rank:
            return
        saved = {"adamw": self.adamw.state_dict(), "momenta": {n: m.clone() for n, m in momenta.items()}}
        saved |= {"state": self.state, "masters": {n: p.data for n, p in self.masters.items()}}
        torch.save(saved, self.folder / "state.pt.new")
        save_file(saved["masters"], self.folder / "weights.safetensors.new", metadata={"format": "pt"})
        for name in ("state.pt", "weights.safetensors"):
            os.replace(self.folder / (name + ".new"), self.folder / name)
        (self.folder / "state.json").write_text(json.dumps(self.state) + "\n")

    def update(self, ids: torch.Tensor, copied: torch.Tensor, factor: float) -> float:
        """One step on `ids` [sequences, tokens]; returns the loss in nats a token and follows the copies'."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = linear(hidden.reshape(-1, hidden.shape[-1]), self.model.lm_head.weight)
        each = cross_entropy(logits.float(), ids[:, 1:].reshape(-1), reduction="none")
        loss, mask = each.mean(), copied[:, 1:].reshape(-1)
        loss.backward()
        seen = torch.stack([loss.detach(), each.detach()[mask].sum(), mask.sum().float()])
        flat = torch.cat([p.grad.reshape(-1).float() for p in self.model.parameters()] + [seen])
        dist.all_reduce(flat)
        flat /= self.world
        pieces = flat[:-3].split([p.numel() for p in self.model.parameters()])
        for (name, parameter), piece in zip(self.model.named_parameters(), pieces, strict=False):
            self.masters[name].grad = piece.view(parameter.shape)
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.adamw.param_groups[0]["params"], 1.0)
        for optimizer, peak in ((self.muon, MATRIX_RATE), (self.adamw, OTHER_RATE)):
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
        for name, value in self.gathered([p.data for p in self.shards[self.rank].values()]).items():
            self.masters[name].data.copy_(value)
        self.spread()
        self.widen(flat[-2].item(), flat[-1].item())
        return flat[-3].item()

    def widen(self, total: float, count: float) -> None:
        """Follow the copies' loss (the same in every process) and let the reach grow when it is low."""
        if count:
            self.state["copy_loss"] += 0.03 * (total / count - self.state["copy_loss"])
        if self.state["copy_loss"] < COPIED_WELL and self.state["reach"] < 2048:
            self.state["reach"] *= 1.5
            self.state["copy_loss"] += 1.0  # about 50 steps before it can grow again

    def log(self, entry: dict) -> None:
        """Append to the log and print."""
        line = json.dumps(
            {
                "step": self.state["step"],
                "tokens": self.state["tokens"],
                "minutes": round(self.state["seconds"] / 60, 2),
            }
            | entry
        )
        print(line, flush=True)
        with open(self.folder / "log.jsonl", "a") as opened:
            opened.write(line + "\n")


def run(rank: int, options: argparse.Namespace) -> None:
    """One process's part of the training."""
    torch.set_num_threads(1)
    meeting = options.work / "training" / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=options.processes)
    corpus, held = Corpus(options.work), Corpus(options.work, "held-out")
    trainer = Trainer(options.work, options.seed, rank, options.processes)
    state, running = trainer.state, []
    saved = looked = state["seconds"]
    while (progress := state["seconds"] / 60 / options.minutes) < 1:
        begun = time.monotonic()
        length = length_at(progress)
        name = f"{state['seed']}/{state['step']}/"
        made = [
            sequence(corpus, random.Random(name + str(number)), length, int(state["reach"]))
            for number in range(rank, TOKENS // length, options.processes)
        ]
        ids, copied = (torch.tensor(column) for column in zip(*made, strict=False))
        running.append(trainer.update(ids, copied, rate(progress, state["step"])))
        spent = torch.tensor(time.monotonic() - begun, dtype=torch.float64)
        dist.broadcast(spent, 0)  # every process must see the same clock
        state["step"] += 1
        state["tokens"] += TOKENS
        state["seconds"] += spent.item()
        if state["step"] % 25 == 0 and rank == 0:
            trainer.log(
                {
                    "loss": round(sum(running) / len(running), 4),
                    "length": length,
                    "tokens_s": round(TOKENS / spent.item()),
                    "rate": round(rate(progress, state["step"]), 3),
                    "reach": int(state["reach"]),
                    "copy_loss": round(state["copy_loss"], 3),
                }
            )
            running.clear()
        if state["seconds"] - looked > LOOK_EVERY:
            looked = state["seconds"]
            if rank == 0:
                trainer.log({"look": quick(trainer.model, held)})
            dist.barrier()
        if state["seconds"] - saved > SAVE_EVERY:
            saved = state["seconds"]
            trainer.save()
    trainer.save()
    if rank == 0:
        trainer.log({"look": quick(trainer.model, held), "finished": True})
    dist.destroy_process_group()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    (options.work / "training").mkdir(parents=True, exist_ok=True)
    (options.work / "training" / "meeting").unlink(missing_ok=True)
    multiprocessing.spawn(run, (options,), options.processes)


if __name__ == "__main__":
    main()
