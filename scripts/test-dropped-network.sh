#!/usr/bin/env bash
# Cuts the network between a run and its worker without a notice to either, and checks that neither waits for ever.
#
#   scripts/test-dropped-network.sh
#
# The run and the worker are in two network namespaces joined by a veth pair. Its link is set down during the run, so no
# packet informs either side. The run must end within its --rpc-timeout with an error that names the worker. The worker must
# drop its client and, after the link is up again, serve the resumed run, with the bytes of an uninterrupted run.
# Needs Linux, ip (package iproute2) and root, or sudo. Half a minute. LLAMA_IMATRIX names an existing program to use; it
# needs RPC (GGML_RPC=ON, as in scripts/env.sh).
set -euo pipefail

# shellcheck source=scripts/as-root.sh
. "$(dirname "${BASH_SOURCE[0]}")/as-root.sh"

if ! command -v ip >/dev/null 2>&1; then
    command -v apt-get >/dev/null 2>&1 || { echo "ip is missing: install iproute2" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 >/dev/null
fi
near="imatrix-near-$$"
far="imatrix-far-$$"
if ! ip netns add "$near" 2>/dev/null; then
    echo "this machine allows no network namespaces, so nothing was tested" >&2
    # Where tests have to run, not running is a failure.
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/dropped-network.XXXXXX")
pids=()

# Ends what was started, by number, and takes the namespaces away.
stop() {
    local pid
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    ip netns delete "$near" 2>/dev/null || true
    ip netns delete "$far" 2>/dev/null || true
    rm -rf "$folder"
}
trap stop EXIT

die() {
    echo "$*" >&2
    for log in "$folder"/*.log; do
        echo "--- $log" >&2
        tail -n 30 "$log" >&2
    done
    exit 1
}

# wait_for SECONDS COMMAND...
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

need_program
if [ -z "${TEST_MODELS:-}" ]; then
    TEST_MODELS="$folder/models"
    cargo run --release --quiet --no-default-features --example test-models -- "$TEST_MODELS"
fi

ip netns add "$far"
ip -n "$near" link add near type veth peer name far netns "$far"
ip -n "$near" address add 10.77.0.1/24 dev near
ip -n "$far" address add 10.77.0.2/24 dev far
ip -n "$near" link set near up
ip -n "$far" link set far up

export OMP_WAIT_POLICY=passive
timeout=4
ip netns exec "$far" "$LLAMA_IMATRIX" worker --host 10.77.0.2 --port 50052 --threads 1 --client-timeout "$timeout" \
    >"$folder/worker.log" 2>&1 &
pids+=($!)
listens() { ip netns exec "$near" bash -c '</dev/tcp/10.77.0.2/50052' 2>/dev/null; }
wait_for 20 listens || die "the worker did not start"

text="$folder/text.txt"
touch "$text"
while [ "$(stat -c %s "$text")" -lt 400000 ]; do cat assets/quickstart/calibration.txt >>"$text"; done
cd "$folder"
run=("$LLAMA_IMATRIX" -m "$TEST_MODELS/llama.gguf" -f "$text" -c 64 -b 64 -ngl 99 --lanes 1 --sum-on host
    --rpc 10.77.0.2:50052 --rpc-timeout "$timeout")
near_run() { ip netns exec "$near" "${run[@]}" "$@"; }

near_run -o whole.gguf >whole.log 2>&1 || die "the run with a network failed"

near_run -o cut.gguf >cut.log 2>&1 &
client=$!
pids+=("$client")
wait_for 60 test -e cut.gguf.state || die "no state was saved"
kill -0 "$client" 2>/dev/null || die "the run ended before the network was cut: give it a longer text"
ip -n "$near" link set near down
cut=$SECONDS
ended() { ! kill -0 "$client" 2>/dev/null; }
wait_for $((timeout * 3 + 5)) ended || die "the run still waits"
code=0
wait "$client" || code=$?
[ "$code" -eq 1 ] || die "exit code $code, not 1"
grep -q "RPC server '10.77.0.2:50052'" cut.log || die "the error does not name the worker"
grep -q -- "--resume continues it" cut.log || die "the error does not say how to go on"
echo "the run ended $((SECONDS - cut)) s after the network was cut, with a time-out of $timeout s:"
grep '^error:' cut.log || tail -n 1 cut.log

# The worker's side: its client is gone without a word.
closed() { [ "$(grep -c 'Accepted client connection' worker.log)" -eq "$(grep -c 'Client connection closed' worker.log)" ]; }
wait_for $((timeout * 3 + 5)) closed || die "the worker still holds its client"
echo "the worker dropped its client $((SECONDS - cut)) s after the network was cut"

ip -n "$near" link set near up
near_run -o cut.gguf --resume >resumed.log 2>&1 || die "the resumed run failed"
cmp whole.gguf cut.gguf || die "the resumed run came to other bytes"
echo "the resumed run came to the same bytes"
