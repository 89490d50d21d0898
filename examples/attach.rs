//! Attaches a collector to a llama.cpp context of our own, made with the raw bindings: `attach MODEL TEXT MATRIX`.
//!
//! The sums are those of `llama-imatrix -m MODEL -f TEXT -c 512 -b 512`, to the bit.
#![allow(unsafe_code, reason = "raw bindings")]

use std::ffi::CString;

use llama_cpp_sys_2 as sys;
use llama_imatrix::imatrix::Format;
use llama_imatrix::llama::Attachment;
use llama_imatrix::{Collector, CollectorOptions};

const CHUNK: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, text, matrix] = args.as_slice() else { return Err("usage: attach MODEL TEXT MATRIX".into()) };
    let text = std::fs::read(text)?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text); // as llama.cpp's tools read a text
    let path = CString::new(model.as_str())?;

    let collector = Collector::new(&CollectorOptions { chunk_size: CHUNK as i32, ..CollectorOptions::default() });
    let attachment = Attachment::new(collector.lane());
    // SAFETY: plain calls of llama.cpp in the order it wants them; every pointer is to something that outlives the call.
    // The context is freed before `attachment`, which it points to, and the model after the context.
    unsafe {
        sys::llama_backend_init();
        let model = sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
        if model.is_null() {
            return Err("llama.cpp cannot load the model".into());
        }

        let callback = attachment.eval_callback();
        let mut params = sys::llama_context_default_params();
        params.cb_eval = Some(callback.function);
        params.cb_eval_user_data = callback.user_data;
        params.n_ctx = CHUNK as u32;
        params.n_batch = CHUNK as u32;
        params.n_ubatch = CHUNK as u32;
        params.swa_full = false;
        let context = sys::llama_init_from_model(model, params);
        if context.is_null() {
            return Err("llama.cpp cannot create a context".into());
        }

        let tokens = tokenize(model, text);
        let bos = sys::llama_vocab_bos(sys::llama_model_get_vocab(model));
        let mut batch = sys::llama_batch_init(CHUNK as i32, 0, 1);
        for chunk in tokens.chunks_exact(CHUNK) {
            fill(&mut batch, chunk);
            if sys::llama_vocab_get_add_bos(sys::llama_model_get_vocab(model)) {
                *batch.token = bos;
            }
            sys::llama_memory_clear(sys::llama_get_memory(context), true);
            let status = sys::llama_decode(context, batch);
            // What went wrong in the collector comes out here; llama.cpp does not hear of it.
            attachment.finish_decode()?;
            if status != 0 {
                return Err(format!("llama_decode: status {status}").into());
            }
        }
        sys::llama_batch_free(batch);
        sys::llama_free(context);
        sys::llama_model_free(model);
    }

    let mut imatrix = collector.finish()?;
    imatrix.datasets.push(args[2].clone());
    imatrix.save(matrix.as_ref(), Format::Gguf)?;
    Ok(())
}

/// # Safety
/// `model` is loaded.
unsafe fn tokenize(model: *const sys::llama_model, text: &[u8]) -> Vec<sys::llama_token> {
    let mut tokens = vec![0; text.len() + 2];
    // SAFETY: both buffers are valid for the lengths passed with them.
    let n = unsafe {
        let vocab = sys::llama_model_get_vocab(model);
        let (from, to) = (text.as_ptr().cast(), tokens.as_mut_ptr());
        sys::llama_tokenize(vocab, from, text.len() as i32, to, tokens.len() as i32, true, false)
    };
    tokens.truncate(usize::try_from(n).unwrap_or(0));
    tokens
}

/// Puts a chunk into a batch. Every token asks for logits: llama.cpp leaves those that do not out of the last layer.
///
/// # Safety
/// `batch` has room for it.
unsafe fn fill(batch: &mut sys::llama_batch, chunk: &[sys::llama_token]) {
    batch.n_tokens = chunk.len() as i32;
    for (i, &token) in chunk.iter().enumerate() {
        // SAFETY: the batch's arrays have `CHUNK` elements.
        unsafe {
            *batch.token.add(i) = token;
            *batch.pos.add(i) = i as i32;
            *batch.n_seq_id.add(i) = 1;
            *(*batch.seq_id.add(i)) = 0;
            *batch.logits.add(i) = 1;
        }
    }
}
