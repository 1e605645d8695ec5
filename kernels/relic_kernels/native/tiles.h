// Products by tile instructions (AMX): 16 rows of 16 words times 16 words of 16 lanes, at once.
#pragma once

#include <type_traits>

#include "lanes.h"

// RELIC_EMULATED_TILES has them done by other instructions, RELIC_NO_TILES leaves them out: for tests.
#if defined(RELIC_EMULATED_TILES) || (defined(__AMX_BF16__) && defined(__AMX_INT8__))
#if defined(__AVX512BF16__) && defined(RELIC_BYTES) && !defined(RELIC_NO_TILES)
#define RELIC_TILES
#endif
#endif

#if defined(RELIC_TILES)

constexpr int TILE = 16;    // rows of a tile, and words of a row

#if defined(RELIC_EMULATED_TILES)
struct Tiles {
    static bool allowed() { return true; }
};

INLINE Floats dot_of(Floats sum, Words x, uint32_t weights) { return Bfloat16::dot(sum, x, weights); }
INLINE Ints dot_of(Ints sum, Words x, uint32_t weights) { return dot_of_bytes(sum, x, weights); }

template <bool ADD, int HIGH, class Number, class Ask>
void multiply_tiles(const void *a, long apart, const uint32_t *b, Number *c, int steps, Ask) {
    typedef std::conditional_t<std::is_same_v<Number, float>, Floats, Ints> Sums;
    for (int r = 0; r < HIGH * TILE; ++r)
        for (int v = 0; v < VECTORS; ++v) {
            Number *to = c + r * LANES + v * WIDTH;
            Sums sum = ADD ? load<Sums>(to) : Sums{};
            const uint32_t *row = (const uint32_t *)((const char *)a + r * apart);
            for (int k = 0; k < steps * TILE; ++k)
                sum = dot_of(sum, load<Words>(b + k * LANES + v * WIDTH), row[k]);
            store(to, sum);
        }
}
#else
#include <sys/syscall.h>
#include <unistd.h>

// The tile registers of a thread, while it lives: torch's own library finds them as it left them.
class Tiles {
    struct alignas(64) Setting {
        uint8_t palette, start_row, unused[14];
        uint16_t bytes_of_a_row[16];
        uint8_t rows[16];
    } before;

public:
    Tiles() {
        _tile_storeconfig(&before);
        Setting full = {};
        full.palette = 1;
        for (int i = 0; i < 8; ++i) full.bytes_of_a_row[i] = 4 * TILE, full.rows[i] = TILE;
        _tile_loadconfig(&full);
    }
    ~Tiles() { _tile_loadconfig(&before); }
    Tiles(const Tiles &) = delete;

    // Linux lets a process use the registers once it has asked for them.
    static bool allowed() {
        constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
        static const bool granted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
        return granted;
    }
};

// Words of two bfloat16, added up as floats, or of four bytes, signed ones of A by unsigned ones of B, as integers.
#define MULTIPLY_TILE(C, A, B)                                                                                         \
    if constexpr (std::is_same_v<Number, float>) _tile_dpbf16ps(C, A, B);                                              \
    else _tile_dpbsud(C, A, B)

// c[r][lane] is, or is raised by, the sum over words k of a[r][k] b[k][lane], for HIGH x TILE rows, LANES lanes and
// `steps` x TILE words; rows of `a` lie `apart` bytes from each other. ask(i) for i below 2 `steps` may prefetch what
// comes after: memory is further away than the processor foresees.
template <bool ADD, int HIGH, class Number, class Ask>
INLINE void multiply_tiles(const void *a, long apart, const uint32_t *b, Number *c, int steps, Ask ask) {
    constexpr int LANE_BYTES = 4 * LANES;
    for (int lane = 0; lane < LANES; lane += 2 * TILE) {
        Number *to = c + lane, *low = to + TILE * LANES;
        if constexpr (ADD) {
            _tile_loadd(0, to, LANE_BYTES);
            _tile_loadd(1, to + TILE, LANE_BYTES);
            if constexpr (HIGH == 2) {
                _tile_loadd(2, low, LANE_BYTES);
                _tile_loadd(3, low + TILE, LANE_BYTES);
            }
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int k = 0; k < steps; ++k) {
            const char *rows = (const char *)a + k * 4 * TILE;
            const uint32_t *lanes = b + k * TILE * LANES + lane;
            ask(lane ? steps + k : k);
            _tile_loadd(4, rows, apart);
            _tile_loadd(6, lanes, LANE_BYTES);
            MULTIPLY_TILE(0, 4, 6);
            _tile_loadd(7, lanes + TILE, LANE_BYTES);
            MULTIPLY_TILE(1, 4, 7);
            if constexpr (HIGH == 2) {
                _tile_loadd(5, rows + TILE * apart, apart);
                MULTIPLY_TILE(2, 5, 6);
                MULTIPLY_TILE(3, 5, 7);
            }
        }
        _tile_stored(0, to, LANE_BYTES);
        _tile_stored(1, to + TILE, LANE_BYTES);
        if constexpr (HIGH == 2) {
            _tile_stored(2, low, LANE_BYTES);
            _tile_stored(3, low + TILE, LANE_BYTES);
        }
    }
}
#endif

// Bfloat16 whose products are by tiles, where they come out even.
struct TiledBfloat16 : Bfloat16 {
    static constexpr bool TILED = true;
    typedef Tiles Registers;
};
#endif

// Calls use(format) with that in which the processor multiplies such numbers fastest.
template <class Use> int in_float32(Use use) { return use(Float32{}); }

#if defined(__AVX512BF16__)
template <class Use> int in_bfloat16(Use use) {
#if defined(RELIC_TILES)
    if (Tiles::allowed()) return use(TiledBfloat16{});
#endif
    return use(Bfloat16{});
}
#endif
