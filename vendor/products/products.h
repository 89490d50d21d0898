// A ggml backend whose work is done by Rust functions: compiled by build.rs, used by src/products/backend.rs alone.
#pragma once

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_tensor;
struct ggml_backend_buffer_type;

// Functions of the backend. None may unwind.
struct imatrix_products_functions {
    // The state of one backend, freed by destroy; null if it cannot be made.
    void * (*create)(void);
    void (*destroy)(void * state);
    // Sets the number of threads. llama.cpp calls this before each evaluation of a graph.
    void (*set_threads)(void * state, int threads);
    // Returns true if the backend can compute this node.
    bool (*supports)(const struct ggml_tensor * node);
    // Computes a node; false if it failed.
    bool (*compute)(void * state, struct ggml_tensor * node);
};

// Registers the backend with ggml under this name. It reads weights in host memory and in buffers of the types `repacked` and
// `amx`, which may be null. The name and the functions must live as long as the process. Call it once, before a model is loaded and while no
// other thread uses ggml's registry, which has no lock.
void imatrix_products_register(
    const char * name, const struct imatrix_products_functions * functions, struct ggml_backend_buffer_type * repacked,
    struct ggml_backend_buffer_type * amx);

// Runs work(data, thread, threads) on each thread of a team of at most `threads`. With OpenMP it is ggml's team.
// Returns when all threads have finished.
void imatrix_products_team(int threads, void (*work)(void * data, int thread, int threads), void * data);

#ifdef __cplusplus
}
#endif
