// Asks a compiler whether it keeps stores of the tile configuration that is loaded for AMX. GCC 12.2's _tile_loadconfig reads
// 64 bytes and declares 8 of them, so stores of the others are dropped. Compiled to assembler: without the number 77 in it, the
// store is gone, and ggml's matrix products end the process.
#include <immintrin.h>

void load() {
    alignas(64) unsigned char config[64] = {};
    config[0] = 1;
    config[48] = 77;
    _tile_loadconfig(config);
}
