#include "memory.h"

#if defined(__unix__) || defined(__APPLE__)

#include "ggml-backend-impl.h" // creation of buffers, not in ggml's public interface: the reason for this file

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

namespace {

// llama.cpp allocates and clears memory for the logits of a whole batch, and clears the memory of all sequences, even if
// these are not used. Cleared pages are resident. Fresh pages are not, until they are written.

constexpr size_t SMALLEST = 1 << 20;

decltype(ggml_backend_buffer_type_i::alloc_buffer) alloc_before = nullptr;

void * fresh_pages(void * at, size_t size) {
    const int fixed = at ? MAP_FIXED : 0;
    void * pages = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
    return pages == MAP_FAILED ? nullptr : pages;
}

void free_buffer(ggml_backend_buffer_t buffer) {
    munmap(buffer->context, buffer->size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    if (value != 0 || !fresh_pages(buffer->context, buffer->size)) {
        std::memset(buffer->context, value, buffer->size);
    }
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    void * pages = size >= SMALLEST ? fresh_pages(nullptr, size) : nullptr;
    if (!pages) {
        return alloc_before(type, size);
    }
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(pages, size);
    if (!buffer) {
        munmap(pages, size);
        return nullptr;
    }
    buffer->buft              = type;
    buffer->iface.free_buffer = free_buffer;
    buffer->iface.clear       = clear;
    return buffer;
}

} // namespace

extern "C" void imatrix_memory_install(void) {
    ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
    if (!alloc_before) {
        alloc_before             = type->iface.alloc_buffer;
        type->iface.alloc_buffer = alloc_buffer;
    }
}

#else

extern "C" void imatrix_memory_install(void) {}

#endif
