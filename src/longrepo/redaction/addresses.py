"""Finds e-mail addresses, and tells them apart from code in which an @ is an operator or part of a name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from longrepo.redaction.spans import EMAIL, Span

# The search for an address begins at its @, because searching for one character is fast.
_EMAIL_DOMAIN = re.compile(
    r"@(?<=[\w+-]@)((?:[^\W_](?:[^\W_]|-){0,62}\.){1,5}([A-Za-z]{2,24}|xn--[a-z0-9-]{2,40}))(?![\w@-])"
    r"|@(?<=\\@)((?:[A-Za-z0-9-]{1,63}\.){1,5}([A-Za-z]{2,24}))(?![\w@-])"  # Perl: "joe\@acme.com"
)
_ENCODED_AT = re.compile(r"%40((?:[A-Za-z0-9-]{1,63}\.){1,5}([A-Za-z]{2,24}))(?![\w@%-])")
_LOCAL_PART = re.compile(r"\w[\w.+%-]*\Z")
_USER_IN_URL = re.compile(r"://[^\s/@:]*:\Z")
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)\Z", re.I)
_TOP_LEVEL_WORDS = (
    "com net org edu gov mil int info biz name pro aero coop museum jobs mobi travel cat tel asia post xxx arpa io dev "
    "app ai xyz online site tech store cloud email blog page space website live studio design agency digital systems "
    "software network solutions company group team world life today news media social science academy institute "
    "university foundation ngo berlin london paris nyc tokyo wien koeln hamburg eus gal bzh swiss works codes engineer "
    "engineering expert consulting services technology ninja rocks guru zone one club link click wiki fyi lol moe ink "
    "security house community center plus global inc llc ltd gmbh local lan corp internal "
    # Countries, with those that are also file suffixes (.cc .md .sh .so .ml) last.
    "ac ad ae af ag al am ao ar at au aw az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cd cf cg ch ci ck "
    "cl cm cn co cr cu cv cw cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl "
    "gm gn gp gq gr gt gu gw gy hk hm hn hr ht hu id ie il im in iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky "
    "kz la lb lc li lk lr ls lt lu lv ly ma mc me mg mh mk mn mo mq mr mt mu mv mw mx my mz na nc ne nf ng ni nl no np "
    "nr nu nz om pa pe pf pg ph pk pl pm pn pr pt pw py qa re ro rs ru rw sa sb sc sd se sg si sk sl sm sn sr ss st su "
    "sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za "
    "zm zw cc md sh so ml"
)
_TOP_LEVEL_DOMAINS = frozenset(_TOP_LEVEL_WORDS.split())
_FILE_LIKE_DOMAINS = frozenset({"pl", "py", "rs", "cc", "md", "sh", "so", "ml", "pm"})
_MAX_LOCAL_CHARACTERS = 80  # characters before the @; an address has at most 64
# An attribute is hardly ever called like one of these: `x@y.com` is an address even outside of strings and comments.
_PLAIN_TOP_LEVEL = frozenset(("com", "org", "net", "edu", "gov", "mil", "de", "uk", "ru", "fr", "jp", "cn", "eu", "br"))
# Languages in which @ means something of its own outside of strings and comments, and addresses stand only in these.
_AT_LANGUAGES = (
    "Python R Julia OCaml Kotlin Haskell Scala Rust Java JavaScript TypeScript Go C C++ C# Swift Ruby Perl PHP Dart "
    "Objective-C Elixir Erlang Zig Lua Groovy Fortran F# Nim Clojure MATLAB "
    "Matlab Octave CUDA Cython Mojo Sage Scilab GLSL Verilog D Cuda"
)
_CODE_LANGUAGES = frozenset(_AT_LANGUAGES.split())
_HASH_COMMENTS = frozenset(("Python", "R", "Julia", "Ruby", "Perl", "Elixir", "Nim", "PHP", "Cython", "Mojo"))
_QUALIFIERS = frozenset(("this", "super", "self", "return", "break", "continue"))  # Kotlin: this@Outer.name
_COMMENT_START = re.compile(r"^\s*(?:\*|//|/\*|#|--|;|%|!|\(\*|\{-|<!--|=)|(?:^|\s)(?://|/\*|--\s|\(\*)")
_HASH_START = re.compile(r"(?:^|\s)#")
_KEYWORD_LIST = "return yield assert await print not and for else elif with while let match case throw raise"
_KEYWORDS = frozenset(_KEYWORD_LIST.split())
_STATEMENT = re.compile(r"[=;{}\[\]]|\w\(")
_OPERAND_BEFORE = re.compile(
    r"(?:[=+*/%&|^~]|\breturn|\byield|\bassert|\bin|\band|\bor|\bnot|\bif|\belse)[ \t]*[(\[]*\Z"
)
_SIGN_BEFORE = re.compile(r"[=+*/%&|^~][ \t]*[(\[]*\Z")  # in prose "and" and "in" stand before addresses, too
_SIGN_AFTER = re.compile(r"[ \t]*(?:[+*/%@=]|==|//)[ \t]*[\w(]")
_COMMENT_MARKS = re.compile(r"^.*(?://[/!]?|/\*+)|^[ \t]*(?:\*|#|--|;|%|!)+")
_DOCUMENTATION = re.compile(r"^=(\w+)", re.MULTILINE)  # of Perl and Ruby, up to =cut or =end


def find_addresses(text: str, language: str = "Other") -> Iterator[Span]:
    """Yield every address except those at reserved domains (RFC 2606) and accounts on a server."""
    for match in _EMAIL_DOMAIN.finditer(text):
        at = match.start() - (match[3] is not None)
        yield from _address_at(text, at, match, language)
    if "%40" in text:
        for match in _ENCODED_AT.finditer(text):
            yield from _address_at(text, match.start(), match, language)


def _address_at(text: str, at: int, match: re.Match[str], language: str) -> Iterator[Span]:
    local = _LOCAL_PART.search(text, max(0, at - _MAX_LOCAL_CHARACTERS), at)
    if local is None:
        return
    start = local.start()
    if start and text[start - 1] == "\\" and text[start] in "nrt" and at - start > 1:
        start += 1
    domain, top = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    if _is_address(text, start, at, match.end(), domain, top, language):
        yield Span(start, match.end(), "email", EMAIL)


def _is_address(text: str, start: int, at: int, end: int, domain: str, top: str, language: str) -> bool:
    before, after = text[max(0, start - 3) : start], text[end : end + 1]
    wrapped = before.endswith("<") and after == ">"
    if top.lower() not in _TOP_LEVEL_DOMAINS and not top.lower().startswith("xn--") and not wrapped:
        return False
    if _RESERVED_DOMAIN.search(domain) or text[start:at] == "git":
        return False
    if before == "://" or _USER_IN_URL.search(text, max(0, start - _MAX_LOCAL_CHARACTERS), start):
        return False  # ssh://me@host, http://me:word@host
    if wrapped or text.endswith("mailto:", max(0, start - 7), start):
        return True
    return not _is_expression(text, start, at, end, domain, top, language)


def _is_expression(text: str, start: int, at: int, end: int, domain: str, top: str, language: str) -> bool:
    """Return whether `a@b.c` is code: the product of `a` and `b.c` (PEP 465), a slot, a qualified name."""
    after = text[end : end + 2]
    plain = top.lower() in _PLAIN_TOP_LEVEL
    if after[:1] in ("(", "[") and (language in _CODE_LANGUAGES or "-" not in domain):
        return True
    if after[:1] in (".", "=", ":") and after[1:2].isalpha() and not plain:
        return True
    if not (top[1:].islower() or top.isupper()) or text[start:at] in _QUALIFIERS:  # `.mT`, `.mH`
        return True
    labels = domain.split(".")[:-1]
    if top.lower() in _FILE_LIKE_DOMAINS and after[:1] in ("=", ":"):
        return True
    if at - start == 1 and all(len(label) < 3 for label in labels) and not plain:
        return True
    quoted = text[start - 1 : start] in ("'", '"') and after[:1] == text[start - 1 : start]
    if quoted or language not in _CODE_LANGUAGES:
        return False
    line = text[text.rfind("\n", 0, start) + 1 : start]
    if _is_in_text(text, start, line, language):
        operand = _SIGN_BEFORE.search(_COMMENT_MARKS.sub("", line)) or _SIGN_AFTER.match(text, end)
        return bool(operand) and not plain
    rest = text[end : text.find("\n", end) if "\n" in text[end:] else None]
    return _OPERAND_BEFORE.search(line) is not None or not (plain or _is_prose(f"{line} {rest}"))


def _is_prose(line: str) -> bool:
    """Return whether a line of code is a line of documentation: at least two words, and nothing of a statement."""
    words = [word for word in re.findall(r"(?<![\w.])[A-Za-z]{3,}(?![\w.(])", line) if word not in _KEYWORDS]
    return len(words) > 1 and not _STATEMENT.search(line)


def _is_in_text(text: str, start: int, line: str, language: str) -> bool:
    """Return whether a position is in a comment or a string, as far as its line and the marks before it tell."""
    if _COMMENT_START.search(line) or (language in _HASH_COMMENTS and _HASH_START.search(line)):
        return True
    if text[start - 1 : start] in (">", "}"):  # markup in JavaScript
        return True
    for quote in ('"', "'", "`"):
        if line.replace("\\" + quote, "").count(quote) % 2:
            return line.rfind("{") <= line.rfind("}") or line.rfind("{") < line.rfind(quote)
    if any(text.count(mark, 0, start) % 2 for mark in ('"""', "'''")):
        return True
    if language in ("Perl", "Ruby") and (marks := _DOCUMENTATION.findall(text, 0, start)):
        return marks[-1] not in ("cut", "end")
    return text.rfind("/*", 0, start) > text.rfind("*/", 0, start)
