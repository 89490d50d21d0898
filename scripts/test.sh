#!/usr/bin/env bash
# Installs what is missing and runs all tests, those in the documentation included.
#
#   scripts/test.sh [ARGUMENT...]
#
# Arguments go to `cargo test`, such as `--lib`, a test's name or `-- --nocapture`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
# Release alone: the models are evaluated for real, and one profile means one build of llama.cpp.
exec cargo test --release "$@"
