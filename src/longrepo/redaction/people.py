"""Finds the names of git's authors and committers in texts and paths.

Only known people's names are looked for: a text alone doesn't say what is a name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from longrepo.redaction.spans import NAME, Span, TextScan
from longrepo.redaction.spellings import (
    PARTICLES,
    TOKEN,
    Spelling,
    fold,
    index_keys,
    is_inflected,
    latin_words,
    other_letters,
    spellings_of,
    unspaced_pattern,
    word_hash,
)

# Places where a single word names a person: a mention, an author line, a copyright notice, "by X", a home directory.
_MENTION = re.compile(r"@(?<![\w/.@'\"-]@)([A-Za-z0-9](?:[A-Za-z0-9]|[_-](?=[A-Za-z0-9])){1,38})(?![\w/@(:.]\w|[(/])")
_CREDIT = re.compile(
    r"(?:\b(?:[Aa]uthors?|AUTHORS?|[Mm]aintainers?|[Cc]ontributors?|[Rr]eviewers?|[Aa]ut(?:eu|o)re?|Verfasser)"
    r"[ \t]*[:=][ \t]*[\"'\[]{0,2}"
    r"|(?:作者|担当者?|作成者|著者|维护者|維護者|담당자|작성자|[Аа]втор)[ \t]*[:：=]?[ \t]*"
    r"|@author[ \t]+"
    r"|\b[Cc]opyright[^\n\w]{1,6}(?:\([Cc]\)|©)?[^\n\w]{0,3}(?:\d{4}(?:[-–, ]{1,3}\d{2,4})*)?(?:[ \t,]{1,2}| by )"
    r"|\b(?:[Bb]y|[Tt]hanks to|[Tt]hank you,?|[Cc]redits? to)[ \t]+)"
    r"([^\W_][\w-]{1,38})(?=[ \t]*(?:$|[<,.;)\]\"'(*/]))",
    re.MULTILINE,
)
_CREDIT_STEMS = (
    *("author", "maintainer", "contributor", "reviewer", "copyright", "by ", "thank", "credit", "auteur", "autor"),
    *("verfasser", "作者", "担当", "作成者", "著者", "维护者", "維護者", "담당자", "작성자", "автор"),
)
_HOME = re.compile(
    r"(?:(?:(?:^|/)home|(?:^|[/\\])Users)[/\\]{1,2}|(?:^|[/\\])_?(?:people|authors|contributors|members|maintainers)[/\\])"
    r"([^\W_][\w.-]{1,38}?)(?=\.\w{1,5}(?:$|[\s\"'])|[/\\\s\"':;,)]|$)",
    re.MULTILINE,
)
_HOME_STEMS = ("home/", "users/", "users\\", "people/", "authors/", "contributors/", "members/", "maintainers/")
_ACCOUNT_WORDS = (
    "a about access account action actions action admin administrator agent ai alpha an and android anonymous api app "
    "apple apps assistant authors auto automatic automation backup badge badger beta bot build builder builds cache ci "
    "circle circleci claude cloud code codecov codespace commit community company conda contributor contributors "
    "copilot core cpython cron daemon debian default demo deploy deployment dependabot dev developer developers "
    "development devs django docker docs documentation email empty engineering example fedora file flask foundation "
    "gemini git gitbook github gitlab gitter go google gpg greenkeeper group guest host hub import inc info install "
    "integration internal java javascript jenkins js json key lgtm license lint linter linux list llc local localhost "
    "mac machine mail main maintainer maintainers manager master me merge microsoft mirror model module my name new "
    "nobody none noreply null office official ok open openai org osx package packages parse patch pip pre precommit "
    "preview private prod production program programmer project projects property public pull python queue read "
    "readthedocs release releases renovate repo repository request review reviewer rich root ruby runner rust scrapy "
    "script secure security semantic server service services setup shared site snyk software source staging static "
    "string studio support sync system systems tag team test tester testing tests the theme tool tools translation "
    "travis ubuntu undefined unix unknown update updates upstream user username users value version visual vm web "
    "weblate website windows work worker workflow you your"
)
_NOT_PEOPLE = frozenset(_ACCOUNT_WORDS.split())
# Those of them that are also given or family names: Claude Marchand, Ruby Okafor, Dev Patel.
_ALSO_NAMES = (
    "a ai alpha an android apple base beta circle claude cloud core cron dev docker flask gemini go guest host hub "
    "import info jenkins js key lint list local mac mail main master me model my name new null office page queue read "
    "rich root ruby rust semantic shared site source studio theme the travis value visual weblate work you your"
)
_ROLES = _NOT_PEOPLE - frozenset(_ALSO_NAMES.split())
# Given names that are also words: on their own they aren't replaced.
_TEXT_WORDS = (
    "april art august bill bob carol chance chase chip christian clay cliff dawn drew faith frank gene grace grant guy "
    "hope hunter iris ivy jack jay joy june lance law lee long mark mars max may mercy miles nick norm pat penny peter "
    "page ray reed rich rob robin rod rose ruby rusty sandy sky star stone sue summer sunny van victor wade will win "
    "wood young case class def end for from if in is it let not of on or set that this to var while with all any as "
    "at be by can copy data do find get has how list load log map next no null one param params return returns run "
    "self so some such them then these they those type types two use used using was we what when which who zero hand "
    "hash name names id ids index item items key keys object objects order path paths time times design definition "
    "convention accident nature reference virtue adding making changing removing calling itself themselves others "
    "media import charset keyframes supports layer font override deprecated see since throws link code inheritdoc "
    "interface implements extends final static public private protected abstract async await yield lambda true false "
    "classmethod staticmethod dataclass fixture pytest mock patch app client route task click wraps hypothesis given "
    "before after inject nullable nonnull component bean entity table column service controller serialize"
)
_PLAIN_WORDS = frozenset(_TEXT_WORDS.split())
_COMMON = _NOT_PEOPLE | _PLAIN_WORDS
_NOREPLY = re.compile(r"(?:\d+\+)?([A-Za-z0-9][A-Za-z0-9_-]{2,38})@users\.noreply\.git(?:hub|lab)\.com", re.IGNORECASE)
_LOCAL_NAME = re.compile(r"([a-z]{3,})\.([a-z]{3,})@", re.IGNORECASE)
# Between the words of a name: spaces, a comma, a line break in a comment; or what joins the words of a handle.
_SPACES = re.compile(r"\.?(,?)(?:[ \t\u00a0\u2009\u202f]{1,3}|[ \t]*\r?\n[ \t]*[#*/;%!>-]{0,3}[ \t]*)|\.|-(?=[^\W\d_])")
_JOINTS = frozenset("-_.")
_TWO_HUMPS = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
_OTHER_LETTERS = re.compile(r"[^\x00-\xbf]+")
_NAME_REACH = 120  # characters on either side of a line with a known word
_ESCAPES = frozenset(("\\n", "\\t", "\\r"))
# In every other language @x is more often an annotation or code than a mention.
_PROSE = frozenset({"Markdown", "reStructuredText", "Text", "Other", "Data", "HTML", "YAML"})


_Token = tuple[int, int, str]


class People:
    """Finds the names of known people. A result depends on a text's words and on the spellings that they permit."""

    def __init__(self, people: Iterable[tuple[str, str]]) -> None:
        spellings = {one for name, email in people for one in _spellings(name, email)}
        self._by_word: dict[int, list[tuple[int, frozenset[int], Spelling]]] = {}
        for one in spellings:
            required = one.required  # the largest hash is as good a key as any
            self._by_word.setdefault(max(required, default=0), []).append((one.hash, required, one))

    def words(self, scan: TextScan) -> frozenset[int]:
        """Return the hashes of all words and characters that a name could contain."""
        if scan.text.isascii():
            return scan.latin_hashes
        others = " ".join(word for word in set(scan.text.split()) if not word.isascii())
        folded = fold(others)
        return scan.latin_hashes.union(map(word_hash, {*latin_words(folded), *other_letters(others, folded)}))

    def permitted(self, words: frozenset[int]) -> list[tuple[int, Spelling]]:
        """Return the known spellings, with their hashes, all of whose words are among these."""
        keys = self._by_word.keys() & {0, *words}
        return [(hash, one) for key in keys for hash, required, one in self._by_word[key] if required <= words]

    def find(self, scan: TextScan, language: str) -> tuple[tuple[int, ...], tuple[int, ...], list[Span]]:
        """Return the sorted hashes of the text's words, those of the spellings they permit, and the names' spans."""
        words = self.words(scan)
        permitted = self.permitted(words)
        spans = list(_leftmost_longest(_matches(scan, [one for _, one in permitted], language))) if permitted else []
        return tuple(sorted(words)), tuple(sorted(hash for hash, _ in permitted)), spans


def _spellings(name: str, email: str) -> Iterator[Spelling]:
    """Yield all spellings of an author: of the name, of the handle in a no-reply address, and of the address."""
    if "[bot]" in name.lower() or "[bot]@" in email.lower():
        return
    yield from spellings_of(name, _COMMON, _NOT_PEOPLE, _ROLES)
    word = name.strip()
    if len(word) > 2 and not re.search(r"\s", word) and word.lower() not in _COMMON:
        yield Spelling((fold(word),), single=True)
        if dotted := _LOCAL_NAME.fullmatch(f"{word}@"):
            yield from spellings_of(" ".join(dotted.groups()), _COMMON, _NOT_PEOPLE, _ROLES)
    if (handle := _NOREPLY.fullmatch(email.strip())) and handle[1].lower() not in _COMMON:
        yield Spelling((handle[1].lower(),), single=True)
    elif (dotted := _LOCAL_NAME.match(email)) and _is_same_person(fold(name), [fold(part) for part in dotted.groups()]):
        yield from spellings_of(" ".join(dotted.groups()), _COMMON, _NOT_PEOPLE, _ROLES)


def _is_same_person(name: str, parts: list[str]) -> bool:
    """Return whether the two parts of an e-mail address are an author's name, who may have written only initials."""
    initials = "".join(part[0] for part in parts)
    return not _COMMON.intersection(parts) and (
        any(part in name for part in parts) or name in (initials, initials[::-1])
    )


def _matches(scan: TextScan, spellings: list[Spelling], language: str) -> Iterator[tuple[int, int]]:
    """Yield every place of a spelling; a name on two lines has two."""
    text = scan.text
    by_first: dict[str, list[Spelling]] = defaultdict(list)
    singles: set[str] = set()
    for one in spellings:
        if one.unspaced:
            yield from (match.span() for match in unspaced_pattern(one.words).finditer(text))
        elif one.single:
            singles.add(one.words[0])
        else:
            first = one.words[0]
            by_first[first if first.isascii() else first[:2]].append(one)
    if by_first:
        for start, end in _regions(scan, by_first):
            tokens = list(_tokens(text, start, end))
            for at in range(len(tokens)):
                for key in index_keys(tokens[at][2]):
                    for one in by_first.get(key, ()):
                        yield from _match_at(text, tokens, at, one)
    if singles:
        yield from ((start, end) for start, end in _single_names(scan, language) if fold(text[start:end]) in singles)


def _regions(scan: TextScan, by_first: dict[str, list[Spelling]]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a text that can hold a name: around its longest words, and around other letters."""
    anchors = {max(one.words, key=len) for group in by_first.values() for one in group}
    stretches = [*scan.around(word for word in anchors if word.isascii())]
    if not scan.text.isascii():
        stretches += [match.span() for match in _OTHER_LETTERS.finditer(scan.text)]
    first = last = 0
    for start, end in sorted(stretches):
        if start - _NAME_REACH > last:
            yield first, last
            first = start - _NAME_REACH
        last = max(last, min(len(scan.text), end + _NAME_REACH))
    yield first, last


def _tokens(text: str, start: int, end: int) -> Iterator[_Token]:
    for match in TOKEN.finditer(text, start, end):
        first, last = match.span()
        if first and text[first - 1 : first + 1] in _ESCAPES and last > first + 1:
            first += 1
        yield first, last, fold(text[first:last])


def _match_at(text: str, tokens: list[_Token], at: int, spelling: Spelling) -> Iterator[tuple[int, int]]:
    """Yield the parts of a spelling that begins at a token, one for each line."""
    words = spelling.words
    if not is_inflected(tokens[at][2], words[0]):
        return
    taken, joints, count = [tokens[at]], "", 1
    while count < len(words):
        at += 1
        if at == len(tokens):
            return
        start, _, folded = tokens[at]
        gap = text[taken[-1][1] : start]
        if gap in _JOINTS and (gap != "." or len(taken[-1][2]) > 1):
            joints += gap
        elif not (match := _SPACES.fullmatch(gap)) or (match[1] and not spelling.family_first):
            return
        if is_inflected(folded, words[count]):
            count += 1
        elif len(folded) != 1 or not text[start].isupper() or spelling.family_first:  # an initial in between
            return
        taken.append(tokens[at])
    if _is_written_as_name(text, taken, joints, spelling):
        yield from _by_line(text, taken)


def _is_written_as_name(text: str, taken: list[_Token], joints: str, spelling: Spelling) -> bool:
    """Return whether matching words are written as a name: capitalized, or distinctive in any case."""
    start, end = taken[0][0], taken[-1][1]
    if "_" in (text[start - 1 : start], text[end : end + 1]):  # a part of an identifier
        return False
    if spelling.initial and not any(len(word) == 1 and text[last : last + 1] == "." for _, last, word in taken):
        return False
    words = [text[first:last] for first, last, _ in taken]
    if "_" in joints or "." in joints:
        even = joints == joints[0] * (len(taken) - 1)
        return spelling.distinctive and even and _is_in_path(text, start, end)
    if len(words) == 1:
        return _is_in_path(text, start, end) or bool(_TWO_HUMPS.fullmatch(words[0]))
    return spelling.distinctive or _is_capitalized(words)


def _is_in_path(text: str, start: int, end: int) -> bool:
    """Return whether a handle or a path's part is at a position, rather than a word or an identifier."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return before in ("/", "\\", "~", "@") or after in ("/", "\\", "@") or (before == after and before in ("'", '"'))


def _is_capitalized(words: list[str]) -> bool:
    """Return whether all words but particles begin with a capital, if their script has capitals."""
    names = [word for word in words if not (word.islower() and fold(word) in PARTICLES)]
    return len(names) > 1 and all(
        not word[0].islower() or word.lower() == word.upper() or word[2:3].isupper() for word in names
    )


def _by_line(text: str, taken: list[_Token]) -> Iterator[tuple[int, int]]:
    start, end = taken[0][0], taken[0][1]
    for first, last, _ in taken[1:]:
        if "\n" in text[end:first]:
            yield start, end
            start = first
        end = last
    yield start, end


def _single_names(scan: TextScan, language: str) -> Iterator[tuple[int, int]]:
    """Yield the places where a single word names a person."""
    text = scan.text
    if "@" in text:
        for match in _MENTION.finditer(text):
            line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
            if language in _PROSE or line.lstrip().startswith(("#", "//", "*", "/*", "--", ";")):
                yield match.span(1)
    for stems, pattern in ((_CREDIT_STEMS, _CREDIT), (_HOME_STEMS, _HOME)):
        for start, end in scan.around(stems):
            yield from (match.span(1) for match in pattern.finditer(text, start, end))


def _leftmost_longest(found: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Yield spans that don't overlap: the leftmost first, the longest of those that begin together."""
    free = 0
    for start, end in sorted(set(found), key=lambda span: (span[0], -span[1])):
        if start >= free:
            yield Span(start, end, "name", NAME)
            free = end
