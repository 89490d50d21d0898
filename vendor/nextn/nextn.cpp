#include "nextn.h"

#include "llama.h"
#include "llama-ext.h" // C++ linkage, WIP: the reason for this file

namespace {

template <typename F>
imatrix_nextn_status guarded(F && call) {
    try {
        return call();
    } catch (...) {
        return IMATRIX_NEXTN_EXCEPTION;
    }
}

} // namespace

extern "C" imatrix_nextn_status imatrix_nextn_keep_states(llama_context * ctx) {
    if (!ctx) {
        return IMATRIX_NEXTN_NULL;
    }
    return guarded([&] {
        llama_set_embeddings_nextn(ctx, /*value=*/ true, /*masked=*/ false);
        return IMATRIX_NEXTN_OK;
    });
}

extern "C" imatrix_nextn_status imatrix_nextn_state(llama_context * ctx, int32_t row, const float ** state) {
    if (!ctx || !state) {
        return IMATRIX_NEXTN_NULL;
    }
    return guarded([&] {
        const float * found = llama_get_embeddings_nextn_ith(ctx, row);
        if (!found) {
            return IMATRIX_NEXTN_NONE;
        }
        *state = found;
        return IMATRIX_NEXTN_OK;
    });
}

extern "C" imatrix_nextn_status imatrix_nextn_batch_new(llama_context * ctx, llama_batch_ext ** batch) {
    if (!ctx || !batch) {
        return IMATRIX_NEXTN_NULL;
    }
    return guarded([&] {
        llama_batch_ext * created = llama_batch_ext_init(ctx);
        if (!created) {
            return IMATRIX_NEXTN_NONE;
        }
        *batch = created;
        return IMATRIX_NEXTN_OK;
    });
}

extern "C" imatrix_nextn_status imatrix_nextn_batch_add(
        llama_batch_ext * batch, int32_t token, int32_t position, bool output, const float * state, size_t n_embd) {
    if (!batch || !state) {
        return IMATRIX_NEXTN_NULL;
    }
    return guarded([&] {
        const int32_t idx = llama_batch_ext_add_token(batch, /*seq_id=*/ 0, token);
        if (idx < 0 || !llama_batch_ext_set_pos(batch, idx, &position)) {
            return IMATRIX_NEXTN_REFUSED;
        }
        // Older versions of llama.cpp take the state as the token's embedding, newer ones by a separate call. In the older
        // library that call is a stub that returns false. The newer library requires it: its graph aborts without.
        const llama_embd embd = { state, /*n_rows=*/ 1, n_embd };
        if (!llama_batch_ext_set_embd_state(batch, idx, embd) && !llama_batch_ext_set_embd_token(batch, idx, embd)) {
            return IMATRIX_NEXTN_REFUSED;
        }
        if (output && !llama_batch_ext_set_output_logits(batch, idx, true)) {
            return IMATRIX_NEXTN_REFUSED;
        }
        return IMATRIX_NEXTN_OK;
    });
}
