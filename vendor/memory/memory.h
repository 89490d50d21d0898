// Zeroed host memory that becomes resident on first write: compiled by build.rs, bound with bindgen, used by src/llama/memory.rs alone.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Has ggml's CPU buffers of a megabyte and more come from fresh pages, and be zeroed by handing out fresh pages, instead
// of a memset. Call once per process, before the first buffer. Does nothing if the platform does not support it.
void imatrix_memory_install(void);

#ifdef __cplusplus
}
#endif
