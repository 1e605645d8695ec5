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

// sums[r][v] += sum over k of weights[r * row + k * column] x[k][v]; x has `lanes` lanes a row.
template <class T, int R, int V>
INLINE void multiply(Floats (&sums)[R][V], const uint32_t *x, int lanes, const uint32_t *weights, long row,
                     long column, int count) {
    for (int k = 0; k < count; ++k) {
        Words values[V];
        for (int v = 0; v < V; ++v) values[v] = load<Words>(x + long(k) * lanes + v * WIDTH);
        for (int r = 0; r < R; ++r) {
            const uint32_t weight = weights[r * row + k * column];
            for (int v = 0; v < V; ++v) sums[r][v] = T::dot(sums[r][v], values[v], weight);
        }
    }
}

template <class T> struct Linear {
    const typename T::Scalar *weight, *bias;
};

// Outputs `first` to `first + R`.
template <class T, int R, class Use>
INLINE void linear_rows(const Linear<T> &layer, const uint32_t *x, int words, int first, Use &use) {
    const uint32_t *weights = (const uint32_t *)layer.weight + long(first) * words;
    for (int lane = 0; lane < LANES; lane += CHUNK) {
        Floats sums[R][VECTORS_AT_ONCE];
        for (int r = 0; r < R; ++r)
            for (auto &sum : sums[r]) sum = splat(T::wide(layer.bias[first + r]));
        multiply<T>(sums, x + lane, LANES, weights, words, 1, words);
        for (int r = 0; r < R; r += 2)
            for (int v = 0; v < VECTORS_AT_ONCE; ++v) {
                const Floats both[] = {sums[r][v], sums[r + 1][v]};
                use(first + r, lane / WIDTH + v, both);
            }
    }
}

#if defined(RELIC_TILES)
template <class T, int HIGH, class Use>
INLINE void linear_tiles(const Linear<T> &layer, const uint32_t *x, int words, int first, Use &use) {
    alignas(64) float sums[HIGH * TILE][LANES];
    const uint32_t *weights = (const uint32_t *)layer.weight + long(first) * words;
    const char *next = (const char *)(weights + HIGH * TILE * words);
    // inline by force: gcc takes a function that only prefetches for one that does nothing
    const auto ask = [&](int i) __attribute__((always_inline)) {
        constexpr int LINES = HIGH * TILE / 2;
        for (int line = 0; line < LINES; ++line) __builtin_prefetch(next + 64 * (LINES * i + line), 0, 2);
    };
    multiply_tiles<false, HIGH>(weights, 4L * words, x, sums[0], words / TILE, ask);
    for (int r = 0; r < HIGH * TILE; r += 2)
        for (int v = 0; v < VECTORS; ++v) {
            Floats both[2];
            for (int i = 0; i < 2; ++i)
                both[i] = load<Floats>(sums[r + i] + v * WIDTH) + T::wide(layer.bias[first + r + i]);
            use(first + r, v, both);
        }
}
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

// Outputs that threads share a linear layer by, whatever its size: rows then lie with the thread that made them.
template <class T> constexpr int STEP_OF = T::TILED ? 16 : ROWS;

// Outputs `own` of a linear layer, by two at once: `use(output, vector, values)` gets the first's number and the values
// of both. `inputs` and the bounds are even.
template <class T, class Use>
void linear(const Linear<T> &layer, const uint32_t *x, int inputs, Share own, Use use) {
    const int words = inputs / T::PER_WORD;
#if defined(RELIC_TILES)
    if constexpr (T::TILED)
        if (words % TILE == 0) {
            for (; own.first + 2 * TILE <= own.last; own.first += 2 * TILE)
                linear_tiles<T, 2>(layer, x, words, own.first, use);
            for (; own.first + TILE <= own.last; own.first += TILE)
                linear_tiles<T, 1>(layer, x, words, own.first, use);
        }
#endif
    const char *next = (const char *)layer.weight + 4L * (own.first + ROWS) * words;
    const char *end = (const char *)layer.weight + 4L * own.last * words;
    for (; own.first + ROWS <= own.last; own.first += ROWS) {
        // the next rows of weights: they are too short for the processor to foresee them
        const char *stop = next + 4L * ROWS * words;
        for (; next < stop && next < end; next += 64) __builtin_prefetch(next);
        linear_rows<T, ROWS>(layer, x, words, own.first, use);
    }
    for (; own.first < own.last; own.first += 2) linear_rows<T, 2>(layer, x, words, own.first, use);
}
