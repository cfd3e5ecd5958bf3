"""What an analysis found, as bytes that can be kept and sent between processes, and as a text again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrepo.redaction.redactor import Redactor
from longrepo.sequences.text import Numbers, TokenizedText


@dataclass(frozen=True)
class Analysed:
    """`facts`: findings [[kind, line]…]; for a step also `message` (tokens of " id8 message\\n"), `row` (of the file as
    it was, where its first hunk begins) and `formatting` (only white space differs); for a window `row` (the wanted
    row within it); for what a commit added `added` ([[first row, last row]…], the last excluded)."""

    text: TokenizedText
    facts: dict[str, Any]


def unpack(data: bytes, path: str, path_ids: Numbers) -> Analysed:
    """A result of `Analyser.analyse` as the text of a path; nothing of `data` is held on to."""
    arrays, about = _split(data)
    text = arrays["text"].tobytes().decode("utf-8", "surrogatepass")
    sizes = np.cumsum(arrays["sizes"], dtype=np.int32)
    of = TokenizedText(
        path=path,
        language=about.pop("language"),
        text=text,
        ids=arrays["ids"].astype(np.int32),
        starts=sizes - arrays["sizes"].astype(np.int32),
        rows=np.cumsum(arrays["rows"], dtype=np.int32),
        row_hashes=arrays["row_hashes"].copy(),
        cuts=arrays["cuts"].copy(),
        names=arrays["names"].copy(),
        name_tokens=np.cumsum(arrays["name_tokens"], dtype=np.int32),
        depth=arrays["depth"].copy(),
        weights=arrays["weights"].copy() if "weights" in arrays else None,
        defines=arrays["defines"].copy(),
        path_ids=path_ids,
        outline_json=arrays["outline"].tobytes().decode("utf-8", "surrogatepass"),
    )
    return Analysed(of, about)


def left_out(reason: str) -> bytes:
    """The result for a text that isn't used."""
    return join({}, {"left out": reason})


def why_left_out(data: bytes) -> str:
    """The reason, "" for a text that is used."""
    return str(json.loads(data[: data.index(b"\n")])[1].get("left out", "")) if data.startswith(b"[[], ") else ""


def still_valid(data: bytes, redactor: Redactor | None) -> bool:
    """Whether a kept result hides just the names that are known to be people's now."""
    if redactor is None:
        return True
    arrays, _ = _split(data)
    candidates = arrays["candidates"].tolist() if arrays else []
    return not candidates or list(redactor.names_now(candidates)) == arrays["redacted_names"].tolist()


def narrow(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers (none negative) in the smallest type that holds them."""
    most = int(values.max()) if len(values) else 0
    return values.astype(np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32)


def join(arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> bytes:
    """Arrays behind a line of JSON that says what they are; each begins at a multiple of 8 bytes."""
    layout = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
    head = json.dumps([layout, about], ensure_ascii=True).encode() + b"\n"
    parts = [head, b" " * (-len(head) % 8)]
    for array in arrays.values():
        parts += [array.tobytes(), b"\0" * (-array.nbytes % 8)]
    return b"".join(parts)


def _split(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    end = data.index(b"\n") + 1
    layout, about = json.loads(data[:end])
    at = end + -end % 8
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, count in layout:
        arrays[name] = np.frombuffer(data, dtype, count, at)
        at += arrays[name].nbytes + -arrays[name].nbytes % 8
    return arrays, about
