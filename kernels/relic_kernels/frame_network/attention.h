// Attention of LANES queries to any number of keys, by blocks of keys with a running maximum.
#pragma once

#include "../native/rows.h"

constexpr int WIDEST_HEAD = 256;
constexpr float HEADROOM = 8.f;    // powers of two by which a logit may exceed the maximum before all is scaled anew

template <class T> struct Memory {
    const typename T::Scalar *keys, *values;   // (tokens, heads, dim)
    long tokens;
    int heads, dim;
    long stride() const { return long(heads) * dim; }
};

// What one head has gathered from the keys it has seen: out (dim, LANES), still to be divided by the sum; peak and sum
// (LANES).
struct Gathered {
    float *out, *peak, *sum;
    static size_t floats(int dim) { return size_t(dim + 2) * LANES; }
    static Gathered at(float *room, int dim) { return {room, room + dim * LANES, room + (dim + 1) * LANES}; }
};

template <class T> class Attention {
public:
    static constexpr int STEP = T::TILED ? 32 : ROWS;             // keys at once
    static constexpr int KEYS = (T::TILED ? 4 : 20) * STEP;       // of a block

private:
    static constexpr int LINE = 64 / sizeof(typename T::Scalar);    // numbers of a cache line
    alignas(64) float logits[KEYS][CHUNK];
    alignas(64) uint32_t weights[KEYS / T::PER_WORD][CHUNK];
    alignas(64) uint32_t values[KEYS / T::PER_WORD * WIDEST_HEAD];
    struct {
        const typename T::Scalar *keys, *values;
        long stride;
        int rows, lines;
    } ahead;    // what comes next, to be asked for

public:
    // Some heads over keys `first` to `last`. Queries (heads dim / PER_WORD, LANES) are words, scaled by
    // log2(e) / sqrt(dim); `room` has Gathered::floats for each head of the memory. Not inline: gcc would ask for the
    // place of a thread's own Attention in the innermost loops.
    __attribute__((noinline)) void run(const uint32_t *queries, const Memory<T> &memory, long first, long last,
                                       Share heads, float *room) {
        const int dim = memory.dim;
        const long stride = memory.stride();
        for (int head = heads.first; head < heads.last; ++head)
            clear(Gathered::at(room + head * Gathered::floats(dim), dim), dim);
        for (; first < last; first += KEYS) {
            const int count = int(last - first < KEYS ? last - first : KEYS);
            for (int head = heads.first; head < heads.last; ++head) {
                look_ahead(memory, first, last, head, heads);
                const Gathered of = Gathered::at(room + head * Gathered::floats(dim), dim);
                const long offset = first * stride + head * dim;
                lay_out(memory.values + offset, stride, count, dim);
                for (int lane = 0; lane < LANES; lane += CHUNK) {
                    const uint32_t *own = queries + head * dim / T::PER_WORD * LANES + lane;
                    logits_of(own, memory.keys + offset, stride, count, dim);
                    for (int v = 0; v < CHUNK; v += WIDTH) weigh(of, lane, v, count, dim);
                    gather(of.out + lane, dim, count);
                }
            }
        }
    }

private:
    static void clear(const Gathered &of, int dim) {
        std::memset(of.out, 0, sizeof(float) * dim * LANES);
        std::memset(of.sum, 0, sizeof(float) * LANES);
        for (int i = 0; i < LANES; ++i) of.peak[i] = -INFINITY;
    }

    // Next is the block of keys for the next head or, after the last, the block after it for the first.
    void look_ahead(const Memory<T> &memory, long first, long last, int head, Share heads) {
        const bool same = head + 1 < heads.last;
        const long next = same ? first : first + KEYS, rows = last - next < KEYS ? last - next : KEYS;
        const long begin = next * memory.stride() + (same ? head + 1 : heads.first) * memory.dim;
        const int lines = (memory.dim + LINE - 1) / LINE;
        ahead = {memory.keys + begin, memory.values + begin, memory.stride(), int(rows), lines};
    }

    // Asks for some rows of what comes next: they lie too far apart for the processor to foresee them, and all at once
    // they would fill its queue.
    INLINE void fetch(int rows) {
        constexpr int CACHE = T::TILED ? 2 : 3;    // tiles are read from the second as fast
        for (; rows > 0 && ahead.rows > 0; --rows, --ahead.rows) {
            for (int line = 0; line < ahead.lines; ++line) {
                __builtin_prefetch(ahead.keys + line * LINE, 0, CACHE);
                __builtin_prefetch(ahead.values + line * LINE, 0, CACHE);
            }
            ahead.keys += ahead.stride;
            ahead.values += ahead.stride;
        }
    }

    // Whether products are by tiles, which need whole ones of a head's numbers.
    static INLINE bool tiled(int dim) { return T::TILED && dim % 32 == 0; }

    template <int R>
    INLINE void logit_rows(const uint32_t *queries, const uint32_t *keys, long stride, int first, int words) {
        Floats sums[R][VECTORS_AT_ONCE] = {};
        multiply<T>(sums, queries, LANES, keys + first * stride, stride, 1, words);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < VECTORS_AT_ONCE; ++v) store(logits[first + r] + v * WIDTH, sums[r][v]);
    }

    void logits_of(const uint32_t *queries, const typename T::Scalar *keys, long stride, int count, int dim) {
        const long row = stride / T::PER_WORD;
        const int words = dim / T::PER_WORD;
        int first = 0;
        const uint32_t *from = (const uint32_t *)keys;
#if defined(RELIC_TILES)
        if (tiled(dim)) {
            const int rows = STEP * TILE / 2 / words + 1;
            for (; first + STEP <= count; first += STEP)
                multiply_tiles<false, 2>(from + first * row, 4 * row, queries, logits[first], words / TILE,
                                         [&](int) { fetch(rows); });
        }
#endif
        for (; first + ROWS <= count; first += ROWS) {
            fetch(ROWS);
            logit_rows<ROWS>(queries, from, row, first, words);
        }
        for (; first < count; ++first) logit_rows<1>(queries, from, row, first, words);
    }

    // Four at once hide the latency.
    INLINE Floats top_of(int v, int count, Floats least) const {
        Floats tops[4] = {least, least, least, least};
        int t = 0;
        for (; t + 4 <= count; t += 4)
            for (int i = 0; i < 4; ++i) tops[i] = larger(tops[i], load<Floats>(logits[t + i] + v));
        for (; t < count; ++t) tops[0] = larger(tops[0], load<Floats>(logits[t] + v));
        return larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
    }

    // Logits to weights; what is gathered already is scaled when the maximum grows.
    void weigh(const Gathered &of, int lane, int v, int count, int dim) {
        Floats peak = load<Floats>(of.peak + lane + v), sum = load<Floats>(of.sum + lane + v);
        const Floats top = top_of(v, count, peak);
        const Ints grown = top > peak + HEADROOM;
        bool any = false;
        for (int i = 0; i < WIDTH; ++i) any |= grown[i] != 0;
        if (any) {
            const Floats factor = exp2_of(peak - top);
            peak = top;
            sum *= factor;
            for (int d = 0; d < dim; ++d) {
                float *row = of.out + d * LANES + lane + v;
                store(row, load<Floats>(row) * factor);
            }
        }
        const int whole = tiled(dim) ? (count + STEP - 1) / STEP * STEP : count;
        Floats sums[2] = {sum, {}};
        for (int t = 0; t < whole; t += 2) {
            Floats rows[2];
            for (int i = 0; i < 2; ++i) {
                rows[i] = t + i < count ? exp2_of<T::ROUNDED>(load<Floats>(logits[t + i] + v) - peak) : Floats{};
                sums[i] += rows[i];
            }
            for (int i = 0; i < 2 && t + i < whole; i += T::PER_WORD)
                store(weights[(t + i) / T::PER_WORD] + v, T::pack(rows + i));
        }
        sum = sums[0] + sums[1];
        store(of.peak + lane + v, peak);
        store(of.sum + lane + v, sum);
    }

    void lay_out(const typename T::Scalar *from, long stride, int count, int dim) {
#if defined(RELIC_TILES)
        if constexpr (T::TILED)
            if (tiled(dim)) return turn(from, stride, count, dim);
#endif
        interleave(from, stride, count, dim);
    }

#if defined(RELIC_TILES)
    // Values as (dim, KEYS / 2) words of neighbouring keys; missing keys are 0.
    void turn(const uint16_t *from, long stride, int count, int dim) {
        for (int t = 0; t < count; t += STEP)
            for (int d = 0; d < dim; d += 2 * TILE) {
                Words low[TILE], high[TILE];
                for (int i = 0; i < TILE; ++i) {
                    const int left = count - t - 2 * i;
                    const uint16_t *here = from + (t + 2 * i) * stride + d;
                    const Words a = left > 0 ? load<Words>(here) : Words{};
                    const Words b = left > 1 ? load<Words>(here + stride) : Words{};
                    T::beside(a, b, low[i], high[i]);
                }
                transpose(low);
                transpose(high);
                for (int i = 0; i < TILE; ++i) {
                    store(values + (d + i) * KEYS / 2 + t / 2, low[i]);
                    store(values + (d + TILE + i) * KEYS / 2 + t / 2, high[i]);
                }
            }
    }
#endif

    // Values of neighbouring keys side by side, as words; a key that is missing has weight 0.
    void interleave(const typename T::Scalar *from, long stride, int count, int dim) {
        for (int t = 0; t < count; t += T::PER_WORD) {
            uint32_t *to = values + t / T::PER_WORD * dim;
            const typename T::Scalar *rows[T::PER_WORD];
            for (int i = 0; i < T::PER_WORD; ++i) rows[i] = from + (t + i < count ? t + i : t) * stride;
            int d = 0;
            if constexpr (T::PER_WORD == 2)
                for (; d + 2 * WIDTH <= dim; d += 2 * WIDTH) {
                    Words low, high;
                    T::beside(load<Words>(rows[0] + d), load<Words>(rows[1] + d), low, high);
                    store(to + d, low);
                    store(to + d + WIDTH, high);
                }
            for (; d + WIDTH <= dim; d += WIDTH) {
                const typename T::Scalar *here[T::PER_WORD];
                for (int i = 0; i < T::PER_WORD; ++i) here[i] = rows[i] + d;
                store(to + d, T::beside(here));
            }
            for (; d < dim; ++d) {
                typename T::Scalar word[T::PER_WORD];
                for (int i = 0; i < T::PER_WORD; ++i) word[i] = rows[i][d];
                std::memcpy(to + d, word, 4);
            }
        }
    }

    template <int R> INLINE void gather_rows(float *out, int first, int words, int dim) {
        Floats sums[R][VECTORS_AT_ONCE];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < VECTORS_AT_ONCE; ++v)
                sums[r][v] = load<Floats>(out + (first + r) * LANES + v * WIDTH);
        multiply<T>(sums, weights[0], CHUNK, values + first, 1, dim, words);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < VECTORS_AT_ONCE; ++v) store(out + (first + r) * LANES + v * WIDTH, sums[r][v]);
    }

    void gather(float *out, int dim, int count) {
        int first = 0;
#if defined(RELIC_TILES)
        if (tiled(dim)) {
            for (; first < dim; first += STEP)
                multiply_tiles<true, 2>(values + first * KEYS / 2, 2 * KEYS, weights[0], out + first * LANES,
                                        (count + STEP - 1) / STEP, [](int) {});
            return;
        }
#endif
        const int words = (count + T::PER_WORD - 1) / T::PER_WORD;
        for (; first + ROWS <= dim; first += ROWS) gather_rows<ROWS>(out, first, words, dim);
        for (; first + 4 <= dim; first += 4) gather_rows<4>(out, first, words, dim);
        for (; first < dim; first += 2) gather_rows<2>(out, first, words, dim);
    }
};

// What `parts` threads have gathered of one head, `apart` floats from each other: `use(row, values)` gets two at once.
template <class Use> void merge(float *room, size_t apart, int parts, int dim, int v, Use use) {
    const Gathered first = Gathered::at(room, dim);
    Floats peak = load<Floats>(first.peak + v * WIDTH), sum = {};
    for (int i = 1; i < parts; ++i) peak = larger(peak, load<Floats>(first.peak + i * apart + v * WIDTH));
    for (int i = 0; i < parts; ++i) {
        const Floats factor = exp2_of(load<Floats>(first.peak + i * apart + v * WIDTH) - peak);
        sum += load<Floats>(first.sum + i * apart + v * WIDTH) * factor;
        for (int d = 0; d < dim; ++d) {
            const float *from = first.out + i * apart + d * LANES + v * WIDTH;
            float *row = first.out + d * LANES + v * WIDTH;
            store(row, i == 0 ? load<Floats>(from) * factor : load<Floats>(row) + load<Floats>(from) * factor);
        }
    }
    for (int d = 0; d < dim; d += 2) {
        Floats both[2];
        for (int i = 0; i < 2; ++i) both[i] = load<Floats>(first.out + (d + i) * LANES + v * WIDTH) / sum;
        use(d, both);
    }
}
