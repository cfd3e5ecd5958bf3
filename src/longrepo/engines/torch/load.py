"""Loading a causal language model, 4-bit or not, ready for an adapter: tensor by tensor, never the whole in full."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longrepo.config.model_source import model_location
from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.context.change import OWN, positioned
from longrepo.context.rotary import check_published
from longrepo.context.said import lines
from longrepo.engines.base_config import DROPOUTS
from longrepo.engines.said import loading
from longrepo.engines.torch.base_cache import DamagedCache, cached_base, drop_base, read_base, write_base
from longrepo.engines.torch.checkpoint import Checkpoint, find_checkpoint
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.quantised import quantise
from longrepo.engines.torch.skeleton import NotStreamable, Skeleton, quantization
from longrepo.sequences.tokenizer import new_rows

if TYPE_CHECKING:
    from longrepo.sequences.tokenizer import RepoTokenizer


def load_base(
    settings: ModelSettings,
    tokenizer: RepoTokenizer,
    placement: Placement,
    context: ContextSettings = OWN,
) -> tuple[nn.Module, list[str]]:
    """A frozen base model on its device, its embedding wide enough for the tokenizer; and notes for the terminal.

    Its positions are as `context` says, its `config` holds them; `published_config` is what it was made from. Added
    rows begin as `new_rows` says. Raises InputError where the model can't be had.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes: list[str] = []
    where = model_location(settings.name)
    with loading(settings.name):
        published, _ = transformers.PreTrainedConfig.get_config_dict(where, revision=settings.revision)
        check_published(published)
        config = transformers.AutoConfig.from_pretrained(where, revision=settings.revision)
        before = config.to_dict()
        config.update(positioned(before, context))
        notes += lines(before, context)
        _silence_dropouts(config, notes)
        model = _load(where, config, settings, placement, tokenizer.vocabulary_size, notes)
    model.published_config = before
    model.requires_grad_(False)
    module: Any
    for module in model.modules():
        # bitsandbytes repacks 4-bit weights for inference the first time it sees eval mode on a CPU with AVX512-BF16:
        # lossy, and without a backward pass from then on. Validation would silently end the training.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    _fill_added_rows(model, new_rows(tokenizer, settings.name, settings.revision))
    return model, notes


def _load(
    where: str, config: Any, settings: ModelSettings, placement: Placement, vocabulary: int, notes: list[str]
) -> Any:
    try:
        if getattr(config, "quantization_config", None) is not None:
            raise NotStreamable("it was published quantised")
        if (checkpoint := find_checkpoint(where, settings.revision)) is None:
            raise NotStreamable("it has no safetensors files")
        model = _stream(checkpoint, config, settings, placement, vocabulary, notes)
    except NotStreamable as reason:
        notes.append(f"loaded whole by transformers ({reason}): loading takes more memory than the plan says")
        return _load_whole(where, config, settings, placement, vocabulary)
    with contextlib.suppress(OSError):  # then it is what the configuration says
        model.generation_config = type(model.generation_config).from_pretrained(where, revision=settings.revision)
    return model


def _stream(
    checkpoint: Checkpoint,
    config: Any,
    settings: ModelSettings,
    placement: Placement,
    vocabulary: int,
    notes: list[str],
) -> Any:
    entry = cached_base(checkpoint, config, settings, placement)
    if entry is not None and entry.exists():
        skeleton = Skeleton(config, settings, placement, vocabulary)
        try:
            read_base(entry, skeleton, placement.device)
            model = skeleton.finish()
        except DamagedCache:
            drop_base(entry)
            notes.append(f"the quantised base in {entry} was damaged and is made anew")
        else:
            notes.append(f"quantised base read from {entry}")
            return model
    skeleton = Skeleton(config, settings, placement, vocabulary)
    _fill(skeleton, checkpoint, settings, placement)
    model = skeleton.finish()
    if entry is not None:
        _keep(entry, skeleton, notes)
    return model


def _fill(skeleton: Skeleton, checkpoint: Checkpoint, settings: ModelSettings, placement: Placement) -> None:
    """The tensors that stay as they are first: the largest, a table of tokens, is then in full beside nothing else."""
    sources = skeleton.match(checkpoint.names)
    for ours, theirs in sources.items():
        skeleton.check_shape(ours, checkpoint.shape(theirs))
    for ours in sorted(sources, key=lambda name: name in skeleton.quantised):
        if ours not in skeleton.quantised:
            skeleton.put(ours, checkpoint.read(sources[ours]))
            continue
        how = placement.dtype, placement.device, settings.double_quantization
        skeleton.put_quantised(ours, *quantise(checkpoint.read(sources[ours]), *how))


def _keep(entry: Path, skeleton: Skeleton, notes: list[str]) -> None:
    try:
        if size := write_base(entry, skeleton):
            notes.append(f"quantised base ({size / 1e9:.1f} GB) kept for the next start in {entry}")
    except OSError as error:
        notes.append(f"quantised base not kept for the next start: {entry.parent} can't be written to ({error})")


def _load_whole(where: str, config: Any, settings: ModelSettings, placement: Placement, vocabulary: int) -> Any:
    import transformers

    config_of = quantization(settings, placement)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        where,
        revision=settings.revision,
        config=config,
        dtype=placement.dtype,
        attn_implementation="sdpa",
        device_map={"": placement.device},
        **({} if config_of is None else {"quantization_config": config_of}),
    )
    if placement.device.type == "cpu":
        _let_go_of_files(model)
    if vocabulary > model.get_input_embeddings().num_embeddings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def _let_go_of_files(model: nn.Module) -> None:
    """On a CPU the loader maps the weight files; one bias that still lies in the mapping would keep all of it (6 GB
    of StarCoder2-3B in bfloat16) in the process. What wasn't quantised is copied out."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.clone()


def _silence_dropouts(config: Any, notes: list[str]) -> None:
    """StarCoder2 was released with dropouts of 0.1; `lora.dropout` is to be the only one."""
    changed = [name for name in DROPOUTS if getattr(config, name, 0)]
    for name in changed:
        setattr(config, name, 0.0)
    if changed:
        notes.append(f"{', '.join(changed)} of the base set to 0: lora.dropout is the only dropout")


@torch.no_grad()
def _fill_added_rows(model: Any, copies: dict[int, int]) -> None:
    tables = {id(t): t for t in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    for table in tables.values():
        for new, source in copies.items():
            table[new] = table[source]
