"""Safetensors in, meta model filled.

The weights as a model's publisher left them: safetensors files, read a tensor at a time.

A model without weights, as transformers would build it for them, and putting weights into it one by one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
import xxhash
from bitsandbytes.nn import Params4bit  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open
from torch import nn

from longrepo.config.schema import ModelSettings
from longrepo.engines.base import Placement
from longrepo.engines.torch.device import torch_device, torch_dtype
from longrepo.engines.torch.quantization import BLOCK
from longrepo.errors import InputError

_IDENTITY_BYTES = 1 << 20  # bytes of a file that stand for its content


class WeightFiles:
    """Tensors by name. Files are read, not mapped: mapped, all that was read of them would stay in the process.

    Raises InputError for a file that is missing, cut off or can't be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._holders: dict[str, tuple[Path, Any]] = {}
        for file in self.files:
            try:
                opened = safe_open(str(file), framework="pt", device="cpu", backend="pread")
                self._holders.update((name, (file, opened)) for name in opened.keys())  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise _unreadable_weights(file, error) from None

    @property
    def names(self) -> list[str]:
        return list(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._holders[name][1].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor as it was written, on the CPU, in memory of its own."""
        file, opened = self._holders[name]
        try:
            return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unreadable_weights(file, error) from None

    def identity(self) -> list[list[str | int]]:
        """What changes when the files do: names, sizes, times, and the first mebibyte (the list of tensors)."""
        found: list[list[str | int]] = []
        for file in self.files:
            facts = file.stat()
            with file.open("rb") as content:
                beginning = xxhash.xxh3_128_hexdigest(content.read(_IDENTITY_BYTES))
            found.append([file.name, facts.st_size, facts.st_mtime_ns, beginning])
        return found


def find_weight_files(where: str, revision: str | None) -> WeightFiles | None:
    """The safetensors files of a folder or a hub repository, downloaded if need be; None where it has none.

    Raises OSError where the hub can't be reached, InputError for an index that can't be read.
    """
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    def find(name: str) -> str | None:
        return cached_file(where, name, revision=revision, _raise_exceptions_for_missing_entries=False)

    if single := find("model.safetensors"):
        return WeightFiles([Path(single)])
    if (index := find("model.safetensors.index.json")) is None:
        return None
    try:
        shards, _ = get_checkpoint_shard_files(where, index, revision=revision)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: not an index of safetensors files; download it again") from None
    return WeightFiles(Path(shard) for shard in shards)


def _unreadable_weights(file: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{file}: the index names this file, but it isn't there; download it again")
    reason = str(error).splitlines()[0]
    return InputError(f"{file}: can't be read as safetensors ({reason}); download it again")


Tensor = torch.Tensor


class NotStreamable(Exception):
    """The checkpoint's tensors are not the model's one to one: the text says why."""


class MetaModel:
    """`model` lies on the meta device until `put` and `put_quantised` have given it its tensors and `finish` the rest.

    Its embedding has `vocabulary` rows where that is more than the configuration says; what a checkpoint doesn't
    give of them is zero. Raises NotStreamable for layers that are not plain linear ones.
    """

    def __init__(self, config: Any, settings: ModelSettings, placement: Placement, vocabulary: int) -> None:
        import transformers
        from transformers.modeling_utils import local_torch_dtype

        self._device, self._double = torch_device(placement), settings.double_quantization
        with torch.device("meta"):
            self.model: Any = transformers.AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch_dtype(placement), attn_implementation="sdpa"
            )
        self._quantizer = _quantizer(settings, placement)
        if self._quantizer is not None:
            with local_torch_dtype(torch_dtype(placement)):  # new layers' biases take it
                self._quantizer.preprocess_model(
                    self.model, dtype=torch_dtype(placement), device_map={"": torch_device(placement)}
                )
        tensors = self.model.state_dict()
        self._published = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if vocabulary > self.model.get_input_embeddings().num_embeddings:
            self.model.resize_token_embeddings(vocabulary, mean_resizing=False)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        self.quantized = {name for name in tensors if self._is_quantized(name)}

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """The model's name of each tensor to the checkpoint's, by transformers' own rules for renaming.

        Raises NotStreamable where tensors have to be joined or split, InputError where some are missing or left over.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        rules = get_model_conversion_mapping(self.model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        found: dict[str, str] = {}
        unexpected: dict[str, str] = {}
        for theirs in names:
            prefix, known = self.model.base_model_prefix, self._published
            ours, converter = rename_source_key(theirs, renamings, converters, prefix, known)
            if ours not in known and theirs in known:
                ours, converter = theirs, None
            if converter is not None:
                raise NotStreamable("its tensors have to be joined or split")
            (found if ours in known else unexpected)[ours] = theirs
        self.check_names(found, set(unexpected))
        return found

    def check_names(self, found: Collection[str], unexpected: Collection[str] = ()) -> None:
        """Raises InputError where the tensors found are not those that the configuration asks for, ties considered."""
        missing = self._published.keys() - set(found)
        report = _loading_info(missing, unexpected)
        self.model._adjust_missing_and_unexpected_keys(report)
        pairs = self.model.all_tied_weights_keys.items()
        tied = {one for pair in pairs for one in pair if not missing.issuperset(pair)}
        wrong = {"lack": report.missing_keys - tied, "hold, unknown to its config.json,": report.unexpected_keys}
        for what, names in wrong.items():
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise InputError(f"its weights {what} {min(names)}{more}; download it again")

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises InputError where a checkpoint's tensor is not what the configuration asks for."""
        if shape != self._published[name]:
            raise InputError(
                f"{name} has the shape {list(shape)}, its config.json asks for {list(self._published[name])}"
            )

    def put(self, name: str, tensor: Tensor) -> None:
        """Give a parameter or buffer its value, cast to the type and moved to the device that the model has it in."""
        module, leaf = self._place(name)
        wanted = getattr(module, leaf)
        if tensor.shape == self._shapes[name]:
            value = tensor.to(device=self._device, dtype=wanted.dtype)
        else:
            value = torch.zeros(self._shapes[name], dtype=wanted.dtype, device=self._device)
            value[: len(tensor)].copy_(tensor)
        if leaf not in module._buffers:
            value = nn.Parameter(value, requires_grad=False)
        value._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers draws random values otherwise
        setattr(module, leaf, value)

    def put_quantized(self, name: str, packed: Tensor, state: Any) -> None:
        """Give a 4-bit layer its packed weight and what undoes the packing, both on the device already."""
        module, leaf = self._place(name)
        module.quant_state = state
        module._is_hf_initialized = True
        value = Params4bit(
            packed,
            quant_state=state,
            blocksize=BLOCK,
            compress_statistics=self._double,
            quant_type="nf4",
            module=module,
            bnb_quantized=True,
        )
        setattr(module, leaf, value)

    def finish(self) -> Any:
        """Tie what is tied, compute the buffers that no file holds, and return the model, all of it on its device."""
        from transformers.modeling_utils import LoadStateDictConfig

        config = LoadStateDictConfig(device_map={"": self._device}, hf_quantizer=self._quantizer)
        absent = {name for name, tensor in self.model.state_dict().items() if tensor.is_meta}
        self.model._finalize_model_loading(self.model, config, _loading_info(absent))
        self.model.eval()
        if self._quantizer is not None:
            self.model.hf_quantizer = self._quantizer
            self._quantizer.postprocess_model(self.model)
        return self.model

    def published_part(self, name: str, tensor: Tensor) -> Tensor:
        """The rows of a finished model's tensor that a checkpoint gave; all of what isn't the model's but a layer's."""
        rows = self._published.get(name, ())[:1]
        return tensor[: rows[0]] if rows and name not in self.quantized else tensor

    def _is_quantized(self, name: str) -> bool:
        if self._quantizer is None or not self._quantizer.param_needs_quantization(self.model, name):
            return False
        if self._place(name)[0].source_cls is not nn.Linear:
            raise NotStreamable("its layers hold their weights transposed")
        return True

    def _place(self, name: str) -> tuple[Any, str]:
        path, _, leaf = name.rpartition(".")
        return self.model.get_submodule(path), leaf


def _quantizer(settings: ModelSettings, placement: Placement) -> Any:
    from transformers.quantizers.auto import AutoHfQuantizer

    if (config := quantization_config(settings, placement)) is None:
        return None
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.validate_environment(device_map={"": torch_device(placement)})
    return quantizer


def quantization_config(settings: ModelSettings, placement: Placement) -> Any:
    """What transformers calls it; None for a base that stays as it is."""
    from transformers import BitsAndBytesConfig

    if settings.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double_quantization,
        bnb_4bit_compute_dtype=torch_dtype(placement),
    )


def _loading_info(missing: Collection[str], unexpected: Collection[str] = ()) -> Any:
    from transformers.utils.loading_report import LoadStateDictInfo

    return LoadStateDictInfo(
        missing_keys=set(missing),
        unexpected_keys=set(unexpected),
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )
