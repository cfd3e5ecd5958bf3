"""What a text's syntax tree says of it, read in one parse and small enough to store. Offsets are characters, lines
begin at 1.

Nothing here raises on odd input: tree-sitter reads broken code too, and a text without a grammar, or too long for
one, is treated by lines.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain

from longrepo.repository.imports.statements import Import, imports_in
from longrepo.repository.syntax.calls import Call, calls_in
from longrepo.repository.syntax.cuts import cuts_in, line_cuts
from longrepo.repository.syntax.definitions import Definition, definitions_in
from longrepo.repository.syntax.grammar import BODIES
from longrepo.repository.syntax.tree import parse

__all__ = ["OUTLINE_VERSION", "Call", "Definition", "Import", "Outline", "outline"]

OUTLINE_VERSION = 2  # of the results: what is stored under another is out of date


@dataclass(frozen=True)
class Outline:
    """`definitions`, `calls` and `imports` in the order they begin, outer before inner; `cuts`, ascending, where the
    text may be cut with its syntax nodes whole; `bodies`, (start, end) of each that holds members or statements."""

    definitions: tuple[Definition, ...]
    calls: tuple[Call, ...]
    imports: tuple[Import, ...]
    cuts: tuple[int, ...]
    bodies: tuple[tuple[int, int], ...]

    def to_json(self) -> str:
        """One line of JSON, columns of values rather than rows."""
        columns = {
            "definitions": list(zip(*self.definitions, strict=True)),
            "calls": list(zip(*self.calls, strict=True)),
            "imports": list(zip(*self.imports, strict=True)),
            "cuts": self.cuts,
            "bodies": list(chain.from_iterable(self.bodies)),
        }
        return json.dumps(columns, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Outline:
        """The outline that `to_json` wrote."""
        columns = json.loads(text)
        bodies = iter(columns["bodies"])
        imports = zip(*columns["imports"], strict=True)
        return Outline(
            tuple(map(Definition, *columns["definitions"])) if columns["definitions"] else (),
            tuple(map(Call, *columns["calls"])) if columns["calls"] else (),
            tuple(Import(module, tuple(names), level, line) for module, names, level, line in imports),
            tuple(columns["cuts"]),
            tuple(zip(bodies, bodies, strict=True)),
        )


def outline(text: str, language: str) -> Outline:
    """The outline of a text; one without a tree has cuts after blank lines, else of every line, and nothing else."""
    parsed = parse(text, language)
    if parsed is None:
        return Outline((), (), (), line_cuts(text), ())
    definitions = definitions_in(parsed)
    at = parsed.characters
    bodies = tuple((at[node.start_byte], at[node.end_byte]) for _, node in parsed.find(BODIES))
    return Outline(definitions, calls_in(parsed, definitions), imports_in(parsed), cuts_in(parsed), bodies)
