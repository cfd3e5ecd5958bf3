"""Small Python packages whose lines are all their own, and a history of one."""

from __future__ import annotations

import hashlib

from git_helper import Made

_SYLLABLES = [f"{one}{two}" for one in "bdfgklmnprstvz" for two in ("a", "e", "i", "o", "u", "ar", "el", "on")]


def words(name: str, number: int) -> list[str]:
    """Eight words that no other function of any module has."""
    drawn = hashlib.sha256(f"{name} {number}".encode()).digest()
    return ["".join(_SYLLABLES[drawn[3 * at + k] % len(_SYLLABLES)] for k in range(3)) for at in range(8)]


def module(name: str, uses: str | None, functions: int) -> str:
    """A Python module of `functions` functions, whose names and words are its own."""
    lines = [f'"""What {name} is for: a module of the test."""', "", "from __future__ import annotations", ""]
    if uses:
        lines += [f"from package.{uses} import {uses}_step_0", ""]
    for number in range(functions):
        body = f"{uses}_step_0({name}_{number}_input)" if uses else f"{name}_{number}_input + {number}"
        one, two, three, four, five, six, seven, eight = words(name, number)
        lines += [
            "",
            f"def {name}_step_{number}({name}_{number}_input: int, {one}: int = {number}) -> int:",
            f'    """Step {number} of {name}, a {two} of {three} with its {four}."""',
            f"    {name}_{number}_result = {body}",
            f"    {five} = {name}_{number}_result - {one} * {six}",
            f"    if {five} > {one}:",
            f"        return {seven}({five}, {eight}={number + 2})",
            f"    return {name}_{number}_result - {one}",
            "",
        ]
    return "\n".join(lines)


NAMES = ("amber", "birch", "cedar", "drift", "ember", "frost", "grain", "heath", "inlet", "jetty")


def history(commits: int) -> list[Made]:
    """Ten modules that import each other in a line, and commits that each change two of them and add a function."""
    sizes = dict.fromkeys(NAMES, 6)

    def file(name: str) -> tuple[str, str]:
        place = NAMES.index(name)
        return f"package/{name}.py", module(name, NAMES[place - 1] if place else None, sizes[name])

    made = [Made(dict(map(file, NAMES)) | {"README.md": "# A package\n\nOf ten modules.\n"}, "Begin the package")]
    for number in range(commits):
        first, second = NAMES[number % 10], NAMES[(3 * number + 1) % 10]
        for name in {first, second}:
            sizes[name] += 2
        made.append(Made(dict(map(file, sorted({first, second}))), f"Add steps to {first} and {second}"))
    return made
