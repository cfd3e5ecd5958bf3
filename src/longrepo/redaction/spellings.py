"""The spellings of a person's name: which words, in which order and script, stand for somebody whom git knows.

A name is compared without case, accents and apostrophes ("folded"). `Marrow, Quilla` is also written `Quilla Marrow`,
`MARROW Quilla`, `Q. Marrow` and `quilla-marrow`. Names in scripts without spaces are looked for as characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import xxhash

# Combining marks, and the Indic, Thai, Lao, Tibetan and Burmese blocks, whose vowel signs aren't letters to `re`.
MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u0900-\u0963\u0970-\u0dff\u0e01-\u0eff\u0f00-\u109f\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
# Scripts without spaces between words: Han, kana, Hangul, Thai, Lao, Tibetan, Burmese, Khmer.
UNSPACED = (
    "\u0e01-\u0eff\u0f00-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3130-\u318f"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = rf"(?:(?![{UNSPACED}])(?:[^\W\d_]|[{MARKS}]))"
TOKEN = re.compile(rf"{_LETTER}+(?:['’](?!s\b){_LETTER}+)*")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]+(?:[ \u00a0\u3000・·.]{{1,2}}[{UNSPACED}]+)*")
_STRIPPED = re.compile(r"[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0640\u0670]")
_SPECIAL_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "’": "'"}
)
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "Å": "Aa", "Ø": "Oe"}
)
_WRITTEN_UMLAUTS = re.compile(r"([aouAOU])e")
_LATIN = re.compile(r"[a-z]")
_LATIN_WORD = re.compile(r"[a-z]{2,}")
_ESCAPED_WORD = re.compile(r"\\[nrt]([a-z]{2,})")
_PARTICLE_WORDS = "van von der den ter ten de da do dos das del della di du la le el al bin ibn y e zu zum zur af av d"
PARTICLES = frozenset(_PARTICLE_WORDS.split())
_TITLE_WORDS = "dr prof mr mrs ms jr sr phd md ii iii iv esq"
_TITLES = frozenset(_TITLE_WORDS.split())
_BRACKETS = re.compile(r"[(\[{<]([^)\]}>]*)[)\]}>]?|\"[^\"]*\"|“[^”]*”")
_BETWEEN_NAMES = re.compile(r"\s(?:and|via|from|on behalf of)\s|[/&|;+]")
_SEVERAL_WORDS = 6  # words; a longer name is a sentence
# The commonest Chinese, Korean and Japanese family names of one character: a name of two characters begins with one.
_FAMILY_NAMES = frozenset(
    "王李张張刘劉陈陳杨楊黄黃赵趙吴吳周徐孙孫马馬朱胡郭何高林罗羅郑鄭梁谢謝宋唐许許韩韓冯馮邓鄧曹彭曾肖萧蕭田董袁潘于蒋蔣蔡余"
    "杜叶葉程苏蘇魏吕呂丁任沈姚卢盧姜崔钟鍾谭譚陆陸汪范石廖贾賈夏韦韋付方白邹鄒孟熊秦邱江尹薛闫段雷侯龙龍史陶黎贺賀顾顧毛郝龚邵万"
    "钱錢严嚴武戴莫孔向汤湯金朴柳申权權안김이박최정강조윤장임한오서신권황송류전홍문손배백허남심노하곽성차주우구민진지엄채원천방공현"
)
_KOREAN_WORDS = frozenset(
    "이그저한전신주구원양현조정유성노하차민진지채천방공"
)  # family names that are words such as "this" and "one"


def fold(text: str) -> str:
    """Return a text without case, accents and ligatures."""
    if text.isascii():
        return text.lower()
    plain = _STRIPPED.sub("", unicodedata.normalize("NFKD", text)).casefold()
    return plain.translate(_SPECIAL_LETTERS)


def word_hash(word: str) -> int:
    """Return the 32-bit hash by which a word of a name, or a character, is known."""
    return xxhash.xxh32_intdigest(word.encode("utf-8", "surrogatepass"))


def latin_words(folded: str) -> Iterable[str]:
    """Return the runs of two Latin letters or more in a folded text, also those behind an escape such as `\\n`."""
    return [*_LATIN_WORD.findall(folded), *(_ESCAPED_WORD.findall(folded) if "\\" in folded else ())]


def other_letters(text: str, folded: str) -> frozenset[str]:
    """Return the distinct letters of other scripts in a text."""
    letters = {*folded, *unicodedata.normalize("NFC", text)}
    return frozenset(c for c in letters if c > "\u024f" and c.isalpha())


@dataclass(frozen=True)
class Spelling:
    """One way to write a name. `words` are folded and in order; `family_first` permits a comma after the first ones.

    `initial`: the given name is its first letter with a dot. `distinctive`: no word of it is an everyday one, so that
    it is known in lower case and with `-`, `_` or `.` between the words too. `unspaced`: `words` are to be found
    as characters. `single`: one word, a name only where the context says so.
    """

    words: tuple[str, ...]
    family_first: bool = False
    initial: bool = False
    distinctive: bool = False
    unspaced: bool = False
    single: bool = False

    @property
    def required(self) -> frozenset[int]:
        """Hashes of words or characters without which a text can't contain this spelling."""
        if self.unspaced:
            return frozenset(word_hash(c) for word in self.words for c in word if c.isalpha())
        stems = " ".join(word if _LATIN.search(word) or len(word) < 4 else word[:-1] for word in self.words)
        return frozenset(map(word_hash, {*latin_words(stems), *other_letters("", stems)}))

    @property
    def hash(self) -> int:
        """A 64-bit hash of everything that decides what this spelling matches."""
        facts = "\x1f".join((*self.words, *map(str, (self.family_first, self.initial, self.distinctive, self.single))))
        return xxhash.xxh3_64_intdigest(facts.encode("utf-8", "surrogatepass"))


def spellings_of(
    name: str, common: frozenset[str], accounts: frozenset[str], roles: frozenset[str]
) -> Iterator[Spelling]:
    """Yield the spellings of a name of two words or more. `common`: everyday words; `accounts`: words of which alone
    no person's name consists, such as `cloud`; `roles`: words that no person's name contains, such as `bot`."""
    for part in _names_in(unicodedata.normalize("NFC", name)):
        for run in _UNSPACED_RUN.findall(part):
            yield from _unspaced_spellings(run)
        words = _words_in_order(_UNSPACED_RUN.sub(" ", part))
        if not 2 <= len(words) <= _SEVERAL_WORDS or roles.intersection(words):
            continue
        if accounts.issuperset(word for word in words if len(word) > 1):
            continue
        yield from dict.fromkeys(_word_spellings(words, common))


def _names_in(name: str) -> Iterator[str]:
    """Yield the names in an author's field: without nicknames, and those in brackets only in another script."""
    outside = _BRACKETS.sub(" ", name)
    yield from _BETWEEN_NAMES.split(outside)
    for inner in _BRACKETS.findall(name):
        if not inner.isascii():
            yield inner
    for plain in (outside.translate(_UMLAUTS), _WRITTEN_UMLAUTS.sub(r"\1", outside)):
        if plain != outside:
            yield plain


def _words_in_order(name: str) -> tuple[str, ...]:
    """Return the folded words of a name, the family name last even if it stands first with a comma."""
    before, comma, after = name.partition(",")
    if comma and fold(after).strip(" .") not in _TITLES and TOKEN.search(after):
        name = f"{after.partition(',')[0]} {before}"
    else:
        name = before
    words = tuple(fold(word) for word in TOKEN.findall(name))
    return tuple(word for word in words if word not in _TITLES)


def _word_spellings(words: tuple[str, ...], common: frozenset[str]) -> Iterator[Spelling]:
    core = tuple(word for word in words if len(word) > 1)
    if len(core) < 2:
        if sum(map(len, words)) > 3 and core:
            yield Spelling(words)
        return
    first = next((at for at, word in enumerate(core) if at and word in PARTICLES), len(core) - 1)
    given, family = core[:first], core[first:]
    known = frozenset((*core, *words)) & common

    def make(parts: tuple[str, ...], family_first: bool = False, initial: bool = False) -> Spelling:
        distinctive = not known and not initial and sum(map(len, parts)) >= 9
        return Spelling(parts, family_first, initial, distinctive)

    for names in {given, given[:1]}:
        yield make((*names, *family))
        yield make((*family, *names), family_first=True)
    if len(words) > len(core):
        yield make(words)
    if len(core) == 2:
        yield make(core)
    elif first == len(core) - 1 and not known:  # two given names, or two family names
        yield make(core[:2])
        yield make((*core[1:], core[0]))
    if sum(map(len, family)) >= 4 and not common.intersection(family):
        initial = given[0][0]
        yield make((initial, *family), initial=True)
        yield make((*family, initial), family_first=True, initial=True)
    if not known and sum(map(len, core)) >= 8 and " ".join(core).isascii():
        for joined in {"".join((*given, *family)), "".join((*given[:1], *family)), "".join((*family, *given[:1]))}:
            yield Spelling((joined,), distinctive=True)


def _unspaced_spellings(run: str) -> Iterator[Spelling]:
    words = tuple(re.split(r"[ \u00a0\u3000・·.]+", run))
    if sum(map(len, words)) < 2 or len(words) > _SEVERAL_WORDS:
        return
    yield Spelling(words, unspaced=True)
    if len(words) == 2:
        yield Spelling(words[::-1], unspaced=True)


@lru_cache(maxsize=10_000)
def unspaced_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of a name in a script without spaces, composed or decomposed, with or without separators."""
    name = "".join(words)
    hangul = "\uac00" <= name[0] <= "\ud7af"
    if len(words) == 1 and len(name) >= 3 and hangul and name[0] not in _KOREAN_WORDS:
        words = (name[0], name[1:])
    elif len(words) == 1 and 3 <= len(name) <= 4 and not hangul:
        words = tuple(name)  # where the family name ends isn't known
    gap = r"[ \u00a0\u3000・·]{0,2}"
    forms = []
    for form in ("NFC", "NFD"):
        spelled = [unicodedata.normalize(form, word) for word in words]
        forms.append(
            gap.join(map(re.escape, spelled)) if len(words) < 3 else (gap + ",?").join(map(re.escape, spelled))
        )
    pattern = "|".join(dict.fromkeys(forms))
    if len(name) > 2 and not hangul:
        return re.compile(pattern)
    before = r"(?<![\uac00-\ud7af])" if hangul else ""
    if len(name) == 2 and (hangul or name[0] not in _FAMILY_NAMES):
        letters = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
        particle = r"(?=[은는이가을를의에와과도님씨께]?(?:[^\uac00-\ud7af]|$))" if hangul else rf"(?![{letters}])"
        return re.compile(rf"(?<![{letters}])(?:{pattern}){particle}")
    return re.compile(f"{before}(?:{pattern})")


def is_inflected(token: str, word: str) -> bool:
    """Return whether a folded token is a word of a name, or in other scripts than Latin one of its inflected forms:
    `Петрова` for `Петров`, with a prefix of one letter in Hebrew and Arabic."""
    if token == word:
        return True
    if word.isascii() or token.isascii() or len(word) < 3:
        return False
    stem = word if len(word) < 4 else word[:-1]
    if token.startswith(stem) and len(token) <= len(word) + 3:
        return True
    return "\u0590" <= word[0] <= "\u06ff" and token[1:] == word


def index_keys(token: str) -> Iterable[str]:
    """Return the keys under which a spelling that begins with this token, or one it is inflected from, is stored."""
    if token.isascii():
        return (token,)
    return (token[:2], token[1:3]) if "\u0590" <= token[0] <= "\u06ff" else (token[:2],)
