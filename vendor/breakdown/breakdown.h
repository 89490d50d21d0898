// Memory use of a context per buffer type, from llama.cpp's C++ staging header src/llama-ext.h, in C: compiled by
// build.rs, bound with bindgen, used by src/llama/memory_usage.rs alone.
//
// No function throws. Status 0 means success; only then are the results valid.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;
struct ggml_backend_buffer_type;

// Bytes in one buffer type.
struct imatrix_breakdown_entry {
    struct ggml_backend_buffer_type * type;
    size_t model;   // weights
    size_t context; // cache or state
    size_t compute; // tensors of a graph
};

// Writes at most `capacity` entries, and their number.
int imatrix_breakdown_get(
        const struct llama_context           * ctx,
              struct imatrix_breakdown_entry * entries,
                     size_t                    capacity,
                     size_t                  * n);

#ifdef __cplusplus
}
#endif
