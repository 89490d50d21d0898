// Zeroed host memory that costs nothing until it is used: compiled by build.rs, bound with bindgen, used by src/llama/memory.rs alone.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Has ggml's CPU buffers of a megabyte and more come from fresh pages, and be zeroed by handing out fresh pages, instead
// of being written over with zeros. Once a process, before the first buffer. Does nothing where pages cannot be had so.
void imatrix_memory_install(void);

#ifdef __cplusplus
}
#endif
