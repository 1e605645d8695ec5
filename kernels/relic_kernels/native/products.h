// The one matrix product of the library, and linear layers by it.
#pragma once

#include "lanes.h"

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

// Outputs `first` to `first + R`, given to `use(first, tile)` as R rows of LANES floats.
template <class T, int R, class Use>
INLINE void linear_tile(const Linear<T> &layer, const uint32_t *x, int words, int first, Use &use) {
    alignas(64) float tile[R][LANES];
    const uint32_t *weights = (const uint32_t *)layer.weight + long(first) * words;
    for (int lane = 0; lane < LANES; lane += CHUNK) {
        Floats sums[R][VECTORS_AT_ONCE];
        for (int r = 0; r < R; ++r)
            for (auto &sum : sums[r]) sum = splat(T::wide(layer.bias[first + r]));
        multiply<T>(sums, x + lane, LANES, weights, words, 1, words);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < VECTORS_AT_ONCE; ++v) store(tile[r] + lane + v * WIDTH, sums[r][v]);
    }
    use(first, R, (const float(*)[LANES])tile);
}

// What thread `thread` of a team has to do of `count` things, in order.
struct Share {
    int first, last;
    static Share of(int count, int thread, int threads) {
        return {int(long(count) * thread / threads), int(long(count) * (thread + 1) / threads)};
    }
};

// A thread's share of a linear layer; `inputs` and `outputs` are even.
template <class T, class Use>
void linear(const Linear<T> &layer, const uint32_t *x, int inputs, int outputs, int thread, int threads, Use use) {
    const int words = inputs / T::PER_WORD;
    const Share tiles = Share::of((outputs + ROWS - 1) / ROWS, thread, threads);
    const int last = tiles.last * ROWS < outputs ? tiles.last * ROWS : outputs;
    int first = tiles.first * ROWS;
    const char *next = (const char *)layer.weight + 4L * (first + ROWS) * words;
    const char *end = (const char *)layer.weight + 4L * last * words;
    for (; first + ROWS <= last; first += ROWS) {
        // the next tile's weights: its rows are too short for the processor to foresee them
        for (const char *stop = next + 4L * ROWS * words; next < stop && next < end; next += 64) __builtin_prefetch(next);
        linear_tile<T, ROWS>(layer, x, words, first, use);
    }
    for (; first < last; first += 2) linear_tile<T, 2>(layer, x, words, first, use);
}
