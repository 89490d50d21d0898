#include "breakdown.h"

#include "llama.h"
#include "llama-ext.h" // C++ linkage, WIP: the reason for this file

extern "C" int imatrix_breakdown_get(
        const llama_context * ctx, imatrix_breakdown_entry * entries, size_t capacity, size_t * n) {
    if (!ctx || !entries || !n) {
        return 1;
    }
    try {
        size_t written = 0;
        for (const auto & [type, bytes] : llama_get_memory_breakdown(ctx)) {
            if (written == capacity) {
                return 2;
            }
            entries[written++] = { type, bytes.model, bytes.context, bytes.compute };
        }
        *n = written;
        return 0;
    } catch (...) {
        return 3;
    }
}
