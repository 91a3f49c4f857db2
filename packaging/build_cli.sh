#!/usr/bin/env bash
# dist/toolkit/: the command line in a folder, torch included. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=315619200 python -m PyInstaller --noconfirm packaging/cli.spec
