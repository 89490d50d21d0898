#!/usr/bin/env bash
# Runs the example of examples/cluster/slurm under a real Slurm, and compares it with one run on one machine.
#
#   scripts/test-slurm.sh [SHARDS]
#
# Installs Slurm and munge with apt if they are missing. Starts a cluster of one node on this machine, with its own
# configuration and key in a temporary folder. Submits the unchanged array job and its merge for SHARDS (4) shards, and sends
# one shard the signal that Slurm sends before the time limit. The merged matrix must have the SHA-256 of one run without
# shards. Stops only what it has started. Needs root, or sudo. Takes about a minute, two more if Slurm waits before it starts
# a requeued job.
set -euo pipefail

# shellcheck source=scripts/as-root.sh
. "$(dirname "${BASH_SOURCE[0]}")/as-root.sh"
shards=${1:-4}

have() { command -v "$1" >/dev/null 2>&1; }
if ! have slurmctld || ! have slurmd || ! have sbatch || ! have munged; then
    have apt-get || { echo "Slurm and munge are missing, and there is no apt to install them with" >&2; exit 1; }
    apt-get update -qq
    # No service of the packages is to start: this script has daemons of its own.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
echo "$(slurmctld -V), $(munged --version | head -n 1)"

need_program
folder=$(mktemp -d "${TMPDIR:-/tmp}/test-slurm.XXXXXX")
pids=()

jobs=()

# Ends what is left of our jobs, then our daemons, by number, and waits for them.
stop() {
    local pid
    if [ ${#jobs[@]} -gt 0 ] && timeout 10 squeue --noheader --jobs="$(IFS=,; echo "${jobs[*]}")" 2>/dev/null | grep -q .; then
        timeout 10 scancel "${jobs[@]}" || true
        sleep 6 # KillWait below
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap stop EXIT
# What went wrong, from the daemons' logs.
die() {
    echo "$*" >&2
    tail -n 20 "$folder"/slurm*.log "$folder"/run/*.shards/*.log >&2 || true
    exit 1
}
# until SECONDS COMMAND...: waits until the command succeeds.
until_ok() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

# One node of this machine, with more CPUs than it may have, so that the example's tasks fit.
mkdir "$folder"/{state,spool,bin,run}
node=$(hostname -s)
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=64 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
chmod 755 "$folder"
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" 2>"$folder/munge.err" &
pids+=($!)
until_ok 20 munge -S "$folder/munge.socket" -n || die "munged does not start: $(cat "$folder/munge.err")"
slurmctld -D 2>/dev/null &
pids+=($!)
slurmd -D -N "$node" 2>/dev/null &
pids+=($!)
node_is_idle() { sinfo --noheader --format=%t | grep -qx idle; }
until_ok 60 node_is_idle || die "the node does not come up: $(sinfo 2>&1)"

# A run of some ten seconds: the test text, some times over.
cp "$LLAMA_IMATRIX" "$folder/bin/llama-imatrix"
export PATH="$folder/bin:$PATH" OMP_WAIT_POLICY=passive
cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"
cd "$folder/run"
for _ in $(seq 12); do cat ../models/calibration.txt; done >calibration.txt
flags=(-c 64 -b 64 --state-frequency 20)
model=../models/llama.gguf
llama-imatrix -m "$model" -f calibration.txt --accumulate f64 -o whole.gguf "${flags[@]}" >whole.out 2>whole.err ||
    die "$(cat whole.err)"

"$root/examples/cluster/slurm/submit.sh" "$shards" "$model" calibration.txt imatrix.gguf "${flags[@]}" | tee submitted.txt
array=$(sed 's/^array job \([0-9]*\).*/\1/' submitted.txt)
merge=$(sed 's/.*merge job \([0-9]*\)$/\1/' submitted.txt)
jobs=("$array" "$merge")

# The last shard is told that its time is up, once it has saved something.
last=$((shards - 1))
until_ok 60 test -e "imatrix.gguf.shards/$last-of-$shards.state" || die "shard $last saves nothing"
scancel --batch --signal=TERM "${array}_$last"

ended() { ! squeue --noheader --jobs="$merge" 2>/dev/null | grep -q .; }
until_ok 600 ended || die "the jobs do not end: $(squeue 2>&1)"
scontrol show job "$merge" | grep -q JobState=COMPLETED || die "the merge failed: $(scontrol show job "$merge")"

if grep -q 'interrupted by SIGTERM' "imatrix.gguf.shards/$last.log"; then
    grep -h -e 'interrupted by SIGTERM' -e 'resuming from' "imatrix.gguf.shards/$last.log"
    grep -q 'resuming from' "imatrix.gguf.shards/$last.log" || die "shard $last was not resumed"
else
    echo "shard $last was through before the signal"
fi
tail -n 1 imatrix.gguf.shards/merge.log
sha256sum whole.gguf imatrix.gguf
cmp whole.gguf imatrix.gguf || die "the merged matrix is not that of one run"
[ "$(grep -h '^Final estimate' whole.out)" = "$(grep -h '^Final estimate' imatrix.gguf.shards/merge.log)" ] ||
    die "the perplexities differ"
grep -h '^Final estimate' imatrix.gguf.shards/merge.log
echo "$shards shards through Slurm are one run, to the byte"
