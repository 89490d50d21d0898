#!/usr/bin/env bash
# Shares a run out over an array job, and merges the shards in a second job once all of them are through.
#
#   submit.sh SHARDS MODEL TEXT OUTPUT [FLAG...]
#
#   examples/cluster/slurm/submit.sh 16 model.gguf calibration.txt imatrix.gguf -c 512 -ngl 99
#
# The states of the shards lie in OUTPUT.shards/, which all nodes have to see, and can go when the matrix is there. FLAGs
# go to each shard. What a site wants besides (partition, account, memory) is said by Slurm's own variables, such as
# SBATCH_PARTITION and SBATCH_ACCOUNT, or in the two files beside this one. Submitted again after a failure, shards that
# are complete stay as they are, and the others go on.
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
