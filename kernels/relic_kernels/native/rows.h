// Row operations on (features, LANES) floats: a thread works on its own vectors of lanes, or on its own rows.
#pragma once

#include "products.h"

INLINE Floats at(const float *rows, int row, int v) { return load<Floats>(rows + row * LANES + v * WIDTH); }
INLINE void put(float *rows, int row, int v, Floats value) { store(rows + row * LANES + v * WIDTH, value); }

// Two rows' values, row `row` first.
INLINE void put_two(const Floats *both, float *rows, int row, int v) {
    for (int i = 0; i < 2; ++i) put(rows, row + i, v, both[i]);
}

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
        for (int v = 0; v * WIDTH < tokens; ++v) {
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

// Two rows' values as words, row `row` first; it is even.
template <class T> INLINE void pack_two(const Floats *both, uint32_t *to, int row, int v) {
    for (int i = 0; i < 2; i += T::PER_WORD) store(to + (row + i) / T::PER_WORD * LANES + v * WIDTH, T::pack(both + i));
}

// Some rows of floats -> words.
template <class T> void pack(const float *rows, Share own, uint32_t *to) {
    for (int r = own.first; r < own.last; r += 2)
        for (int v = 0; v < VECTORS; ++v) {
            const Floats both[] = {at(rows, r, v), at(rows, r + 1, v)};
            pack_two<T>(both, to, r, v);
        }
}

// Means over rows, taken by groups of STEP: a thread takes those of its own rows, and all together give the same
// numbers however many threads there are.
template <int STEP> struct Moments {
    float *of;    // (groups, 2, LANES): a group's mean, and its sum of squares around it
    static int groups(int dim) { return (dim + STEP - 1) / STEP; }
    static size_t floats(int dim) { return size_t(groups(dim)) * 2 * LANES; }

    void take(const float *x, Share rows) const {
        for (int first = rows.first; first < rows.last; first += STEP) {
            const int last = least(first + STEP, rows.last);
            for (int v = 0; v < VECTORS; ++v) {
                Floats sum = {}, squares = {};
                for (int r = first; r < last; ++r) sum += at(x, r, v);
                const Floats mean = sum / float(last - first);
                for (int r = first; r < last; ++r) {
                    const Floats off = at(x, r, v) - mean;
                    squares += off * off;
                }
                put(of, first / STEP * 2, v, mean);
                put(of, first / STEP * 2 + 1, v, squares);
            }
        }
    }

    Floats mean(int dim, int v) const {
        Floats sum = {};
        for (int g = 0; g < groups(dim); ++g) sum += at(of, 2 * g, v) * float(least(STEP, dim - g * STEP));
        return sum / float(dim);
    }

    // Mean of the squares around `centre`.
    Floats square(int dim, int v, Floats centre) const {
        Floats sum = {};
        for (int g = 0; g < groups(dim); ++g) {
            const Floats off = at(of, 2 * g, v) - centre;
            sum += at(of, 2 * g + 1, v) + off * off * float(least(STEP, dim - g * STEP));
        }
        return sum / float(dim);
    }
};

// LayerNorm of some rows, times `weight + plus`, plus `shift`: `use(row, vector, values)` gets two at once.
template <int STEP, class Use>
void layer_norm(const float *x, int dim, Share rows, Moments<STEP> moments, const float *weight, float plus,
                const float *shift, float eps, Use use) {
    Floats mean[VECTORS], inverse[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        mean[v] = moments.mean(dim, v);
        inverse[v] = 1.f / square_root(moments.square(dim, v, mean[v]) + eps);
    }
    for (int r = rows.first; r < rows.last; r += 2)
        for (int v = 0; v < VECTORS; ++v) {
            Floats both[2];
            for (int i = 0; i < 2; ++i)
                both[i] = (at(x, r + i, v) - mean[v]) * inverse[v] * (weight[r + i] + plus) + shift[r + i];
            use(r, v, both);
        }
}

// RMSNorm of some rows, times `factor`: `use` as of a LayerNorm.
template <class T, int STEP, class Use>
void rms_norm(const float *x, int dim, Share rows, Moments<STEP> moments, const typename T::Scalar *weight, float eps,
              float factor, Use use) {
    Floats inverse[VECTORS];
    for (int v = 0; v < VECTORS; ++v) inverse[v] = factor / square_root(moments.square(dim, v, Floats{}) + eps);
    for (int r = rows.first; r < rows.last; r += 2)
        for (int v = 0; v < VECTORS; ++v) {
            Floats both[2];
            for (int i = 0; i < 2; ++i) both[i] = at(x, r + i, v) * inverse[v] * T::wide(weight[r + i]);
            use(r, v, both);
        }
}

// Turns two neighbouring rows by `turn` (head_dim, LANES): cosine and sine of each pair, the same for every head.
INLINE void rotate(Floats *both, int row, int v, const float *turn, int head_dim) {
    const Floats a = both[0], b = both[1], cosine = at(turn, row % head_dim, v), sine = at(turn, row % head_dim + 1, v);
    both[0] = a * cosine - b * sine;
    both[1] = a * sine + b * cosine;
}

#if defined(RELIC_BYTES)
// The largest sizes of each lane among some rows.
INLINE void take_peaks(const float *rows, Share own, float *peaks, Share vectors = ALL_VECTORS) {
    for (int v = vectors.first; v < vectors.last; ++v) {
        Floats peak = {};
        for (int r = own.first; r < own.last; ++r) {
            const Words size = (Words)at(rows, r, v) & 0x7fffffffu;
            peak = larger(peak, (Floats)size);
        }
        put(peaks, 0, v, peak);
    }
}

// Some rows of floats -> words of bytes, each lane by a scale of its own: 1/127 of its largest size, given back in
// `scale`. `peaks` are those of each of `threads` threads.
INLINE void pack_bytes(const float *rows, Share own, const float *peaks, int threads, uint32_t *to, Floats *scale,
                       Share vectors = ALL_VECTORS) {
    constexpr float LARGEST = 127.f, RAISING = 12582912.f + 128.f;    // the last bits of a sum are whole numbers
    for (int v = vectors.first; v < vectors.last; ++v) {
        Floats peak = at(peaks, 0, v);
        for (int i = 1; i < threads; ++i) peak = larger(peak, at(peaks, i, v));
        const Floats inverse = peak > 0 ? LARGEST / peak : Floats{};
        scale[v] = peak / LARGEST;
        for (int r = own.first; r < own.last; r += 4) {
            Words word = (Words)(at(rows, r, v) * inverse + RAISING);
            for (int i = 1; i < 4; ++i)
                word = (word & ((1u << (8 * i)) - 1u)) | ((Words)(at(rows, r + i, v) * inverse + RAISING) << (8 * i));
            store(to + r / 4 * LANES + v * WIDTH, word);
        }
    }
}
#endif
