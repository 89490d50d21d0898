_llama_imatrix() {
    local cur prev
    cur="${COMP_WORDS[COMP_CWORD]}"
    prev="${COMP_WORDS[COMP_CWORD-1]}"
    case "${COMP_WORDS[1]}" in
        stats) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --format) COMPREPLY=($(compgen -W "table json csv markdown" -- "$cur")); return;;
                --by) COMPREPLY=($(compgen -W "tensor layer expert lens prism similarity" -- "$cur")); return;;
                --sort) COMPREPLY=($(compgen -W "layer tensor elements sum_sq mean std_deviation min max skewness kurtosis zd1 zd3 h_norm top1_energy mean_to_rms gain l2_dist cossim pearson covariance experts unseen rare balance expert_rows_min expert_rows_max not_finite" -- "$cur")); return;;
                --columns) COMPREPLY=($(compgen -W "layer tensor elements sum_sq mean std_deviation min max skewness kurtosis zd1 zd3 h_norm top1_energy mean_to_rms gain l2_dist cossim pearson covariance experts unseen rare balance expert_rows_min expert_rows_max not_finite" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "--format --by --sort --ascending --columns -o --output --layer --tensor --legacy-chunk-size -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        compare) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --format) COMPREPLY=($(compgen -W "table json csv markdown" -- "$cur")); return;;
                --by) COMPREPLY=($(compgen -W "tensor layer expert" -- "$cur")); return;;
                --metric) COMPREPLY=($(compgen -W "jsd rel-l2 cosine spearman" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "--format --by --metric --fail-above -o --output --layer --tensor --legacy-chunk-size -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        check) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --type) COMPREPLY=($(compgen -W "Q1_0 Q2_0 Q4_0 Q4_1 MXFP4_MOE Q5_0 Q5_1 IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 Q2_K Q2_K_S IQ3_XXS IQ3_S IQ3_M IQ3_XS Q3_K_S Q3_K_M Q3_K_L IQ4_NL IQ4_XS Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K Q8_0 F16 BF16 F32 Q3_K Q4_K Q5_K" -- "$cur")); return;;
                --format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "--type --min-tokens --format -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        report) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "-o --output --title --png --tensor --recipe-curve --legacy-chunk-size -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        merge) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --output-format) COMPREPLY=($(compgen -W "gguf dat" -- "$cur")); return;;
                --fill-experts) COMPREPLY=($(compgen -W "none layer shown" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "-o --output --output-format --weight --fill-experts --fill-below --legacy-chunk-size -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        recipe) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --format) COMPREPLY=($(compgen -W "table json csv markdown" -- "$cur")); return;;
                --by) COMPREPLY=($(compgen -W "tensor layer expert" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "--bpw --size -o --output --custom-q --curve --types --min-type --max-type --keep --no-fuse --rows --sensitivity --exact --seed --no-means -t --threads --format --by --legacy-chunk-size -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        sensitivity) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --by) COMPREPLY=($(compgen -W "weight layer kind" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "-f --file -o --output --type --tokens -c --ctx-size --by --shard -t --threads --n-gpu-layers -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        kld) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
                --by) COMPREPLY=($(compgen -W "chunk document" -- "$cur")); return;;
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "-f --file -c --ctx-size --chunks --documents --by -t --threads --n-gpu-layers --save-logits --json -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        worker) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "-H --host -p --port -t --threads -d --device --client-timeout -c --cache -h --help" -- "$cur"));;
                *) COMPREPLY=($(compgen -f -- "$cur"));;
            esac
            return
        fi;;
        help) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "" -- "$cur"));;
                *) COMPREPLY=($(compgen -W "stats compare check report merge recipe sensitivity kld worker" -- "$cur"));;
            esac
            return
        fi;;
    esac
    if [ "$COMP_CWORD" -eq 1 ] && [ "${cur#-}" = "$cur" ]; then
        COMPREPLY=($(compgen -W "stats compare check report merge recipe sensitivity kld worker help" -- "$cur"))
        return
    fi
    case "$prev" in
        -f|--file|-bf|--binary-file|-o|--output|--output-file|--in-file|--chat-template-file|--kl-divergence-base|-m|--model|-hff|--hf-file|--lora|--lora-scaled|--control-vector|--control-vector-scaled|--log-file|--spec-draft-model|-md|--model-draft|--grammar-file|-jf|--json-schema-file) COMPREPLY=($(compgen -f -- "$cur"));;
        --output-format) COMPREPLY=($(compgen -W "gguf dat" -- "$cur"));;
        --fill-experts) COMPREPLY=($(compgen -W "none layer shown" -- "$cur"));;
        --accumulate) COMPREPLY=($(compgen -W "f32 f64" -- "$cur"));;
        --sum-on) COMPREPLY=($(compgen -W "auto device host" -- "$cur"));;
        --nan) COMPREPLY=($(compgen -W "discard abort" -- "$cur"));;
        -sm|--split-mode) COMPREPLY=($(compgen -W "none layer row tensor" -- "$cur"));;
        -fit|--fit) COMPREPLY=($(compgen -W "on off" -- "$cur"));;
        -lm|--load-mode) COMPREPLY=($(compgen -W "auto none mmap mlock mmap+mlock dio" -- "$cur"));;
        -lzm|--lazy-mode) COMPREPLY=($(compgen -W "on auto off" -- "$cur"));;
        -fa|--flash-attn) COMPREPLY=($(compgen -W "on off auto" -- "$cur"));;
        -ctk|--cache-type-k) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1" -- "$cur"));;
        -ctv|--cache-type-v) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1" -- "$cur"));;
        --rope-scaling) COMPREPLY=($(compgen -W "none linear yarn" -- "$cur"));;
        --numa) COMPREPLY=($(compgen -W "distribute isolate numactl" -- "$cur"));;
        --cpu-products) COMPREPLY=($(compgen -W "auto ggml" -- "$cur"));;
        --log-colors) COMPREPLY=($(compgen -W "on off auto" -- "$cur"));;
        --spec-draft-type-k|-ctkd|--cache-type-k-draft) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1" -- "$cur"));;
        --spec-draft-type-v|-ctvd|--cache-type-v-draft) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1" -- "$cur"));;
        *) COMPREPLY=($(compgen -W "-h --help --usage --version -cl --cache-list --completion-bash --completion-zsh --completion-fish --man --list-devices -f --file -bf --binary-file -p --prompt -e --escape --no-escape -o --output --output-file --output-format --fill-experts --fill-below -ofreq --output-frequency --save-frequency --in-file --legacy-chunk-size --show-statistics --chunk --from-chunk --chunks --ppl --no-ppl --process-output --nextn --parse-special --documents --chat-template --chat-template-file --chat-date --shuffle --tokens --dry-run --tokens-per-second --keep-tail --min-rows --lanes --logit-lens --logit-prism --layer-similarity --lens-tokens --lens-seed --kl-divergence-base --resume --state-frequency --state-interval --accumulate --sum-on --shard --nan --max-bad-chunks --stop-when-covered --convergence --stop-when-converged -m --model -mu --model-url -dr --docker-repo -hf -hfr --hf-repo -hff --hf-file -hft --hf-token --offline -ngl --gpu-layers --n-gpu-layers -dev --device --rpc --rpc-timeout -sm --split-mode -ts --tensor-split -mg --main-gpu -ot --override-tensor -cmoe --cpu-moe -ncmoe --n-cpu-moe -ncffn --n-cpu-ffn --moe-cache-mib -fit --fit -fitt --fit-target -fitc --fit-ctx -lm --load-mode -lzm --lazy-mode --repack -nr --no-repack --no-host --check-tensors --override-kv --lora --lora-scaled --control-vector --control-vector-scaled --control-vector-layer-range -c --ctx-size -b --batch-size -ub --ubatch-size -np --parallel -fa --flash-attn -ctk --cache-type-k -ctv --cache-type-v -kvo --kv-offload -nkvo --no-kv-offload --op-offload --no-op-offload --swa-full --rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast --perf --no-perf -dt --defrag-thold --context-shift --no-context-shift -n --predict --n-predict --keep -t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch --numa --cpu-products -lv --verbosity --log-verbosity -v --verbose --log-verbose --log-disable --log-file --log-jsonl --no-log-jsonl --log-colors --log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --spec-draft-model -md --model-draft --spec-draft-type-k -ctkd --cache-type-k-draft --spec-draft-type-v -ctvd --cache-type-v-draft --samplers --sampler-seq --sampling-seq -s --seed --ignore-eos --temp --temperature --top-k --top-p --min-p --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p --repeat-last-n --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker --adaptive-target --adaptive-decay --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent -l --logit-bias --grammar --grammar-file -j --json-schema -jf --json-schema-file -bs --backend-sampling" -- "$cur"));;
    esac
}
complete -o filenames -F _llama_imatrix llama-imatrix
