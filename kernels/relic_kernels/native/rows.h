// Row operations on (features, LANES) floats: a thread works on its own vectors of lanes, or on its own rows.
#pragma once

#include "products.h"

INLINE Floats at(const float *rows, int row, int v) { return load<Floats>(rows + row * LANES + v * WIDTH); }
INLINE void put(float *rows, int row, int v, Floats value) { store(rows + row * LANES + v * WIDTH, value); }

INLINE int least(int a, int b) { return a < b ? a : b; }

// (tokens, dim) numbers -> rows of floats; lanes without a token are 0.
template <class T>
void rows_of_tokens(const typename T::Scalar *from, int tokens, int dim, float *rows, Share words) {
    for (int first = words.first; first < words.last; first += WIDTH)
        for (int v = 0; v < VECTORS; ++v) {
            const int count = least(WIDTH, words.last - first);
            Words block[WIDTH] = {};
            for (int i = 0; i < WIDTH && v * WIDTH + i < tokens; ++i) {
                const typename T::Scalar *here = from + long(v * WIDTH + i) * dim + first * T::PER_WORD;
                if (count == WIDTH) block[i] = load<Words>(here);
                else std::memcpy(&block[i], here, 4 * count);
            }
            transpose(block);
            for (int i = 0; i < count; ++i) {
                Floats values[T::PER_WORD];
                T::widen(block[i], values);
                for (int j = 0; j < T::PER_WORD; ++j) put(rows, (first + i) * T::PER_WORD + j, v, values[j]);
            }
        }
}

// (dim / PER_WORD, LANES) words -> (tokens, dim) numbers.
template <class T>
void tokens_of_words(const uint32_t *from, int tokens, int dim, typename T::Scalar *to, Share words) {
    for (int first = words.first; first < words.last; first += WIDTH)
        for (int v = 0; v < VECTORS; ++v) {
            const int count = least(WIDTH, words.last - first);
            Words block[WIDTH] = {};
            for (int i = 0; i < count; ++i) block[i] = load<Words>(from + (first + i) * LANES + v * WIDTH);
            transpose(block);
            for (int i = 0; i < WIDTH && v * WIDTH + i < tokens; ++i) {
                typename T::Scalar *here = to + long(v * WIDTH + i) * dim + first * T::PER_WORD;
                if (count == WIDTH) store(here, block[i]);
                else std::memcpy(here, &block[i], 4 * count);
            }
        }
}

// Rows `word * PER_WORD` and following as one row of words.
template <class T> INLINE void pack_row(const float *rows, uint32_t *to, int word, int v) {
    Floats both[T::PER_WORD];
    for (int i = 0; i < T::PER_WORD; ++i) both[i] = at(rows, word * T::PER_WORD + i, v);
    store(to + word * LANES + v * WIDTH, T::pack(both));
}

// Two rows' values as words, row `row` first; it is even.
template <class T> INLINE void pack_two(const Floats *both, uint32_t *to, int row, int v) {
    for (int i = 0; i < 2; i += T::PER_WORD) store(to + (row + i) / T::PER_WORD * LANES + v * WIDTH, T::pack(both + i));
}

template <class T> void pack(const float *rows, int dim, uint32_t *to, Share vectors) {
    for (int v = vectors.first; v < vectors.last; ++v)
        for (int w = 0; w < dim / T::PER_WORD; ++w) pack_row<T>(rows, to, w, v);
}

// Mean of (x - centre)^power over `dim` rows, an even number; two sums at once hide their latency.
template <int POWER> INLINE Floats mean_of(const float *rows, int dim, int v, Floats centre) {
    Floats sums[2] = {};
    for (int r = 0; r < dim; r += 2)
        for (int i = 0; i < 2; ++i) {
            const Floats off = at(rows, r + i, v) - centre;
            sums[i] += POWER == 1 ? off : off * off;
        }
    return (sums[0] + sums[1]) / float(dim);
}

// LayerNorm over the rows, times `weight + plus`, plus `shift`, as words.
template <class T>
void layer_norm(const float *x, int dim, const float *weight, float plus, const float *shift, float eps, uint32_t *to,
                Share vectors) {
    for (int v = vectors.first; v < vectors.last; ++v) {
        const Floats mean = mean_of<1>(x, dim, v, Floats{});
        const Floats inverse = 1.f / square_root(mean_of<2>(x, dim, v, mean) + eps);
        for (int r = 0; r < dim; r += T::PER_WORD) {
            Floats both[T::PER_WORD];
            for (int i = 0; i < T::PER_WORD; ++i)
                both[i] = (at(x, r + i, v) - mean) * inverse * (weight[r + i] + plus) + shift[r + i];
            store(to + r / T::PER_WORD * LANES + v * WIDTH, T::pack(both));
        }
    }
}

// RMSNorm over the rows, in place, times `factor`.
template <class T>
void rms_norm(float *x, int dim, const typename T::Scalar *weight, float eps, float factor, Share vectors) {
    for (int v = vectors.first; v < vectors.last; ++v) {
        const Floats inverse = factor / square_root(mean_of<2>(x, dim, v, Floats{}) + eps);
        for (int r = 0; r < dim; ++r) put(x, r, v, at(x, r, v) * inverse * T::wide(weight[r]));
    }
}

// Turns neighbouring rows by `turn` (head_dim, LANES): cosine and sine of each pair, the same for every head.
inline void rotate(float *x, int dim, const float *turn, int head_dim, Share vectors) {
    for (int r = 0; r < dim; r += 2)
        for (int v = vectors.first; v < vectors.last; ++v) {
            const Floats a = at(x, r, v), b = at(x, r + 1, v);
            const Floats cosine = at(turn, r % head_dim, v), sine = at(turn, r % head_dim + 1, v);
            put(x, r, v, a * cosine - b * sine);
            put(x, r + 1, v, a * sine + b * cosine);
        }
}
