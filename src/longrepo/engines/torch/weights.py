"""Read safetensors files a tensor at a time, and put the tensors one by one into a model that was built without
weights, as transformers would build it."""

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

_IDENTITY_BYTES = 1 << 20  # the first bytes of a file, hashed in place of its content


class WeightFiles:
    """Tensors of safetensors files by name. The files are read, not mapped, because mapped pages would stay in the
    process.

    Raises InputError if a file is missing, truncated or unreadable.
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
        """Read a whole tensor as it was written, into the CPU's memory."""
        file, opened = self._holders[name]
        try:
            return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unreadable_weights(file, error) from None

    def identity(self) -> list[list[str | int]]:
        """Return what changes when the files do: names, sizes, times, and a hash of the first mebibyte (the list of
        tensors)."""
        facts: list[list[str | int]] = []
        for file in self.files:
            stat = file.stat()
            with file.open("rb") as content:
                beginning = xxhash.xxh3_128_hexdigest(content.read(_IDENTITY_BYTES))
            facts.append([file.name, stat.st_size, stat.st_mtime_ns, beginning])
        return facts


def find_weight_files(where: str, revision: str | None) -> WeightFiles | None:
    """Return the safetensors files of a folder or a hub repository, downloaded if necessary; None if it has none.

    Raises OSError if the hub can't be reached, InputError if the index is unreadable.
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
        return InputError(f"{file}: the index lists this file, but it doesn't exist; download it again")
    reason = str(error).splitlines()[0]
    return InputError(f"{file}: can't be read as safetensors ({reason}); download it again")


Tensor = torch.Tensor


class NotStreamable(Exception):
    """The checkpoint's tensors don't match the model's one to one; the text says why."""


class MetaModel:
    """A model on the meta device, which `put` and `put_quantized` fill with tensors and `finish` completes.

    Its embedding has `vocabulary` rows if that is more than the configuration says; rows that a checkpoint doesn't have
    are zero. Raises NotStreamable for layers that aren't plain linear ones.
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
        """Map the model's name of each tensor to the checkpoint's, by transformers' own renaming rules.

        Raises NotStreamable if tensors have to be joined or split, InputError if some are missing or left over.
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
        """Raise InputError if the tensors aren't those that the configuration asks for, ties considered."""
        missing = self._published.keys() - set(found)
        report = _loading_info(missing, unexpected)
        self.model._adjust_missing_and_unexpected_keys(report)
        pairs = self.model.all_tied_weights_keys.items()
        tied = {one for pair in pairs for one in pair if not missing.issuperset(pair)}
        wrong = {"lack": report.missing_keys - tied, "have, unknown to its config.json,": report.unexpected_keys}
        for what, names in wrong.items():
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise InputError(f"its weights {what} {min(names)}{more}; download it again")

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise InputError if a checkpoint's tensor hasn't the shape that the configuration asks for."""
        if shape != self._published[name]:
            raise InputError(
                f"{name} has the shape {list(shape)}, its config.json asks for {list(self._published[name])}"
            )

    def put(self, name: str, tensor: Tensor) -> None:
        """Set a parameter or buffer, cast to the model's dtype and moved to its device."""
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
        """Set a 4-bit layer's packed weight and the state that unpacks it, both already on the device."""
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
        """Tie tied weights, compute the buffers that no file holds, and return the model on its device."""
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
        """Return the rows of a finished model's tensor that came from the checkpoint; all rows of a quantized one."""
        rows = self._published.get(name, ())[:1]
        return tensor[: rows[0]] if rows and name not in self.quantized else tensor

    def _is_quantized(self, name: str) -> bool:
        if self._quantizer is None or not self._quantizer.param_needs_quantization(self.model, name):
            return False
        if self._place(name)[0].source_cls is not nn.Linear:
            raise NotStreamable("its layers store their weights transposed")
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
    """Return transformers' quantization config; None if the base isn't quantized."""
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
