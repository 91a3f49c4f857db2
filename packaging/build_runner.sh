#!/usr/bin/env bash
# dist/runner: one file that runs the bundle around it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=315619200 python -m PyInstaller --noconfirm packaging/runner.spec
