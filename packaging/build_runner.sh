#!/usr/bin/env bash
# dist/runner: one file that runs the bundle around it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=315619200 python -m PyInstaller --noconfirm packaging/runner.spec
if [ -d dist/runner ]; then  # on Linux
    rm -rf dist/runner.folder && mv dist/runner dist/runner.folder
    python -c 'from pathlib import Path; from toolkit.standalone.one_file import one_file
one_file(Path("dist/runner.folder"), "runner", Path("dist/runner"))'
fi
