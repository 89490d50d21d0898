// llama_tokenize() without exceptions: compiled by build.rs, bound with bindgen, used by src/llama/vocab.rs alone.
//
// llama.cpp's tokenizers throw if a text does not suit the vocabulary, and llama_tokenize() passes the exception
// to its caller. C and Rust cannot catch it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_vocab;

enum imatrix_tokenizer_status {
    IMATRIX_TOKENIZER_OK        = 0,
    IMATRIX_TOKENIZER_NULL      = 1, // an argument is null
    IMATRIX_TOKENIZER_EXCEPTION = 2, // llama.cpp threw: `reason` has what it said
};

// As llama_tokenize(): at most `n_tokens` tokens are written, and `result` is its return value. `reason` has room for
// `reason_size` bytes, at least one; a longer text is truncated. It is NUL-terminated.
enum imatrix_tokenizer_status imatrix_tokenizer_tokenize(
        const struct llama_vocab * vocab,
                      const char * text,
                         int32_t   text_len,
                         int32_t * tokens,
                         int32_t   n_tokens,
                            bool   add_special,
                            bool   parse_special,
                         int32_t * result,
                            char * reason,
                          size_t   reason_size);

#ifdef __cplusplus
}
#endif
