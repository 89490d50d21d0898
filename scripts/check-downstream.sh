#!/usr/bin/env bash
# Makes another crate in a temporary folder that depends on this one by path. In under 30 lines it attaches a collector to its
# own llama.cpp context. Its file must have the same bytes as the program's.
#
#   scripts/check-downstream.sh
#
# The crate is built in the usual target folder, with the versions of Cargo.lock and this checkout's configuration, so
# llama.cpp is not compiled again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

die() {
    echo "check-downstream: $*" >&2
    exit 1
}

if [ $# -gt 0 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
fi
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
crate=$(mktemp -d)
trap 'rm -rf "$crate"' EXIT
mkdir "$crate/src"
version=$(sed -n 's/^llama-cpp-sys-2 = { version = "\([^"]*\)".*/\1/p' "$root/Cargo.toml")

cat >"$crate/Cargo.toml" <<EOF
[package]
name = "downstream"
version = "0.1.0"
edition = "2024"

[dependencies]
llama-cpp-sys-2 = { version = "$version", default-features = false }
llama-imatrix = { path = "$root" }

[workspace]
EOF
cat >"$crate/src/main.rs" <<'EOF'
use llama_cpp_sys_2::*;
use llama_imatrix::{Collector, CollectorOptions, imatrix::Format, llama::Attachment};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (text, path) = (std::fs::read(&args[2])?, std::ffi::CString::new(args[1].as_str())?);
    let collector = Collector::new(&CollectorOptions::default());
    let attachment = Attachment::new(collector.lane());
    unsafe {
        let model = llama_model_load_from_file(path.as_ptr(), llama_model_default_params());
        let mut params = llama_context_default_params();
        (params.n_ctx, params.n_batch, params.swa_full) = (512, 512, false);
        let callback = attachment.eval_callback();
        (params.cb_eval, params.cb_eval_user_data) = (Some(callback.function), callback.user_data);
        let (context, vocab) = (llama_init_from_model(model, params), llama_model_get_vocab(model));
        let (mut tokens, mut logits, len) = (vec![0; text.len() + 2], [1; 512], text.len() as i32);
        let n = llama_tokenize(vocab, text.as_ptr().cast(), len, tokens.as_mut_ptr(), len + 2, true, false);
        for chunk in tokens[..n as usize].chunks_exact_mut(512) {
            chunk[0] = if llama_vocab_get_add_bos(vocab) { llama_vocab_bos(vocab) } else { chunk[0] };
            let batch = llama_batch { logits: logits.as_mut_ptr(), ..llama_batch_get_one(chunk.as_mut_ptr(), 512) };
            llama_memory_clear(llama_get_memory(context), true);
            assert_eq!(llama_decode(context, batch), 0);
            attachment.finish_decode()?;
        }
        llama_free(context);
    }
    collector.finish()?.save(args[3].as_ref(), Format::Gguf)?;
    Ok(())
}
EOF
lines=$(wc -l <"$crate/src/main.rs")
[ "$lines" -le 30 ] || die "main.rs has $lines lines, more than 30"
cp "$root/Cargo.lock" "$crate/"
cd "$root"
cargo build --quiet --release
# Elsewhere this checkout's configuration is not read by itself.
cd "$crate"
cargo build --quiet --release --config "$root/.cargo/config.toml"

cd "$root"
model=assets/quickstart/quickstart.gguf
head -c 39999 assets/quickstart/calibration.txt | tr -d '\n' >"$crate/text" # no line end at its end, which tools drop
"$CARGO_TARGET_DIR/release/downstream" "$model" "$crate/text" "$crate/downstream.gguf" >/dev/null 2>&1 ||
    die "the downstream crate failed"
# By -p the text has no name that the matrix would record.
"$CARGO_TARGET_DIR/release/llama-imatrix" -m "$model" -p "$(cat "$crate/text")" -c 512 -b 512 \
    -o "$crate/program.gguf" >/dev/null 2>&1 || die "the program failed"
cmp "$crate/program.gguf" "$crate/downstream.gguf" || die "the matrices differ"
printf 'a crate of %s lines and the program write the same matrix: ' "$lines"
sha256sum <"$crate/downstream.gguf" | cut -d' ' -f1
