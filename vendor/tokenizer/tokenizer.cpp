#include "tokenizer.h"

#include <cstdio>
#include <exception>

// Same declaration as in llama.h, which may be missing if llama.cpp is installed separately.
extern "C" int32_t llama_tokenize(
        const struct llama_vocab * vocab,
                      const char * text,
                         int32_t   text_len,
                         int32_t * tokens,
                         int32_t   n_tokens_max,
                            bool   add_special,
                            bool   parse_special);

extern "C" imatrix_tokenizer_status imatrix_tokenizer_tokenize(
        const struct llama_vocab * vocab,
                      const char * text,
                         int32_t   text_len,
                         int32_t * tokens,
                         int32_t   n_tokens,
                            bool   add_special,
                            bool   parse_special,
                         int32_t * result,
                            char * reason,
                          size_t   reason_size) {
    if (!vocab || !text || !tokens || !result || !reason || reason_size == 0) {
        return IMATRIX_TOKENIZER_NULL;
    }
    try {
        *result = llama_tokenize(vocab, text, text_len, tokens, n_tokens, add_special, parse_special);
        return IMATRIX_TOKENIZER_OK;
    } catch (const std::exception & error) {
        snprintf(reason, reason_size, "%s", error.what());
    } catch (...) {
        snprintf(reason, reason_size, "an exception of an unknown type");
    }
    return IMATRIX_TOKENIZER_EXCEPTION;
}
