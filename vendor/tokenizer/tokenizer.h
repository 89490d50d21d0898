// llama_tokenize() without exceptions: compiled by build.rs, bound with bindgen, used by src/llama/vocab.rs alone.
//
// llama.cpp's tokenizers throw on texts and vocabularies that do not go together, and llama_tokenize() lets that through
// to its caller, which C and Rust cannot catch.
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
// `reason_size` bytes, at least one; a longer text is cut, and a NUL ends it.
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
