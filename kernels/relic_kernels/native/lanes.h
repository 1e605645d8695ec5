// Vectors of tokens. Activations lie with their features as rows and LANES tokens as columns, so that norms, rotations
// and softmax need no sum across a vector, and products read weights as torch stores them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVXVNNI__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif

constexpr int LANES = 64;
constexpr int VECTORS = LANES / WIDTH;

typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));

#define INLINE inline __attribute__((always_inline))

template <class Vector, class Element> INLINE Vector load(const Element *from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class Vector, class Element> INLINE void store(Element *to, Vector value) {
    std::memcpy(to, &value, sizeof value);
}

// Elements `first` to `last` of a vector, at the same places after `to`.
template <class Vector, class Element> INLINE void store_some(Element *to, Vector value, int first, int last) {
#if defined(__AVX512F__)
    const __mmask16 chosen = __mmask16((1u << last) - (1u << first));
    if (first < last) _mm512_mask_storeu_epi32(to, chosen, (__m512i)value);
#else
    for (int i = first; i < last; ++i) std::memcpy(to + i, (const char *)&value + 4 * i, 4);
#endif
}

// The first `count` elements, the others 0.
INLINE Floats load_some(const float *from, int count) {
    Floats value = {};
#if defined(__AVX512F__)
    value = (Floats)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1u), from);
#else
    std::memcpy(&value, from, sizeof(float) * count);
#endif
    return value;
}

// WIDTH x WIDTH words, rows to columns.
#if defined(__AVX512F__)
INLINE void transpose(Words (&rows)[WIDTH]) {
    __m512i a[WIDTH], b[WIDTH];
    for (int i = 0; i < WIDTH; i += 2) {
        a[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    }
    for (int i = 0; i < WIDTH; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
        }
    for (int i = 0; i < 4; ++i) {
        const __m512i low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
        rows[i] = (Words)_mm512_shuffle_i32x4(low, low2, 0x88);
        rows[i + 8] = (Words)_mm512_shuffle_i32x4(low, low2, 0xdd);
        rows[i + 4] = (Words)_mm512_shuffle_i32x4(high, high2, 0x88);
        rows[i + 12] = (Words)_mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}
#else
INLINE void transpose(Words (&rows)[WIDTH]) {
    Words columns[WIDTH];
    for (int i = 0; i < WIDTH; ++i)
        for (int j = 0; j < WIDTH; ++j) columns[i][j] = rows[j][i];
    for (int i = 0; i < WIDTH; ++i) rows[i] = columns[i];
}
#endif

INLINE Floats splat(float value) { return Floats{} + value; }
#if defined(__AVX512F__)
INLINE Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats smaller(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
#else
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
#endif

INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }

INLINE Floats square_root(Floats x) {
    for (int i = 0; i < WIDTH; ++i) x[i] = std::sqrt(x[i]);
    return x;
}

// The nearest whole number, for x below 2^22 in size.
INLINE Floats nearest(Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#else
    const Floats shift = splat(12582912.f);
    return (x + shift) - shift;
#endif
}

// 2^x for x below 127, to a relative 2e-7 or, roughly, 8e-5; 0, or less than 2^-125, below -126.
template <bool ROUGHLY = false> INLINE Floats exp2_of(Floats x) {
#if defined(__AVX512DQ__)
    if constexpr (ROUGHLY) {
        constexpr int FROM_THE_WHOLE_BELOW = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        const Floats part = (Floats)_mm512_reduce_ps((__m512)x, FROM_THE_WHOLE_BELOW);
        Floats y = part * 7.802452355e-2f + 2.260671607e-1f;
        y = y * part + 6.958335350e-1f;
        y = y * part + 9.999252195e-1f;
        return (Floats)_mm512_scalef_ps((__m512)y, (__m512)x);
    }
#endif
    x = larger(x, splat(-150.f));
    const Floats whole = nearest(x), part = x - whole;
    Floats y;
    if constexpr (ROUGHLY) {
        y = part * 5.517166681e-2f + 2.426111351e-1f;
        y = y * part + 6.932609870e-1f;
        y = y * part + 9.999280728e-1f;
    } else {
        y = part * 1.327647062e-3f + 9.675541324e-3f;
        y = y * part + 5.550713278e-2f;
        y = y * part + 2.402211972e-1f;
        y = y * part + 6.931469671e-1f;
        y = y * part + 1.000000072f;
    }
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)y, (__m512)whole);
#else
    const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
    return whole < -126.f ? Floats{} : y * (Floats)power;
#endif
}

// 1 / x to a relative 1e-7 or, roughly, 6e-5.
template <bool ROUGHLY = false> INLINE Floats inverse_of(Floats x) {
#if defined(__AVX512F__)
    const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
    return ROUGHLY ? guess : guess * (2.f - x * guess);
#else
    return 1.f / x;
#endif
}

constexpr float LOG2_E = 1.44269504f;

// 1 / (1 + e^-x); where that is below 2^-126, 0 or 2^-126.
template <bool ROUGHLY = false> INLINE Floats logistic(Floats x) {
    Floats power = x * -LOG2_E;
    if constexpr (!ROUGHLY) power = smaller(power, splat(126.f));
    return inverse_of<ROUGHLY>(1.f + exp2_of<ROUGHLY>(power));
}

template <bool ROUGHLY = false> INLINE Floats silu(Floats x) { return x * logistic<ROUGHLY>(x); }

// sin(x + quarters pi / 2) to 1e-7 for x below 10^4 in size, and less well up to 10^6.
INLINE Floats sine(Floats x, int quarters) {
    const Floats turns = nearest(x * 0.636619772f);
    // pi / 2 in three parts: products with the first two are exact
    Floats part = x - turns * 1.5703125f;
    part -= turns * 4.83751297e-4f;
    part -= turns * 7.54978989e-8f;
    const Floats square = part * part;
    const Floats odd = part + part * square * (-0.166666549f + square * (8.33217354e-3f + square * -1.95166554e-4f));
    const Floats even = 1.f - 0.5f * square +
                        square * square * (4.16666467e-2f + square * (-1.38873614e-3f + square * 2.44377297e-5f));
    const Ints quadrant = __builtin_convertvector(turns, Ints) + quarters;
    const Floats size = (quadrant & 1) != 0 ? even : odd;
    return (Floats)((Ints)size ^ ((quadrant & 2) << 30));
}

// Abramowitz and Stegun 7.1.26: erf to 1.5e-7.
INLINE Floats gelu_exact(Floats x) {
    const Floats z = x * 0.70710678f, size = z < 0 ? -z : z;
    const Floats t = inverse_of(1.f + 0.3275911f * size);
    const Floats poly =
        ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const Floats tail = poly * exp2_of(size * size * -LOG2_E);
    return 0.5f * x * (z < 0 ? tail : 2.f - tail);
}

template <bool ROUGHLY = false> INLINE Floats gelu_tanh(Floats x) {
    const Floats inner = 1.5957691216f * (x + 0.044715f * x * x * x);
    return x * logistic<ROUGHLY>(inner);
}

struct NoTiles {};

// A number format: how many numbers a 32-bit word holds, and products of words. Words of activations hold neighbouring
// features of one token; words of weights are what lies in memory. Threads hold `Registers` while they multiply. What
// is ROUNDED afterwards may be computed roughly: that loses far less.
struct Float32 {
    typedef float Scalar;
    typedef NoTiles Registers;
    static constexpr int PER_WORD = 1;
    static constexpr bool TILED = false, ROUNDED = false;
    static INLINE float wide(float value) { return value; }
    static INLINE Floats dot(Floats sum, Words x, uint32_t w) {
        float weight;
        std::memcpy(&weight, &w, 4);
        return sum + (Floats)x * weight;
    }
    static INLINE Floats dot(Floats sum, Words x, Words w) { return sum + (Floats)x * (Floats)w; }
    static INLINE Words pack(const Floats *rows) { return (Words)rows[0]; }
    static INLINE void widen(Words words, Floats *rows) { rows[0] = (Floats)words; }
    static INLINE Words beside(const float *const *rows) { return load<Words>(rows[0]); }
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
    typedef uint16_t Scalar;
    typedef NoTiles Registers;
    static constexpr int PER_WORD = 2;
    static constexpr bool TILED = false, ROUNDED = true;
    static INLINE float wide(uint16_t value) {
        const uint32_t bits = uint32_t(value) << 16;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    }
    static INLINE Floats dot(Floats sum, Words x, uint32_t w) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)_mm512_set1_epi32(w));
    }
    static INLINE Floats dot(Floats sum, Words x, Words w) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
    }
    static INLINE Words pack(const Floats *rows) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)rows[1], (__m512)rows[0]);
        return (Words)_mm512_permutexvar_epi16((__m512i)load<Words>(IN_TURN), both);
    }
    static INLINE void widen(Words words, Floats *rows) {
        rows[0] = (Floats)(words << 16);
        rows[1] = (Floats)(words & 0xffff0000u);
    }
    static INLINE Words beside(const uint16_t *const *rows) {
        const Words a = __builtin_convertvector(load<Halves>(rows[0]), Words);
        const Words b = __builtin_convertvector(load<Halves>(rows[1]), Words);
        return a | (b << 16);
    }
    // 32 numbers of one token and of the next, as words of both: the first 16, and the others.
    static INLINE void beside(Words a, Words b, Words &low, Words &high) {
        low = (Words)_mm512_permutex2var_epi16((__m512i)a, (__m512i)load<Words>(FIRST_OF_BOTH), (__m512i)b);
        high = (Words)_mm512_permutex2var_epi16((__m512i)a, (__m512i)load<Words>(LAST_OF_BOTH), (__m512i)b);
    }

private:
    // One number of each half in turn; one of each vector.
    alignas(64) static constexpr uint16_t IN_TURN[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                         8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    alignas(64) static constexpr uint16_t FIRST_OF_BOTH[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                               37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                               11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    alignas(64) static constexpr uint16_t LAST_OF_BOTH[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21,
                                                              53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58,
                                                              27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
};
#endif

// Products of bytes. RELIC_EMULATED_BYTES has them done by other instructions: for tests.
#if defined(RELIC_EMULATED_BYTES) || (defined(__AVX512F__) && defined(__AVX512VNNI__)) || defined(__AVXVNNI__)
#define RELIC_BYTES

// Adds up the products of four unsigned bytes of `x` with four signed ones.
INLINE Ints dot_of_bytes(Ints sum, Words x, uint32_t weights) {
#if defined(RELIC_EMULATED_BYTES)
    for (int shift = 0; shift < 32; shift += 8) sum += (Ints)((x >> shift) & 255u) * int8_t(weights >> shift);
    return sum;
#elif defined(__AVX512F__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, _mm512_set1_epi32(weights));
#else
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, _mm256_set1_epi32(weights));
#endif
}
#endif
