"""A small repository with a history: modules that import each other, tests, and commits that change them."""

from __future__ import annotations

from pathlib import Path

from git_helper import Made, make_repo

THINGS = ("account", "invoice", "customer", "payment", "ledger", "report", "parcel", "tariff", "vehicle", "route")


def module(thing: str, uses: str | None, version: int) -> str:
    name = thing.capitalize()
    lines = [f'"""Everything about a {thing}."""', "", "from dataclasses import dataclass", ""]
    lines += [f"from shop.{uses} import {uses.capitalize()}", ""] if uses else []
    lines += ["@dataclass", f"class {name}:", f'    """One {thing} and its parts."""', ""]
    lines += [f"    {thing}_number: int", f"    {thing}_label: str = ''"]
    lines += [f"    {uses}: {uses.capitalize()} | None = None" if uses else "    active: bool = True", ""]
    for step in range(4 + version):
        lines += [
            f"    def {thing}_step_{step}(self, amount: int) -> int:",
            f'        """Step {step} of what a {thing} does with an amount."""',
            f"        if amount < {step}:",
            f"            raise ValueError(f'{thing} {{self.{thing}_number}}: {{amount}} is below {step}')",
            f"        return amount * {step + version} + self.{thing}_number",
            "",
        ]
    return "\n".join(lines) + "\n"


def usage(thing: str) -> str:
    name = thing.capitalize()
    return (
        f"from shop.{thing} import {name}\n\n\ndef test_{thing}_counts() -> None:\n"
        f"    one = {name}({thing}_number=3)\n    assert one.{thing}_step_1(5) == 5 * 2 + 3\n"
    )


def small_repository(folder: Path) -> Path:
    """Twenty-one files and thirty-one commits, the same ids on every machine."""
    commits: list[Made] = [Made({"README.md": "# Shop\n\nAccounts, invoices and all that.\n"}, "Begin")]
    for number, thing in enumerate(THINGS):
        before = THINGS[number - 1] if number else None
        files = {f"shop/{thing}.py": module(thing, before, 1), f"tests/test_{thing}.py": usage(thing)}
        commits.append(Made(files, f"Add the {thing}"))
    for version in (2, 3):
        for number, thing in enumerate(THINGS):
            before = THINGS[number - 1] if number else None
            commits.append(
                Made({f"shop/{thing}.py": module(thing, before, version)}, f"Extend the {thing} ({version})")
            )
    return make_repo(folder, commits)
