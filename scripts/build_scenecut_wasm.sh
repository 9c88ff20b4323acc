#!/usr/bin/env bash
# Compiles libteco's scene-cut detector to WebAssembly for the page for browsers.
#
#     scripts/build_scenecut_wasm.sh [OUT]
#
# Needs clang and wasm-ld (Debian: apt install clang lld). The file in the repository is clang 14's; the
# tests compare its bytes where that clang is installed.
set -euo pipefail
cd "$(dirname "$0")/../toolchain/teco/players/web"
exec clang --target=wasm32 -std=c11 -O2 -ffp-contract=off -mbulk-memory -nostdlib -Wall -Wextra \
  -Wno-strict-prototypes -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=131072 \
  -o "${1:-page/scenecut.wasm}" scenecut_wasm.c
