// Counts what a program submits to Vulkan, and prints it at its end: submissions, dispatches, and copies with their bytes.
//
//     cc -O1 -shared -fPIC -o count-vulkan.so scripts/count-vulkan.c -ldl
//     LD_PRELOAD=./count-vulkan.so llama-imatrix -m model.gguf -f text.txt -ngl 99 -dev Vulkan0 ...
//
// ggml's Vulkan backend finds vkQueueSubmit by its name and is linked with the other two. Copies that the CPU makes in memory that it
// shares with the device are not counted.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

static unsigned long long submissions, dispatches, copies, bytes;

struct copy {
    uint64_t from, to, size; // VkBufferCopy
};

int vkQueueSubmit(void * queue, uint32_t count, const void * submits, void * fence) {
    static int (*next)(void *, uint32_t, const void *, void *);
    if (!next) {
        *(void **) &next = dlsym(RTLD_NEXT, "vkQueueSubmit");
    }
    submissions++;
    return next(queue, count, submits, fence);
}

void vkCmdDispatch(void * buffer, uint32_t x, uint32_t y, uint32_t z) {
    static void (*next)(void *, uint32_t, uint32_t, uint32_t);
    if (!next) {
        *(void **) &next = dlsym(RTLD_NEXT, "vkCmdDispatch");
    }
    dispatches++;
    next(buffer, x, y, z);
}

void vkCmdCopyBuffer(void * buffer, void * from, void * to, uint32_t count, const struct copy * regions) {
    static void (*next)(void *, void *, void *, uint32_t, const struct copy *);
    if (!next) {
        *(void **) &next = dlsym(RTLD_NEXT, "vkCmdCopyBuffer");
    }
    copies++;
    for (uint32_t i = 0; i < count; i++) {
        bytes += regions[i].size;
    }
    next(buffer, from, to, count, regions);
}

__attribute__((destructor)) static void print(void) {
    fprintf(stderr, "Vulkan: %llu submissions, %llu dispatches, %llu copies of %llu bytes\n", submissions, dispatches, copies, bytes);
}
