"""Write the tables of docs/dialects.md from the table of dialects.

    python scripts/dialect_table.py

What stands outside the two comments of each table stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from longrepo.data.dialects import DIALECTS, Dialect, FimOrder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "dialects.md"
_ORDERS = {
    FimOrder.PSM: "prefix, suffix, middle",
    FimOrder.SPM: "suffix, prefix, middle",
    FimOrder.SPM_JOINED: "suffix, then prefix and middle joined",
}


def with_tables(page: str) -> str:
    """Return a page with its tables as the dialects are now."""
    for name, rows in (("tokens", _tokens()), ("sources", _sources())):
        inside = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        page = re.sub(
            f"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda found, inside=inside: found[1] + inside + found[2],
            page,
            flags=re.DOTALL,
        )
    return page


def _tokens() -> Iterable[tuple[str, ...]]:
    yield "dialect", "fill-in-the-middle: prefix, suffix, middle", "order", "repository, file", "changes", "begins with"
    yield ("---",) * 6
    for one in DIALECTS:
        yield one.name, _fim(one), _order(one), _places(one), _changes(one), _code(one.begin if one.begins else None)


def _fim(one: Dialect) -> str:
    if one.fim is None:
        return "none"
    end = f"; end {_code(one.fim.end)}" if one.fim.end else ""
    return " ".join(_code(name) for name in (one.fim.prefix, one.fim.suffix, one.fim.middle)) + end


def _order(one: Dialect) -> str:
    return "; ".join(_ORDERS[order] for order in one.fim.orders) if one.fim else "–"


def _places(one: Dialect) -> str:
    return " ".join(_code(name) for name in (one.repository, one.file))


def _changes(one: Dialect) -> str:
    if one.pull_request:
        return f"{_code(one.pull_request.start)} …"
    return _code(one.commit.before) + " …" if one.commit else _code(None)


def _sources() -> Iterable[tuple[str, ...]]:
    yield "dialect", "bases", "told by", "source"
    yield ("---",) * 4
    for one in DIALECTS:
        yield (
            one.name,
            ", ".join(one.bases) or "others",
            " ".join(map(_code, one.needed)),
            one.source.replace("|", "\\|"),
        )


def _code(name: str | None) -> str:
    return "–" if name is None else f"`{name}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
