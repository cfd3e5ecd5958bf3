"""Load a causal language model, 4-bit or not, ready for an adapter.

Tensors are read and quantized one by one, so the full model is never in memory. The quantized base is cached for the
next start in `<cache>/bases/<key>` (safetensors and one JSON file), which may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitsandbytes
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.data.tokenizer_loading import new_token_rows
from longrepo.engines.base import MODEL_DROPOUTS, Placement, check_model_type, load_errors
from longrepo.engines.torch.device import torch_device, torch_dtype
from longrepo.engines.torch.quantization import quantize_nf4
from longrepo.engines.torch.weights import MetaModel, NotStreamable, WeightFiles, find_weight_files, quantization_config
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, context_messages, engine_config_changes
from longrepo.rope.scaling import check_published_config
from longrepo.utils.cache import cache_folder, remove_oldest
from longrepo.utils.files import TEMPORARY_PREFIX
from longrepo.utils.hub import model_location

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


Tensor = torch.Tensor
CACHE_FORMAT = 1
MAX_CACHED_BASES = 3  # the least recently used one is removed first
MIN_CACHED_BYTES = 200 << 20  # a smaller base is quantized in seconds
_PART_BYTES = 256 << 20  # bytes per file; briefly held twice if the model isn't in the CPU's memory


class DamagedCache(Exception):
    """The cached files differ from what was written."""


def base_cache_entry(
    checkpoint: WeightFiles, config: Any, settings: ModelSettings, placement: Placement
) -> Path | None:
    """Return the cache folder of this base with these settings and library versions; None if it isn't to be cached."""
    folder = cache_folder()
    if folder is None or settings.quantization == "none":
        return None
    facts = {
        "format": CACHE_FORMAT,
        "files": checkpoint.identity(),
        "config": config.to_dict(),
        "quantization": [settings.quantization, settings.double_quantization],
        "dtype": str(torch_dtype(placement)),
        "device": placement.kind,
        "bitsandbytes": bitsandbytes.__version__,
    }
    key = xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True, default=str).encode())
    return folder / "bases" / key


def read_cached_base(entry: Path, skeleton: MetaModel, device: torch.device) -> None:
    """Put every tensor of a cached base into a skeleton. Raises DamagedCache if one differs from what was written."""
    try:
        digests: dict[str, str] = json.loads((entry / "base.json").read_text(encoding="utf-8"))["digests"]
        files = WeightFiles(sorted(entry.glob("*.safetensors")))
        if set(files.names) != set(digests):
            raise DamagedCache("tensors are missing")

        def read(name: str) -> Tensor:
            tensor = files.read(name)
            if _digest(tensor) != digests[name]:
                raise DamagedCache(name)
            return tensor

        quantized: dict[str, list[str]] = {name: [] for name in skeleton.quantized}
        plain = []
        for name in files.names:
            weight = next((name[:end] for end in _dot_positions(name) if name[:end] in quantized), None)
            if weight is not None:
                quantized[weight].append(name)
            elif name not in quantized:
                plain.append(name)
        skeleton.check_names([*plain, *(name for name in quantized if name in files.names)])
        for name in plain:
            skeleton.put(name, read(name))
        for name, parts in quantized.items():
            facts = {part.removeprefix(name + "."): read(part) for part in parts}
            state = bitsandbytes.functional.QuantState.from_dict(facts, device=device)
            skeleton.put_quantized(name, read(name).to(device), state)
        os.utime(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, InputError) as error:
        raise DamagedCache(str(error)) from None


def write_cached_base(entry: Path, skeleton: MetaModel) -> int:
    """Cache a finished model's tensors, without rows that the checkpoint doesn't have; return their size in bytes.

    They are written to a temporary folder that is then renamed. Returns 0 if the model is too small to be worth
    caching. Raises OSError if the disk is full.
    """
    tied = skeleton.model.all_tied_weights_keys
    state = {name: tensor for name, tensor in skeleton.model.state_dict().items() if name not in tied}
    size = sum(tensor.nbytes for tensor in state.values())
    if size < MIN_CACHED_BYTES:
        return 0
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_oldest(entry.parent, MAX_CACHED_BASES - 1)
    free = shutil.disk_usage(entry.parent).free
    if free < size:
        raise OSError(f"it takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    temporary = entry.with_name(f"{TEMPORARY_PREFIX}{entry.name}-{os.getpid()}")
    try:
        temporary.mkdir(mode=0o700)
        digests: dict[str, str] = {}
        for number, part in enumerate(_file_parts(skeleton, state)):
            digests |= {name: _digest(tensor) for name, tensor in part.items()}
            save_file(part, temporary / f"{number:05}.safetensors")
        (temporary / "base.json").write_text(json.dumps({"format": CACHE_FORMAT, "digests": digests}), encoding="utf-8")
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        temporary.rename(entry)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def drop_cached_base(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True)


def _file_parts(skeleton: MetaModel, state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of one file after the other."""
    part: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part[name] = skeleton.published_part(name, tensor).cpu().contiguous()
        if sum(one.nbytes for one in part.values()) >= _PART_BYTES:
            yield part
            part = {}
    if part:
        yield part


def _digest(tensor: Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _dot_positions(name: str) -> Iterator[int]:
    return (at for at, letter in enumerate(name) if letter == ".")


def load_base(
    settings: ModelSettings,
    tokenizer: RepoTokenizer,
    placement: Placement,
    context: ContextSettings = NATIVE_CONTEXT,
) -> tuple[nn.Module, list[str]]:
    """Load a frozen base model onto its device; return it and notes for the terminal.

    Its embedding is widened for the tokenizer; added rows are initialized by `new_token_rows`. Its `config` holds the
    positions of `context`, `published_config` those it was published with. Raises InputError if the model can't be
    loaded.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes: list[str] = []
    where = model_location(settings.name)
    with load_errors(settings.name):
        published, _ = transformers.PreTrainedConfig.get_config_dict(where, revision=settings.revision)
        check_model_type(published)
        check_published_config(published.get("text_config", published))
        config = transformers.AutoConfig.from_pretrained(where, revision=settings.revision).get_text_config()
        before = config.to_dict()
        config.update(engine_config_changes(before, context))
        notes += context_messages(before, context)
        _disable_dropouts(config, notes)
        model = _load(where, config, settings, placement, tokenizer.vocabulary_size, notes)
    model.published_config = before
    model.requires_grad_(False)
    module: Any
    for module in model.modules():
        # On a CPU with AVX512-BF16 bitsandbytes repacks 4-bit weights the first time it sees eval mode. That is lossy
        # and has no backward pass, so validation would silently end the training.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    _fill_added_rows(model, new_token_rows(tokenizer, settings.name, settings.revision))
    return model, notes


def _load(
    where: str, config: Any, settings: ModelSettings, placement: Placement, vocabulary: int, notes: list[str]
) -> Any:
    try:
        if getattr(config, "quantization_config", None) is not None:
            raise NotStreamable("it was published quantized")
        if (checkpoint := find_weight_files(where, settings.revision)) is None:
            raise NotStreamable("it has no safetensors files")
        model = _stream(checkpoint, config, settings, placement, vocabulary, notes)
    except NotStreamable as reason:
        notes.append(f"loaded in one piece by transformers ({reason}): loading takes more memory than planned")
        return _load_unstreamed(where, config, settings, placement, vocabulary)
    with contextlib.suppress(OSError):  # without the file the configuration's values hold
        model.generation_config = type(model.generation_config).from_pretrained(where, revision=settings.revision)
    return model


def _stream(
    checkpoint: WeightFiles,
    config: Any,
    settings: ModelSettings,
    placement: Placement,
    vocabulary: int,
    notes: list[str],
) -> Any:
    entry = base_cache_entry(checkpoint, config, settings, placement)
    if entry is not None and entry.exists():
        skeleton = MetaModel(config, settings, placement, vocabulary)
        try:
            read_cached_base(entry, skeleton, torch_device(placement))
            model = skeleton.finish()
        except DamagedCache:
            drop_cached_base(entry)
            notes.append(f"the quantized base in {entry} was damaged and is made again")
        else:
            notes.append(f"quantized base read from {entry}")
            return model
    skeleton = MetaModel(config, settings, placement, vocabulary)
    _fill_meta_model(skeleton, checkpoint, settings, placement)
    model = skeleton.finish()
    if entry is not None:
        _cache_base(entry, skeleton, notes)
    return model


def _fill_meta_model(
    skeleton: MetaModel, checkpoint: WeightFiles, settings: ModelSettings, placement: Placement
) -> None:
    """The tensors that stay as they are first: the largest, a table of tokens, is then in full beside nothing else."""
    sources = skeleton.match(checkpoint.names)
    for ours, theirs in sources.items():
        skeleton.check_shape(ours, checkpoint.shape(theirs))
    for ours in sorted(sources, key=lambda name: name in skeleton.quantized):
        if ours not in skeleton.quantized:
            skeleton.put(ours, checkpoint.read(sources[ours]))
            continue
        how = torch_dtype(placement), torch_device(placement), settings.double_quantization
        skeleton.put_quantized(ours, *quantize_nf4(checkpoint.read(sources[ours]), *how))


def _cache_base(entry: Path, skeleton: MetaModel, notes: list[str]) -> None:
    try:
        if size := write_cached_base(entry, skeleton):
            notes.append(f"quantized base ({size / 1e9:.1f} GB) cached for the next start in {entry}")
    except OSError as error:
        notes.append(f"quantized base not cached for the next start: can't write to {entry.parent} ({error})")


def _load_unstreamed(where: str, config: Any, settings: ModelSettings, placement: Placement, vocabulary: int) -> Any:
    import transformers

    config_of = quantization_config(settings, placement)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        where,
        revision=settings.revision,
        config=config,
        dtype=torch_dtype(placement),
        attn_implementation="sdpa",
        device_map={"": torch_device(placement)},
        **({} if config_of is None else {"quantization_config": config_of}),
    )
    if placement.kind == "cpu":
        _release_mapped_files(model)
    if vocabulary > model.get_input_embeddings().num_embeddings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def _release_mapped_files(model: nn.Module) -> None:
    """Copy unquantized weights out of the weight files, which the loader maps on a CPU: a single bias that still lies
    in the mapping would keep all of it in the process (6 GB for StarCoder2-3B in bfloat16)."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.clone()


def _disable_dropouts(config: Any, notes: list[str]) -> None:
    """Set the base's own dropouts to 0, so that `lora.dropout` is the only one (StarCoder2 was released with 0.1)."""
    changed = [name for name in MODEL_DROPOUTS if getattr(config, name, 0)]
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
