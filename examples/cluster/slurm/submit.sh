#!/usr/bin/env bash
# Splits a run over an array job, and merges the shards in a second job after all of them are complete.
#
#   submit.sh SHARDS MODEL TEXT OUTPUT [FLAG...]
#
#   examples/cluster/slurm/submit.sh 16 model.gguf calibration.txt imatrix.gguf -c 512 -ngl 99
#
# The states of the shards are in OUTPUT.shards/. All nodes must see that folder. Delete it when the matrix is written. FLAGs
# are passed to each shard. Set other options of a site (partition, account, memory) with Slurm's own variables, such as
# SBATCH_PARTITION and SBATCH_ACCOUNT, or in the two files next to this one. If you submit again after a failure, complete
# shards stay unchanged, and the others continue.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 1
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shards=$1 model=$2 text=$3 output=$4
shift 4
states=$output.shards
mkdir -p "$states"

array=$(sbatch --parsable --array="0-$((shards - 1))" --output="$states/%a.log" \
    "$here/collect.sbatch" "$model" "$text" "$states" "$@")
array=${array%%;*} # a cluster's name may follow
merge=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes --output="$states/merge.log" \
    "$here/merge.sbatch" "$states" "$shards" "$output")
echo "array job $array, merge job ${merge%%;*}"
