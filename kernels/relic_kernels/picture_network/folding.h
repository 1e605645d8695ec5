// Between lines of a picture and rows of one channel each: cells of `fold` positions of a line are `fold` channels.
#pragma once

#include <type_traits>

#include "../native/products.h"

namespace {

// Every second number of two vectors, from the first or the second on.
template <int FIRST> INLINE Floats every_second(Floats a, Floats b) {
#if defined(__AVX512F__)
    const __m512i places = _mm512_add_epi32(
        _mm512_set1_epi32(FIRST), _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
    return (Floats)_mm512_permutex2var_ps((__m512)a, places, (__m512)b);
#else
    Floats both = {};
    for (int i = 0; i < WIDTH / 2; ++i) both[i] = a[2 * i + FIRST], both[i + WIDTH / 2] = b[2 * i + FIRST];
    return both;
#endif
}

// The numbers of two vectors in turn: the first WIDTH of them, or those from the middle on.
template <bool LAST> INLINE Floats in_turn(Floats a, Floats b) {
#if defined(__AVX512F__)
    const __m512i places =
        _mm512_add_epi32(_mm512_set1_epi32(LAST ? 8 : 0),
                         _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    return (Floats)_mm512_permutex2var_ps((__m512)a, places, (__m512)b);
#else
    Floats both = {};
    for (int i = 0; i < WIDTH / 2; ++i)
        both[2 * i] = a[LAST * WIDTH / 2 + i], both[2 * i + 1] = b[LAST * WIDTH / 2 + i];
    return both;
#endif
}

// FOLD vectors of a line -> one of each channel, in place; FOLD is a power of 2.
template <int FOLD> INLINE void to_channels(Floats *line) {
    if constexpr (FOLD > 1) {
        Floats half[2][FOLD / 2];
        for (int k = 0; k < FOLD / 2; ++k) {
            half[0][k] = every_second<0>(line[2 * k], line[2 * k + 1]);
            half[1][k] = every_second<1>(line[2 * k], line[2 * k + 1]);
        }
        for (auto &one : half) to_channels<FOLD / 2>(one);
        for (int c = 0; c < FOLD; ++c) line[c] = half[c % 2][c / 2];
    }
}

// The way back.
template <int FOLD> INLINE void to_line(Floats *channels) {
    if constexpr (FOLD > 1) {
        Floats half[2][FOLD / 2];
        for (int c = 0; c < FOLD; ++c) half[c % 2][c / 2] = channels[c];
        for (auto &one : half) to_line<FOLD / 2>(one);
        for (int k = 0; k < FOLD / 2; ++k) {
            channels[2 * k] = in_turn<false>(half[0][k], half[1][k]);
            channels[2 * k + 1] = in_turn<true>(half[0][k], half[1][k]);
        }
    }
}

// Calls use(fold) with a number that is known while compiling, where it is a usual one, and with 0 elsewhere.
template <class Use> INLINE void with_fold(int fold, Use use) {
    switch (fold) {
        case 1: return use(std::integral_constant<int, 1>{});
        case 2: return use(std::integral_constant<int, 2>{});
        case 4: return use(std::integral_constant<int, 4>{});
        case 8: return use(std::integral_constant<int, 8>{});
        default: return use(std::integral_constant<int, 0>{});
    }
}

// Numbers of vector `k` of a line that belong to `count` positions.
template <int FOLD> INLINE int numbers_of(int k, int count) { return most(0, least(WIDTH, FOLD * count - k * WIDTH)); }

// `count` cells of a line -> `fold` rows, LANES apart. FOLD is `fold`, or 0.
template <int FOLD> INLINE void read_cells(const float *line, int fold, int count, float *rows) {
    if constexpr (FOLD == 0) {
        for (int c = 0; c < fold; ++c)
            for (int i = 0; i < count; ++i) rows[c * LANES + i] = line[i * fold + c];
    } else
        for (int i = 0; i < count; i += WIDTH) {
            Floats parts[FOLD];
            for (int k = 0; k < FOLD; ++k)
                parts[k] = load_some(line + i * FOLD + k * WIDTH, numbers_of<FOLD>(k, count - i));
            to_channels<FOLD>(parts);
            for (int c = 0; c < FOLD; ++c) store_some(rows + c * LANES + i, parts[c], 0, least(WIDTH, count - i));
        }
}

// FOLD rows, LANES apart -> `count` cells of a line, or added to them.
template <int FOLD> INLINE void write_cells(const float *rows, int count, bool adds, float *line) {
    for (int i = 0; i < count; i += WIDTH) {
        Floats parts[FOLD];
        for (int c = 0; c < FOLD; ++c) parts[c] = load_some(rows + c * LANES + i, least(WIDTH, count - i));
        to_line<FOLD>(parts);
        for (int k = 0; k < FOLD; ++k) {
            float *to = line + i * FOLD + k * WIDTH;
            const int numbers = numbers_of<FOLD>(k, count - i);
            store_some(to, adds ? load_some(to, numbers) + parts[k] : parts[k], 0, numbers);
        }
    }
}

// Some of the `fold` rows, from the one of `line` on.
INLINE void write_rows(const float *rows, int some, int fold, int count, bool adds, float *line) {
    for (int c = 0; c < some; ++c)
        for (int i = 0; i < count; ++i) {
            float &to = line[i * fold + c];
            to = (adds ? to : 0.f) + rows[c * LANES + i];
        }
}

}  // namespace
