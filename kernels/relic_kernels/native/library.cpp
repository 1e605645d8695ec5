// What the library can do on the processor it was compiled for.
#include "tiles.h"

extern "C" {
int relic_has_bfloat16() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

int relic_has_bytes() {
#if defined(RELIC_BYTES)
    return 1;
#else
    return 0;
#endif
}

int relic_has_tiles() {
#if defined(RELIC_TILES)
    return Tiles::allowed();
#else
    return 0;
#endif
}
}
