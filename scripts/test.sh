#!/usr/bin/env bash
# Installs what is missing and runs all tests, including those in the documentation.
#
#   scripts/test.sh [ARGUMENT...]
#
# Passes its arguments to `cargo test`, for example `--lib`, a test's name or `-- --nocapture`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
# Release only: the tests evaluate models, and one profile means one build of llama.cpp.
exec cargo test --release "$@"
