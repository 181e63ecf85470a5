#!/usr/bin/env bash
# Install hlm on this TPU VM: run on every worker, by `launch.sh install` or by hand, inside the unpacked source. Safe to run again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || python3 -m pip install --user --quiet uv # the image's own Python may be too old
[ -x .venv/bin/python ] || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -e '.[tpu]' gcsfs # gcsfs: folders at gs://
.venv/bin/python - <<'PYTHON'
import importlib.metadata

import hlm  # noqa: F401

print("installed", *(f"{name} {importlib.metadata.version(name)}" for name in ("hlm", "jax", "libtpu")))
PYTHON
