"""Finds people's names and e-mail addresses in texts.

Only the names of git's authors and committers are looked for: a text alone doesn't say what is a name. E-mail
addresses are told apart from everything else that contains an @.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b

from longrepo.redaction.spans import EMAIL, NAME, Span, TextScan

_MOST_WORDS = 4
_LOWER = r"(?:(?:van|von|der|den|ter|ten|de|da|do|dos|das|del|della|di|du|la|le|el|al|bin|ibn|y|e|zu|af|av) ){0,3}"
_START = r"(?:(?<!\w.)|(?<=\\[nrt].))"  # start of a word; checked after the first letter, which is the fastest order
_WORD = r"[A-Z][A-Za-z'’.-]{0,30}"
_NAME_RUN = re.compile(rf"[A-Z]{_START}[A-Za-z'’.-]{{0,30}} {_LOWER}{_WORD}(?: {_LOWER}{_WORD})*")
# Other alphabets: slower, so only for texts that aren't ASCII.
_WIDE_CAPITAL = r"[A-ZÀ-ÞĀ-ɏΑ-ΫЀ-Я\u1e00-\u1eff]"
_WIDE_WORD = rf"{_WIDE_CAPITAL}[\w'’.-]{{0,30}}"
_WIDE_NAME_RUN = re.compile(
    rf"{_WIDE_CAPITAL}{_START}[\w'’.-]{{0,30}}[ \u00a0]{_LOWER}{_WIDE_WORD}(?:[ \u00a0]{_LOWER}{_WIDE_WORD})*"
)
_WORDS = re.compile(r"[^ \u00a0]+")

# Places where a single word names a person: a mention, an author line, a copyright notice, "by X".
_MENTION = re.compile(r"@(?<![\w/.@'\"-]@)([A-Za-z0-9](?:[A-Za-z0-9]|[_-](?=[A-Za-z0-9])){1,38})(?![\w/@(:.]\w|[(/])")
_CREDIT = re.compile(
    r"(?:\b(?:[Aa]uthors?|AUTHORS?|[Mm]aintainers?|[Cc]ontributors?|[Rr]eviewers?)[ \t]*[:=][ \t]*[\"'\[]{0,2}"
    r"|@author[ \t]+"
    r"|\b[Cc]opyright[^\n\w]{1,6}(?:\([Cc]\)|©)?[^\n\w]{0,3}(?:\d{4}(?:[-–, ]{1,3}\d{2,4})*)?(?:[ \t,]{1,2}| by )"
    r"|\b(?:[Bb]y|[Tt]hanks to|[Tt]hank you,?|[Cc]redits? to)[ \t]+)"
    r"([^\W_][\w-]{1,38})(?=[ \t]*(?:$|[<,.;)\]\"'(*/]))",
    re.MULTILINE,
)
_CREDIT_STEMS = ("author", "maintainer", "contributor", "reviewer", "copyright", "by ", "thank", "credit")
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
_NOREPLY = re.compile(r"(?:\d+\+)?([A-Za-z0-9][A-Za-z0-9_-]{2,38})@users\.noreply\.git(?:hub|lab)\.com", re.IGNORECASE)
# In every other language @x is more often an annotation or code than a mention.
_PROSE = frozenset({"Markdown", "reStructuredText", "Text", "Other", "HTML", "YAML"})


class People:
    """Finds the names of known people. `known` holds the hashes of these names."""

    def __init__(self, people: Iterable[tuple[str, str]]) -> None:
        self.known: frozenset[int] = frozenset(key for name, email in people for key in _keys(name, email))

    def find(self, scan: TextScan, language: str) -> tuple[tuple[int, ...], list[Span]]:
        """Return the sorted hashes of everything that could be a name, and the spans of known names in order."""
        text = scan.text
        candidates: set[int] = set()
        found: list[tuple[int, int]] = []
        for run in (_NAME_RUN if text.isascii() else _WIDE_NAME_RUN).finditer(text):
            keys, spans = _names_in(run[0])
            candidates.update(keys)
            if not self.known.isdisjoint(keys):
                found += [(run.start() + a, run.start() + b) for a, b, key in spans if key in self.known]
        for start, end, key in _single_names(scan, language):
            candidates.add(key)
            if key in self.known:
                found.append((start, end))
        return tuple(sorted(candidates)), list(_leftmost_longest(found))


def _keys(name: str, email: str) -> Iterator[int]:
    words = [word for word in name.replace("\u00a0", " ").split(" ") if word]
    if not any(word.lower().strip("[]().,") in _NOT_PEOPLE or "[bot]" in word.lower() for word in words):
        if len(words) == 1 and len(name.strip()) > 2:
            yield from (() if words[0].lower() in _PLAIN_WORDS else (_key("1", words[0]),))
        if 2 <= len(words) <= _MOST_WORDS and sum(len(word.strip(".")) > 1 for word in words) and len(name) > 4:
            yield _key("2", " ".join(words))
    if (handle := _NOREPLY.fullmatch(email.strip())) and handle[1].lower() not in _NOT_PEOPLE | _PLAIN_WORDS:
        yield _key("1", handle[1])


@lru_cache(maxsize=100_000)
def _key(kind: str, name: str) -> int:
    plain = name if name.isascii() else _without_accents(name)
    return int.from_bytes(blake2b((kind + plain.lower()).encode("utf-8", "replace"), digest_size=8).digest())


def _without_accents(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name)
    return "".join(c for c in parts if not unicodedata.combining(c)).replace("ł", "l").replace("Ł", "L")


@lru_cache(maxsize=50_000)
def _names_in(run: str) -> tuple[frozenset[int], tuple[tuple[int, int, int], ...]]:
    """Return the hashes of two to four words in a row, and their spans with hashes, longest first."""
    words = [(m.start(), m.end()) for m in _WORDS.finditer(run)]
    spans: list[tuple[int, int, int]] = []
    for count in range(min(_MOST_WORDS, len(words)), 1, -1):
        for first in range(len(words) - count + 1):
            start, end = words[first][0], words[first + count - 1][1]
            name = " ".join(run[a:b] for a, b in words[first : first + count])
            cut = name.rstrip(".'’-").removesuffix("'s").removesuffix("’s")
            spans.append((start, end - len(name) + len(cut), _key("2", cut)))
    return frozenset(key for _, _, key in spans), tuple(spans)


def _single_names(scan: TextScan, language: str) -> Iterator[tuple[int, int, int]]:
    text = scan.text
    if "@" in text:
        for match in _MENTION.finditer(text):
            line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
            if language in _PROSE or line.lstrip().startswith(("#", "//", "*", "/*", "--", ";")):
                yield match.start(1), match.end(1), _key("1", match[1])
    for start, end in scan.around(_CREDIT_STEMS):
        for match in _CREDIT.finditer(text, start, end):
            yield match.start(1), match.end(1), _key("1", match[1])


def _leftmost_longest(found: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Yield spans that don't overlap: the leftmost first, the longest of those that begin together."""
    free = 0
    for start, end in sorted(set(found), key=lambda span: (span[0], -span[1])):
        if start >= free:
            yield Span(start, end, "name", NAME)
            free = end


# The search for an address begins at its @, because searching for one character is fast.
_EMAIL_DOMAIN = re.compile(
    r"@(?<=[A-Za-z0-9_+-]@)((?:[^\W_](?:[^\W_]|-){0,62}\.){1,5}([A-Za-z]{2,24}|xn--[a-z0-9-]{2,40}))(?![\w@-])"
)
_LOCAL_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]*\Z")
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


def find_addresses(text: str) -> Iterator[Span]:
    """Yield every address except those at reserved domains (RFC 2606) and accounts on a server."""
    for match in _EMAIL_DOMAIN.finditer(text):
        at = match.start()
        local = _LOCAL_PART.search(text, max(0, at - _MAX_LOCAL_CHARACTERS), at)
        if local is None:
            continue
        start = local.start()
        if start and text[start - 1] == "\\" and text[start] in "nrt" and at - start > 1:
            start += 1
        if _is_address(text, start, at, match):
            yield Span(start, match.end(), "email", EMAIL)


def _is_address(text: str, start: int, at: int, match: re.Match[str]) -> bool:
    domain, top = match[1], match[2].lower()
    before = text[max(0, start - 3) : start]
    wrapped = before.endswith("<") and text[match.end() : match.end() + 1] == ">"
    if top not in _TOP_LEVEL_DOMAINS and not top.startswith("xn--") and not wrapped:
        return False
    if _RESERVED_DOMAIN.search(domain) or text[start:at] == "git":
        return False
    if before == "://" or _USER_IN_URL.search(
        text, max(0, start - _MAX_LOCAL_CHARACTERS), start
    ):  # ssh://me@host, http://me:word@host
        return False
    return wrapped or top not in _FILE_LIKE_DOMAINS or text[match.end() : match.end() + 1] not in ("(", "[", "=", ":")
