// The one matrix product of the library, and linear layers by it.
#pragma once

#include "tiles.h"

// A tile fits the registers: ROWS outputs by VECTORS_AT_ONCE vectors of lanes.
constexpr int ROWS = 6;
#if defined(__AVX512F__)
constexpr int VECTORS_AT_ONCE = 4;
#else
constexpr int VECTORS_AT_ONCE = 2;
#endif
constexpr int CHUNK = VECTORS_AT_ONCE * WIDTH;

// Not by an initialiser: gcc would call memset, and then load what it wrote.
template <class Sums, int R, int V> INLINE void clear(Sums (&sums)[R][V]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = Sums{};
}

// sums[r][v] += sum over k of weights[r * row + k * column] x[k][v], by F's products of words; a row of x has `lanes`.
// ask(k) may prefetch what comes after.
template <class F, class Sums, int R, int V, class Ask>
INLINE void multiply(Sums (&sums)[R][V], const uint32_t *x, int lanes, const uint32_t *weights, long row, long column,
                     int count, Ask ask) {
    for (int k = 0; k < count; ++k) {
        ask(k);
        Words values[V];
        for (int v = 0; v < V; ++v) values[v] = load<Words>(x + long(k) * lanes + v * WIDTH);
        for (int r = 0; r < R; ++r) {
            const uint32_t weight = weights[r * row + k * column];
            for (int v = 0; v < V; ++v) sums[r][v] = F::dot(sums[r][v], values[v], weight);
        }
    }
}

template <class F, class Sums, int R, int V>
INLINE void multiply(Sums (&sums)[R][V], const uint32_t *x, int lanes, const uint32_t *weights, long row, long column,
                     int count) {
    multiply<F>(sums, x, lanes, weights, row, column, count, [](int) {});
}

// A linear layer in T: `weight` (outputs, inputs) as torch stores it. `value` makes an output of a sum of products.
template <class T> struct Linear : T {
    typedef float Number;
    typedef Floats Sums;
    static constexpr int AT_ONCE = ROWS;
    const typename T::Scalar *weight, *bias;
    Linear(const void *weight, const void *bias)
        : weight((const typename T::Scalar *)weight), bias((const typename T::Scalar *)bias) {}
    INLINE Floats value(Floats sum, int r, int) const { return sum + T::wide(bias[r]); }
};

// What a layer reads: words of its format. For a layer of bytes these are four neighbouring features, each raised by
// 128, by a scale of each lane's own.
struct Operand {
    uint32_t *words;
    Floats scale[VECTORS];
};

#if defined(RELIC_BYTES)
constexpr bool MAY_BE_BYTES = true;

// A linear layer of bytes by bytes. `matrix` is (outputs, inputs) signed bytes, then for each output its scale in
// float32 and, as int32, -128 times the sum of its bytes: what raising the inputs by 128 adds.
template <class T> struct ByteLinear {
    typedef int32_t Number;
    typedef Ints Sums;
    static constexpr int AT_ONCE = 4, PER_WORD = 4;
    static constexpr bool TILED = T::TILED;
    const int8_t *weight;
    const float *scale;
    const int32_t *start;
    const typename T::Scalar *bias;
    const Floats *lane_scale;
    ByteLinear(const void *matrix, const void *bias, int inputs, int outputs, const Floats *lane_scale)
        : weight((const int8_t *)matrix), scale((const float *)(weight + long(outputs) * inputs)),
          start((const int32_t *)(scale + outputs)), bias((const typename T::Scalar *)bias), lane_scale(lane_scale) {}
    static INLINE Ints dot(Ints sum, Words x, uint32_t w) { return dot_of_bytes(sum, x, w); }
    INLINE Floats value(Ints sum, int r, int v) const {
        return __builtin_convertvector(sum + start[r], Floats) * (lane_scale[v] * scale[r]) + T::wide(bias[r]);
    }
};
#else
constexpr bool MAY_BE_BYTES = false;
#endif

// What thread `thread` of a team has to do of `count` things, in order.
struct Share {
    int first, last;
    static Share of(int count, int thread, int threads) {
        return {int(long(count) * thread / threads), int(long(count) * (thread + 1) / threads)};
    }
    // Of `count` things by `step` at once.
    static Share of_steps(int count, int step, int thread, int threads) {
        const Share steps = of((count + step - 1) / step, thread, threads);
        return {steps.first * step, steps.last * step < count ? steps.last * step : count};
    }
};

// All vectors of lanes.
constexpr Share ALL_VECTORS{0, VECTORS};

// Outputs `first` to `first + R`, of V vectors of lanes from `v` on.
template <int R, int V, class Layer, class Use>
INLINE void linear_block(const Layer &layer, const uint32_t *x, int words, int first, int v, Use &use) {
    const uint32_t *weights = (const uint32_t *)layer.weight + long(first) * words;
    typename Layer::Sums sums[R][V];
    clear(sums);
    // the next rows of weights: they are too short for the processor to foresee them
    const char *next = (const char *)(weights + long(R) * words);
    multiply<Layer>(sums, x + v * WIDTH, LANES, weights, words, 1, words, [&](int k) __attribute__((always_inline)) {
        __builtin_prefetch(next + 4L * R * k);
    });
    for (int r = 0; r < R; r += 2)
        for (int i = 0; i < V; ++i) {
            const Floats both[] = {layer.value(sums[r][i], first + r, v + i),
                                   layer.value(sums[r + 1][i], first + r + 1, v + i)};
            use(first + r, v + i, both);
        }
}

template <int R, class Layer, class Use>
INLINE void linear_rows(const Layer &layer, const uint32_t *x, int words, int first, Share vectors, Use &use) {
    constexpr int HALF = VECTORS_AT_ONCE / 2;
    int v = vectors.first;
    for (; v + HALF < vectors.last; v += VECTORS_AT_ONCE)
        linear_block<R, VECTORS_AT_ONCE>(layer, x, words, first, v, use);
    if (v < vectors.last) linear_block<R, HALF>(layer, x, words, first, v, use);
}

#if defined(RELIC_TILES)
template <int HIGH, class Layer, class Use>
INLINE void linear_tiles(const Layer &layer, const uint32_t *x, int words, int first, Share vectors, Use &use) {
    alignas(64) typename Layer::Number sums[HIGH * TILE][LANES];
    const uint32_t *weights = (const uint32_t *)layer.weight + long(first) * words;
    const char *next = (const char *)(weights + HIGH * TILE * words);
    // inline by force: gcc takes a function that only prefetches for one that does nothing
    const auto ask = [&](int i) __attribute__((always_inline)) {
        constexpr int LINES = HIGH * TILE / 2;
        for (int line = 0; line < LINES; ++line) __builtin_prefetch(next + 64 * (LINES * i + line), 0, 2);
    };
    multiply_tiles<false, HIGH>(weights, 4L * words, x, sums[0], words / TILE, ask);
    for (int r = 0; r < HIGH * TILE; r += 2)
        for (int v = vectors.first; v < vectors.last; ++v) {
            Floats both[2];
            for (int i = 0; i < 2; ++i)
                both[i] = layer.value(load<typename Layer::Sums>(sums[r + i] + v * WIDTH), first + r + i, v);
            use(first + r, v, both);
        }
}
#endif

// Outputs that threads share a linear layer by, whatever its size: rows then lie with the thread that made them.
template <class T> constexpr int STEP_OF = T::TILED ? 16 : ROWS;

// Outputs `own` of a linear layer, by two at once: `use(output, vector, values)` gets the first's number and the values
// of both. `inputs` come out in words, and the bounds are even: multiples of four for a layer of bytes. Of the vectors
// only some may be wanted, unless ALL are; those after these may come too, but none of another half.
template <bool ALL = true, class Layer, class Use>
void linear(const Layer &layer, const uint32_t *x, int inputs, Share own, Use use, Share vectors = ALL_VECTORS) {
    if (ALL) vectors = ALL_VECTORS;
    constexpr int AT_ONCE = Layer::AT_ONCE;
    const int words = inputs / Layer::PER_WORD;
#if defined(RELIC_TILES)
    if constexpr (Layer::TILED)
        if (words % TILE == 0) {
            for (; own.first + 2 * TILE <= own.last; own.first += 2 * TILE)
                linear_tiles<2>(layer, x, words, own.first, vectors, use);
            for (; own.first + TILE <= own.last; own.first += TILE)
                linear_tiles<1>(layer, x, words, own.first, vectors, use);
        }
#endif
    for (; own.first + AT_ONCE <= own.last; own.first += AT_ONCE)
        linear_rows<AT_ONCE>(layer, x, words, own.first, vectors, use);
    for (; own.first < own.last; own.first += 2) linear_rows<2>(layer, x, words, own.first, vectors, use);
}
