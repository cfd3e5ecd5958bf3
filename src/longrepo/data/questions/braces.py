"""Languages with braces, read by lines and brackets, for checking answers without a grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

LANGUAGES = {
    **dict.fromkeys(("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "cts", "vue", "svelte"), "script"),
    **dict.fromkeys(("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "inl", "ipp", "m", "mm", "cu", "cuh"), "c"),
    **dict.fromkeys(("java", "cs"), "java"),
    **dict.fromkeys(("kt", "kts", "scala", "swift", "php", "dart", "groovy"), "other"),
    "go": "go",
    "rs": "rust",
}
_TYPES = "class|struct|enum|union|trait|interface|record|object|protocol"
_FUNCTIONS = r"def|func|fn|function|fun|sub"
_EVERYWHERE = rf"(?<![\w.])(?:{_TYPES}|{_FUNCTIONS}|type|typedef|module|namespace|mod|macro|macro_rules!|define)"
_CONTROL = frozenset(
    re.findall(
        r"\w+",
        "if for while switch catch match synchronized using with return else do try when foreach lock unsafe loop new "
        "throw await yield case sizeof delete in of not and or elif except assert print typeof instanceof",
    )
)
_LITERAL = {
    "script": r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"
    r"|(?:(?<=[=(,:\[;!&|?{}])|(?<=return))\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*",
    "go": r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.[^'\n]*|[^'\\\n])'|`[^`]*`",
    "rust": r"\br(#*)\".*?\"\1|\"(?:\\.|[^\"\\])*\"|'(?:\\[^'\n]*|[^'\\\n])'",
    "c": r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
}
_PLAIN_LITERAL = r"\"\"\".*?\"\"\"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
_COMMENT = r"//[^\n]*|/\*.*?\*/"
_NAMED = re.compile(
    r"\bfn\s+(\w+)|\bfunc\s+(?:\([^)]*\)\s*)?(\w+)|\bfunction\s*\*?\s*(\w+)|\bfun\s+(?:<[^>]*>\s*)?(?:\w+\.)*(\w+)"
    r"|\bdef\s+(\w+)|\b(?:const|let|var)\s+(\w+)\s*(?::[^=]*)?=\s*(?:async\s*)?(?:\([^=]*\)|\w+)\s*(?::[^=]*)?=>\s*$"
)
_UNNAMED = re.compile(
    r"\bfunction\s*\*?\s*\(|=>\s*$|\bfunc\s*\(|->\s*$|\|[^|]*\|\s*(?:->\s*[\w<>]+\s*)?$|\bnew\s+[^;]*\)\s*$"
)
_CALLABLE = re.compile(r"([\w$]+)\s*(?:<[^<>()]*>)?\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)[^()=;]*$")


@dataclass(frozen=True)
class Block:
    """A pair of braces: what stands before it back to the last statement, and where it begins and ends."""

    header: str
    start: int
    end: int


class BraceFile:
    """One file of a language with braces."""

    def __init__(self, text: str, family: str) -> None:
        self.text = text
        self.family = family

    @cached_property
    def masked(self) -> str:
        """The text with comments and literals blanked, of the same length."""
        literals = _LITERAL.get(self.family, _PLAIN_LITERAL)
        directives = r"|^[ \t]*#(?:\\\n|/(?![*/])|[^\n/])*" if self.family == "c" else ""
        pattern = re.compile(f"{_COMMENT}|{literals}{directives}", re.DOTALL | re.MULTILINE)
        return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), self.text)

    def position(self, line: int, name: str) -> int:
        """Where a name stands in a line (from 1); its start where it stands only in a literal or comment."""
        start = self._starts[line - 1]
        end = self.masked.find("\n", start)
        match = re.compile(rf"\b{name}\b").search(self.masked, start, end if end >= 0 else len(self.masked))
        return match.start() if match else start

    def around(self, at: int) -> list[Block]:
        """The blocks around a position, innermost first."""
        return sorted((one for one in self._blocks if one.start < at < one.end), key=lambda one: -one.start)

    def function_around(self, at: int) -> str:
        """The name of the innermost function around a position; "" for an unnamed one or none."""
        for block in self.around(at):
            header = block.header.strip()
            found = _NAMED.search(header)
            if found:
                return next(group for group in found.groups() if group)
            if _UNNAMED.search(header):
                return ""
            callable_ = _CALLABLE.search(header)
            if callable_ and callable_.group(1) not in _CONTROL and not re.match(r"(?:else|if|for|while)\b", header):
                return callable_.group(1)
        return ""

    def type_around(self, at: int) -> str:
        """The name of the type whose body is the innermost block around a position; "" where it is no type's."""
        blocks = self.around(at)
        found = re.search(rf"\b(?:{_TYPES})\s+(\w+)", blocks[0].header) if blocks else None
        return found.group(1) if found else ""

    def head(self, at: int) -> str:
        """The masked text from a position to what opens or ends its body, on one line."""
        return " ".join(re.split(r"[{;]", self.masked[at:], maxsplit=1)[0].split())

    def begins(self, at: int) -> bool:
        """Whether nothing of the same statement stands before a position."""
        before = self.masked[:at]
        if self.family in ("go", "script", "other") and not before[before.rfind("\n") + 1 :].strip():
            return True  # a statement ends with its line
        return before.rstrip()[-1:] in ("", *"{};)]>*:")

    def parameters(self, at: int) -> str:
        """What stands in the first brackets from a position on, without white space."""
        opening = self.masked.find("(", at)
        depth = 0
        for end in range(opening, len(self.masked)):
            depth += {"(": 1, ")": -1}.get(self.masked[end], 0)
            if depth == 0:
                return "".join(self.text[opening + 1 : end].split())
        return ""

    def defines(self, line: int, name: str, kind: str) -> bool:
        """Whether a line defines something of a name, by the looks of it."""
        start = self._starts[line - 1]
        end = self.masked.find("\n", start)
        shown = self.masked[start : end if end >= 0 else len(self.masked)]
        if not re.search(rf"\b{name}\b", shown):  # a comment or literal
            said = self.text[start : start + len(shown)]
            if self.family == "c":  # a tag is named wherever it is used
                said = re.sub(rf"\b(?:struct|enum|union|class)\s+{name}\b(?!\s*\{{)", "", said)
            return defines_anywhere(said, name)
        for match in re.finditer(rf"\b{name}\b", shown):
            constructor = self.masked[start + match.end() :].lstrip().startswith("(")
            if constructor and self.type_around(start + match.start()) == name:
                continue
            if self._defines_at(shown[: match.start()], start + match.start(), start + match.end(), kind):
                return True
        return False

    def _defines_at(self, before: str, at: int, end: int, kind: str) -> bool:
        after = self.masked[end : end + 2000]
        if self.family == "c" and re.search(r"\b(?:struct|enum|union|class)\s+$", before):
            return re.match(r"\s*(?:final\s*)?(?:\{|:[^:])", after) is not None
        if re.search(rf"{_EVERYWHERE}\s+\*?$", before):
            return True
        if self.family == "go":
            if re.search(r"^\s*func\s*\([^)]*\)\s*$|\b(?:var|const)\s+$", before):
                return True
            if not before.strip() and kind == "method" and after.startswith("("):
                return True
            return not before.strip() and re.match(r"\s+(?:struct|interface|func)\b", after) is not None
        if self.family == "rust":
            return re.search(r"\b(?:const|static)\s+$", before) is not None
        if self.family == "script":
            return self._script_defines(before, after)
        if self.family == "c" and self._typedef(at, after):
            return True
        if not re.match(r"\s*(?:<[^;{}()=]*>)?\s*\(", after):
            return re.search(r"\b(?:val|var|let)\s+$", before) is not None
        return self._typed_function(before, after)

    def _script_defines(self, before: str, after: str) -> bool:
        if re.search(r"\b(?:const|let|var|get|set|static|async|abstract|public|private|protected)\s+[*#]?$", before):
            return True
        if re.match(r"\s*\??[:=]\s*(?:async\b|function\b|\((?=[^()]*\)\s*(?::[^=]*)?=>)|\w+\s*=>)", after):
            return True
        return not before.strip() and re.match(r"\s*(?:<[^;{}()=]*>)?\(", after) is not None and _opens(after, "script")

    def _typedef(self, at: int, after: str) -> bool:
        """Whether a `typedef` names the word at a position: the last one of it, before `;`, `[` or its parameters."""
        if not re.match(r"\s*\)?\s*(?:\[[^\]]*\]|\([^;{}]*\))?\s*[;,]", after):
            return False
        before = self.masked[:at].rstrip()
        if before.endswith("}"):
            body = next((one for one in self._blocks if one.end == len(before) - 1), None)
            return body is not None and re.search(r"\btypedef\b", body.header) is not None
        return not after.lstrip().startswith(",") and re.search(r"\btypedef\b[^;{}]*$", before[-400:]) is not None

    def _typed_function(self, before: str, after: str) -> bool:
        if self.family == "java":  # a declaration has a type before its name, a call never has
            typed = re.search(r"([\w$]+)(?:<.*>|\[\]|\?|\.\.\.)*\s+$", before)
            return typed is not None and typed.group(1) not in _CONTROL
        typed = re.search(r"([\w$]+)[\s>\]*&?]*\s+[*&]*(?:\w+::)*~?$|(\w+)(?:<.*>|\[\]|\?)\s+$", before)
        named = typed is not None and (typed.group(1) or typed.group(2)) not in _CONTROL
        qualified = re.search(r"^\s*(?:[\w<>]+\s+)*[*&]*\w+::$", before) is not None
        return (named or qualified or not before) and _opens(after, self.family)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line) + 1 for line in self.text.split("\n"))]

    @cached_property
    def _blocks(self) -> list[Block]:
        found: list[Block] = []
        stack: list[tuple[str, int]] = []
        last = 0
        for match in re.finditer(r"[{};]", self.masked):
            if match.group() == "{":
                stack.append((self.masked[last : match.start()], match.start()))
            elif match.group() == "}" and stack:
                header, start = stack.pop()
                found.append(Block(header, start, match.start()))
            last = match.end()
        found += [Block(header, start, len(self.masked)) for header, start in stack]
        return found


def defines_anywhere(line: str, name: str) -> bool:
    """Whether a line of any file, prose too, says that it defines a name."""
    return re.search(rf"{_EVERYWHERE}\s+{name}\b", line) is not None


def _opens(after: str, family: str) -> bool:
    """Whether a body follows the brackets that `after` begins with."""
    depth = 0
    for index, c in enumerate(after):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0 and c == ")":
            rest = after[index + 1 :]
            if family == "script":  # a call has no type after it
                return re.match(r"\s*[:{]", rest) is not None
            return re.match(r"[^;{}()]*(?:\([^()]*\)[^;{}()]*)*\{", rest) is not None
    return False


@lru_cache(maxsize=512)
def brace_file(text: str, family: str) -> BraceFile:
    """A file, read once for several questions."""
    return BraceFile(text, family)
