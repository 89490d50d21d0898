// Zeroed host memory that becomes resident on first write: compiled by build.rs, bound with bindgen, used by
// src/llama/memory.rs alone.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Makes ggml allocate CPU buffers of a megabyte or more from fresh pages, and clear them by mapping fresh pages instead of a
// memset. Buffers that exist already are unchanged. Call it while no other thread makes a CPU buffer. Does nothing if the
// platform does not support it.
void imatrix_memory_install(void);

#ifdef __cplusplus
}
#endif
