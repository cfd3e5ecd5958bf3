"""E-mail addresses, told from everything else that has an @ in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from longrepo.redaction.spans import EMAIL, Span

# An address is looked for from its @, which a search finds at the speed of memory.
_DOMAIN = re.compile(
    r"@(?<=[A-Za-z0-9_+-]@)((?:[^\W_](?:[^\W_]|-){0,62}\.){1,5}([A-Za-z]{2,24}|xn--[a-z0-9-]{2,40}))(?![\w@-])"
)
_LOCAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]*\Z")
_USER = re.compile(r"://[^\s/@:]*:\Z")
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)\Z", re.I)
_TOP_LEVEL = (
    "com net org edu gov mil int info biz name pro aero coop museum jobs mobi travel cat tel asia post xxx arpa io dev "
    "app ai xyz online site tech store cloud email blog page space website live studio design agency digital systems "
    "software network solutions company group team world life today news media social science academy institute "
    "university foundation ngo berlin london paris nyc tokyo wien koeln hamburg eus gal bzh swiss works codes engineer "
    "engineering expert consulting services technology ninja rocks guru zone one club link click wiki fyi lol moe ink "
    "security house community center plus global inc llc ltd gmbh local lan corp internal "
    # Countries, without the suffixes of files (.cc .md .pl .ps .py .rs .sh .so .ml .mm): those follow at their names.
    "ac ad ae af ag al am ao ar at au aw az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cd cf cg ch ci ck "
    "cl cm cn co cr cu cv cw cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl "
    "gm gn gp gq gr gt gu gw gy hk hm hn hr ht hu id ie il im in iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky "
    "kz la lb lc li lk lr ls lt lu lv ly ma mc me mg mh mk mn mo mq mr mt mu mv mw mx my mz na nc ne nf ng ni nl no np "
    "nr nu nz om pa pe pf pg ph pk pl pm pn pr pt pw py qa re ro rs ru rw sa sb sc sd se sg si sk sl sm sn sr ss st su "
    "sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za "
    "zm zw cc md sh so ml"
)
_TOP = frozenset(_TOP_LEVEL.split())
_FILE_LIKE = frozenset({"pl", "py", "rs", "cc", "md", "sh", "so", "ml", "pm"})
_REACH = 80  # characters before the @: an address has at most 64 there


def find(text: str) -> Iterator[Span]:
    """Every address but those at domains kept for documentation and those that name a server's account."""
    for match in _DOMAIN.finditer(text):
        at = match.start()
        local = _LOCAL.search(text, max(0, at - _REACH), at)
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
    if top not in _TOP and not top.startswith("xn--") and not wrapped:
        return False
    if _RESERVED.search(domain) or text[start:at] == "git":
        return False
    if before == "://" or _USER.search(text, max(0, start - _REACH), start):  # ssh://me@host, http://me:word@host
        return False
    return wrapped or top not in _FILE_LIKE or text[match.end() : match.end() + 1] not in ("(", "[", "=", ":")
