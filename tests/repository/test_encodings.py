"""Bytes as text: marks, UTF-8, named and found encodings; what isn't sure isn't read."""

from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path

import pytest
from git_helper import make_repo

from longrepo.repository.encodings import BINARY, UNKNOWN_ENCODING, decode_text, undecoded_reason
from longrepo.repository.repository import Repository

CODE = "int f(int a) {{ return a; }}  // {}\nint g(int b);\n"
WORDS = {
    "gb18030": "计算订单总额，然后返回",
    "gbk": "感谢用户的帮助",
    "big5": "計算訂單總額並回傳結果",
    "cp932": "合計を表示する関数です",
    "euc_jp": "設定ファイルを読み込む",
    "cp949": "합계를 계산하고 반환합니다",
    "cp1251": "Считает сумму заказа",
    "koi8_r": "Возвращает новое значение",
    "koi8_u": "Повертає нове значення їхнє",
    "cp1253": "Επιστρέφει το σύνολο",
    "cp1252": "Preis in € – “netto”, Größe",
    "latin-1": "Größe der Fläche über alles",
    "cp1250": "Vrátí součet všech položek, žádné příliš",
    "iso8859_2": "Zwraca sumę wszystkich pozycji, które są także potrzebne",
    "cp1254": "Değişkenin değerini döndürür, şimdi ışık",
}


@pytest.mark.parametrize("encoding", WORDS)
def test_a_comment_in_an_older_encoding_is_read(encoding: str) -> None:
    text = "".join(CODE.format(WORDS[encoding]) for _ in range(3))
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("words", ["Größe", "합계를", "price – €"])
def test_unicode_is_read_by_its_mark(encoding: str, words: str) -> None:
    assert decode_text(CODE.format(words).encode(encoding)) == CODE.format(words)


def test_wide_characters_are_read_without_a_mark() -> None:
    text = CODE.format("plain") * 4
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert decode_text(text.encode(encoding)) == text
    assert decode_text(codecs.BOM_UTF32_LE + text.encode("utf-32-le")) == text


@pytest.mark.parametrize(
    "raw",
    [
        b"// caf\xe8\nint a;\n",  # è or č
        b"// \xb9\xb9\nint a;\n",
        CODE.format("Größe").encode("latin-1") + CODE.format("Größe für Flächen").encode("utf-8"),
        CODE.format("Считает сумму").encode("cp1251") + CODE.format("Возвращает значение").encode("koi8_r"),
        CODE.format("Считает сумму").encode("utf-8") + CODE.format("Возвращает значение").encode("cp1251"),
        CODE.format("计算订单总额").encode("gbk") + CODE.format("Считает сумму заказа").encode("cp1251"),
    ],
)
def test_what_isnt_sure_or_changes_in_the_middle_is_left_out(raw: bytes) -> None:
    assert decode_text(raw) is None and undecoded_reason(raw) == UNKNOWN_ENCODING


def test_binary_files_are_binary() -> None:
    for raw in (b"\x7fELF\0\0\1", bytes(range(256)), b"a\0b\0\0c" * 20, b"\x89PNG\r\n\x1a\n\0" + bytes(range(200))):
        assert decode_text(raw) is None and undecoded_reason(raw) == BINARY


def test_a_named_encoding_decides_where_the_bytes_arent_utf8() -> None:
    text = CODE.format("caffè")
    assert decode_text(text.encode("latin-1"), "ISO-8859-1") == text
    assert decode_text(text.encode("utf-8"), "ISO-8859-1") == text  # as git stores working-tree-encoding
    assert decode_text(text.encode("utf-16-le"), "UTF-16LE-BOM") == text
    assert decode_text(text.encode("latin-1"), "no-such-encoding") == decode_text(text.encode("latin-1"))


def test_carriage_returns_alone_end_lines() -> None:
    assert decode_text(b"a = 1\rb = 2\r") == "a = 1\nb = 2\n"
    assert decode_text(b"a = 1\r\nb = 'x\ry'\r\n") == "a = 1\r\nb = 'x\ry'\r\n"


def test_a_snapshot_counts_what_it_cannot_decode(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.c": CODE.format("合計を表示する").encode("cp932"),
        "b.c": b"// caf\xe8\nint a;\n",
        "c.bin": bytes(range(256)),
        "mac.c": b"".join(b"int mac_%d(int a) { return a * %d; }\r" % (n, n * 7) for n in range(80)),
    }
    with Repository.open(make_repo(tmp_path / "repo", [files])) as repository:
        snapshot = repository.snapshot(repository.resolve())
    assert {file.path for file in snapshot.files} == {"a.c", "mac.c"}
    assert snapshot.left_out == Counter({UNKNOWN_ENCODING: 1, BINARY: 1})
    assert snapshot.files[0].text == CODE.format("合計を表示する")


def test_gitattributes_name_encodings_for_files_and_their_history(tmp_path: Path) -> None:
    attributes = (
        "*.it encoding=ISO-8859-1\n*.c working-tree-encoding=Shift_JIS\n*.u encoding=UTF-16LE\n"
        "*.no encoding=no-such-encoding\n*.off -encoding\n[attr]loop loop\n*.x loop\n"
    )
    short = "// caff\u00e8\nint a;\n"
    files: dict[str, str | bytes] = {
        ".gitattributes": attributes,
        "a.it": short.encode("latin-1"),
        "stored.c": CODE.format("表示"),  # as git stores it: in UTF-8
        "raw.c": CODE.format("表示").encode("cp932"),  # from before the attribute
        "b.u": CODE.format("x").encode("utf-16-le"),
        "c.no": short.replace("a;", "c;").encode("latin-1"),
        "d.off": short.replace("a;", "d;").encode("latin-1"),
    }
    later = {"a.it": short.replace("int a", "long a").encode("latin-1")}
    with Repository.open(make_repo(tmp_path / "repo", [files, later])) as repository:
        tip = repository.resolve()
        texts = {file.path: file.text for file in repository.snapshot(tip).files}
        changes = [change for commit in repository.commits(tip) for change in commit.changes if change.path == "a.it"]
    assert texts["a.it"] == short.replace("int a", "long a")
    assert texts["stored.c"] == texts["raw.c"] == CODE.format("表示") and texts["b.u"] == CODE.format("x")
    assert "c.no" not in texts and "d.off" not in texts
    assert changes[0].before == short and changes[1].after == short
