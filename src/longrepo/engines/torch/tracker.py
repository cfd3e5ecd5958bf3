"""Counts the bytes of tensors as they come and go: a step's peak, on real tensors and on fake ones alike."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Operations whose kernel makes further tensors, unseen from outside: run as what they consist of. The packed product
# of bitsandbytes de-quantises the whole weight: where a device has a fused kernel this counts too much, not too little.
CONSISTS_OF: dict[Any, Callable[..., Any]] = {torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit_default_impl}


class PeakTracker(TorchDispatchMode):
    """While entered, counts each new tensor's storage once, from its making to its end. `live` and `peak` are bytes;
    `peaks` holds the highest of each named phase, `at_peak` what lived at the highest of all, by tag. Tensors from
    before count only if adopted."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.peaks: dict[str, int] = {}
        self.by_tag: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self._storages: dict[int, tuple[Any, int, str]] = {}
        self._phase = "other"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in CONSISTS_OF:
            with self:
                return CONSISTS_OF[func](*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:
            return func(*args, **(kwargs or {}))
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in before or storage._cdata in self._storages:
                self._add(storage, self._phase)
        return out

    def adopt(self, tensors: Iterable[torch.Tensor], tag: str) -> None:
        """Count these, too, as `tag`."""
        for tensor in tensors:
            self._add(tensor.untyped_storage(), tag)

    def enter(self, phase: str) -> None:
        """From now on peaks are this phase's, too, and it is the tag of new tensors."""
        self._phase = phase
        self._note()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Peaks within are of phase `name`."""
        before = self._phase
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def _add(self, storage: Any, tag: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        held = self._storages.get(key)
        if held is not None:
            if held[1] == size:
                return
            self._drop(key)
        self._storages[key] = (weakref.ref(storage, partial(self._dropped, key)), size, tag)
        self.live += size
        self.by_tag[tag] += size
        self._note()

    def _dropped(self, key: int, _: Any) -> None:
        self._drop(key)

    def _drop(self, key: int) -> None:
        _, size, tag = self._storages.pop(key, (None, 0, "other"))
        self.live -= size
        self.by_tag[tag] -= size

    def _note(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), self.live)
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, self.by_tag.copy()


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))
