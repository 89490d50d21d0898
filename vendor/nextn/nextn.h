// C wrappers for NextN around llama.cpp's C++ staging header src/llama-ext.h: compiled by build.rs, bound with bindgen,
// used by src/llama/nextn.rs alone.
//
// No function throws. Each returns a status, and writes its result only if the status is 0.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;
struct llama_batch_ext;

enum imatrix_nextn_status {
    IMATRIX_NEXTN_OK        = 0,
    IMATRIX_NEXTN_NULL      = 1, // an argument is null
    IMATRIX_NEXTN_NONE      = 2, // llama.cpp has no such state
    IMATRIX_NEXTN_REFUSED   = 3, // llama.cpp does not take the entry: the batch is full, or the token or state is invalid
    IMATRIX_NEXTN_EXCEPTION = 4, // llama.cpp threw
};

// Makes the context keep the hidden state of every token of a decode, even without its logits.
enum imatrix_nextn_status imatrix_nextn_keep_states(struct llama_context * ctx);

// The hidden state of a row of the last decode: llama_model_n_embd_out() floats, valid until the next one.
enum imatrix_nextn_status imatrix_nextn_state(struct llama_context * ctx, int32_t row, const float ** state);

// A batch for a context of type MTP; freed with llama_batch_ext_free(), before the context.
enum imatrix_nextn_status imatrix_nextn_batch_new(struct llama_context * ctx, struct llama_batch_ext ** batch);

// Appends a token of sequence 0 with the hidden state that led to it, which is copied.
enum imatrix_nextn_status imatrix_nextn_batch_add(
        struct llama_batch_ext * batch,
                       int32_t   token,
                       int32_t   position,
                          bool   output,
                   const float * state,
                        size_t   n_embd);

#ifdef __cplusplus
}
#endif
