// A transformer for the tokens of one frame: README.md has the maths, reference.py the same in PyTorch.
#include <algorithm>

#include "../native/patches.h"
#include "../native/room.h"
#include "../native/team.h"
#include "attention.h"

extern "C" {
struct Sizes {
    int32_t tokens, columns, channels, side, dim, heads, hidden, text_tokens, pose_rows, exact_gelu, in_bytes, threads;
    float eps;
};

// Of the first and the last layer.
struct EndWeights {
    const void *embed, *embed_bias, *out, *out_bias;
};

// Of all passes; `guide` and `skip` may be null.
struct Frame {
    const float *rotation, *skip;
    const void *guide;
};

// One pass: `next` becomes keep latents + move velocity + fresh noise, each (channels, rows, columns); it may be where
// the latents lie, and `noise` may be null. Where `next` is null, the last block's keys and values are the last that
// is computed.
struct Step {
    const float *latents, *modulation, *ends_modulation, *noise;
    float *next, sigma, keep, move, fresh;
};

// Of one block; matrices are (outputs, inputs), or of bytes as a ByteLinear has them.
struct Weights {
    const void *q, *q_bias, *k, *k_bias, *v, *v_bias, *out, *out_bias, *norm_q, *norm_k;
    const void *text_q, *text_q_bias, *text_out, *text_out_bias, *text_norm_q;
    const void *widen, *widen_bias, *narrow, *narrow_bias;
    const float *text_norm, *text_norm_bias, *modulation;
};

// Of one block; the first `tokens` rows of keys and values, and own_keys and own_values, are written.
struct Inputs {
    const void *action, *pose, *text_keys, *text_values;
    void *keys, *values, *own_keys, *own_values;
    int64_t memory_tokens;
};
}

namespace {

struct Matrix {
    const void *weight, *bias;
    int inputs, outputs;
};

// Layers of the blocks are of T, or of bytes.
template <class T, bool BYTES> class Pass {
    typedef typename T::Scalar Scalar;
    static constexpr int STEP = BYTES ? (T::TILED ? 16 : 8) : STEP_OF<T>;
    static constexpr int PARTS = 2;    // of a memory; fixed, so that results do not depend on the threads
    const Sizes &sizes;
    const Frame &frame;
    const Patches patches;
    const int patch, dim, head_dim, words;
    float *x, *wide, *turn, *gathered, *table, *peaks;
    uint32_t *narrow, *queries;
    Moments<STEP> moments, more;

    static int patch_of(const Sizes &s) { return s.channels * s.side * s.side; }

    static int widest(const Sizes &s) { return std::max({s.hidden, 3 * s.dim, patch_of(s)}); }

    static size_t gathered_floats(const Sizes &s) { return PARTS * s.heads * Gathered::floats(s.dim / s.heads); }

public:
    static size_t floats_needed(const Sizes &s) {
        return size_t(LANES) * (2 * s.dim + 2 * widest(s) + s.dim / s.heads) + gathered_floats(s) +
               2 * Moments<STEP>::floats(s.dim) + 6 * s.dim + size_t(LANES) * s.threads;
    }

    Pass(const Sizes &sizes, const Frame &frame, float *room)
        : sizes(sizes), frame(frame), patches{sizes.tokens, sizes.columns, sizes.side}, patch(patch_of(sizes)),
          dim(sizes.dim), head_dim(sizes.dim / sizes.heads), words(sizes.dim / T::PER_WORD) {
        x = room;                                              // (dim, LANES)
        wide = x + dim * LANES;                                // (3 dim, hidden or patch, LANES)
        turn = wide + widest(sizes) * LANES;                   // (head_dim, LANES)
        narrow = (uint32_t *)(turn + head_dim * LANES);        // as `wide`, in words
        queries = narrow + widest(sizes) * LANES;              // (dim, LANES), in words
        gathered = (float *)(queries + dim * LANES);           // (PARTS, heads, Gathered)
        moments = {gathered + gathered_floats(sizes)};
        more = {moments.of + Moments<STEP>::floats(dim)};
        peaks = more.of + Moments<STEP>::floats(dim);          // (threads, LANES)
        table = peaks + LANES * sizes.threads;                 // (6, dim)
    }

    void run(const EndWeights &ends, const Weights *weights, const Inputs *inputs, int layers, const Step *steps,
             int count) {
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            [[maybe_unused]] const typename T::Registers registers;
            const int thread = thread_number(), threads = team_size();
            if (thread == 0) rows_of_tokens<Float32>(frame.rotation, sizes.tokens, head_dim, turn, {0, head_dim});
            for (const Step *step = steps; step < steps + count; ++step) {
                if (step > steps) barrier();
                embed(ends, *step, thread, threads);
                const bool last = step + 1 == steps + count;
                for (int i = 0; i < layers; ++i)
                    layer(weights[i], inputs[i], *step, last, step->next || i + 1 < layers, thread, threads);
                if (step->next) predict(ends, *step, thread, threads);
            }
        }
    }

private:
    // Rows, of `count`, that are a thread's own from the product that makes them to the one that reads them.
    static Share rows_of(int count, int thread, int threads) { return Share::of_steps(count, STEP, thread, threads); }

    static Share words_of(Share rows) { return {rows.first / T::PER_WORD, rows.last / T::PER_WORD}; }

    void embed(const EndWeights &ends, const Step &step, int thread, int threads) {
        const Share rows = rows_of(patch, thread, threads), own = rows_of(dim, thread, threads);
        for (int r = rows.first; r < rows.last; ++r) patches.take(step.latents, r, wide + r * LANES);
        pack<T>(wide, rows, narrow);
        if (frame.guide) rows_of_tokens<T>((const Scalar *)frame.guide, sizes.tokens, dim, x, words_of(own));
        else std::memset(x + own.first * LANES, 0, sizeof(float) * (own.last - own.first) * LANES);
        barrier();
        linear(Linear<T>{ends.embed, ends.embed_bias}, narrow, patch, own, [&](int r, int v, const Floats *both) {
            for (int i = 0; i < 2; ++i) put(x, r + i, v, at(x, r + i, v) + both[i]);
        });
    }

    // Rows of a predicted patch are its cells, each with all channels.
    void predict(const EndWeights &ends, const Step &step, int thread, int threads) {
        const Share rows = rows_of(patch, thread, threads);
        const float *shift = step.ends_modulation, *scale = shift + dim;
        norm(scale, 1.f, shift, rows_of(dim, thread, threads),
             [&](int r, int v, const Floats *both) { pack_two<T>(both, narrow, r, v); });
        barrier();
        linear(Linear<T>{ends.out, ends.out_bias}, narrow, dim, rows,
               [&](int r, int v, const Floats *both) { put_two(both, wide, r, v); });
        for (int r = rows.first; r < rows.last; ++r) {
            const int cell = r / sizes.channels;
            patches.cells(r % sizes.channels, cell / sizes.side, cell % sizes.side, [&](int lane, long place) {
                const float known = frame.skip ? step.sigma * frame.skip[long(lane) * patch + r] : 0.f;
                const float velocity = wide[r * LANES + lane] - known;
                const float moved = step.keep * step.latents[place] + step.move * velocity;
                step.next[place] = step.noise ? moved + step.fresh * step.noise[place] : moved;
            });
        }
    }

    // Own keys and values are handed out by the `last` pass; what follows them is computed where it is wanted `whole`.
    void layer(const Weights &w, const Inputs &in, const Step &step, bool last, bool whole, int thread, int threads) {
        const Share own = rows_of(dim, thread, threads);
        for (int begin = 0; begin < 6 * dim; begin += dim)
            for (int r = begin + own.first; r < begin + own.last; ++r) table[r] = w.modulation[r] + step.modulation[r];
        self_attention(w, in, normed(table + dim, 1.f, table, own), last, own);
        if (!whole) return;
        const float *gate = table + 2 * dim;
        const Scalar *action = (const Scalar *)in.action;
        add_product({w.out, w.out_bias, dim, dim}, attend(in.keys, in.values, in.memory_tokens, own), own,
                    [&](int r, Floats value) { return value * gate[r] + T::wide(action[r]); });
        text_attention(w, normed(w.text_norm, 0.f, w.text_norm_bias, own), own);
        add_product({w.text_out, w.text_out_bias, dim, dim},
                    attend(in.text_keys, in.text_values, sizes.text_tokens, own), own,
                    [](int, Floats value) { return value; });
        feed_forward(w, normed(table + 4 * dim, 1.f, table + 3 * dim, own), own,
                     rows_of(sizes.hidden, thread, threads));
    }

    // LayerNorm of a thread's own rows of `x`.
    template <class Use> void norm(const float *weight, float plus, const float *shift, Share own, Use use) {
        moments.take(x, own);
        barrier();
        layer_norm(x, dim, own, moments, weight, plus, shift, sizes.eps, use);
    }

    Operand normed(const float *weight, float plus, const float *shift, Share own) {
        norm(weight, plus, shift, own, [&](int r, int v, const Floats *both) { hand_over(both, r, v); });
        return operand(own);
    }

    // Two rows of what `operand` makes ready; nothing else may be in `wide`, or in `narrow` for layers of T.
    INLINE void hand_over(const Floats *both, int r, int v) {
        if constexpr (BYTES) put_two(both, wide, r, v);
        else pack_two<T>(both, narrow, r, v);
    }

    // What all threads have handed over, a thread its `own` rows.
    Operand operand(Share own) {
        Operand made{narrow, {}};
#if defined(RELIC_BYTES)
        if constexpr (BYTES) {
            take_peaks(wide, own, peaks + thread_number() * LANES);
            barrier();
            pack_bytes(wide, own, peaks, team_size(), narrow, made.scale);
        }
#endif
        barrier();
        return made;
    }

    void self_attention(const Weights &w, const Inputs &in, const Operand &from, bool last, Share own) {
        float *q = wide, *k = wide + dim * LANES, *v = k + dim * LANES;
        uint32_t *turned = (uint32_t *)v, *keys = narrow + words * LANES, *values = keys + words * LANES;
        to_rows({w.q, w.q_bias, dim, dim}, from, q, own);
        to_rows({w.k, w.k_bias, dim, dim}, from, k, own);
        product({w.v, w.v_bias, dim, dim}, from, own,
                [&](int r, int v, const Floats *both) { pack_two<T>(both, values, r, v); });
        add_pose((const Scalar *)in.pose, q, k, own);
        moments.take(q, own);
        more.take(k, own);
        barrier();
        rms_norm<T>(q, dim, own, moments, (const Scalar *)w.norm_q, sizes.eps, logit_scale(),
                    [&](int r, int v, Floats *both) {
                        rotate(both, r, v, turn, head_dim);
                        pack_two<T>(both, queries, r, v);
                    });
        rms_norm<T>(k, dim, own, more, (const Scalar *)w.norm_k, sizes.eps, 1.f, [&](int r, int v, Floats *both) {
            if (last) pack_two<T>(both, keys, r, v);
            rotate(both, r, v, turn, head_dim);
            pack_two<T>(both, turned, r, v);
        });
        const Share own_words = words_of(own);
        if (last) {
            tokens_of_words<T>(keys, sizes.tokens, dim, (Scalar *)in.own_keys, own_words);
            tokens_of_words<T>(values, sizes.tokens, dim, (Scalar *)in.own_values, own_words);
        }
        tokens_of_words<T>(turned, sizes.tokens, dim, (Scalar *)in.keys, own_words);
        tokens_of_words<T>(values, sizes.tokens, dim, (Scalar *)in.values, own_words);
        barrier();
    }

    void text_attention(const Weights &w, const Operand &from, Share own) {
        to_rows({w.text_q, w.text_q_bias, dim, dim}, from, wide, own);
        moments.take(wide, own);
        barrier();
        rms_norm<T>(wide, dim, own, moments, (const Scalar *)w.text_norm_q, sizes.eps, logit_scale(),
                    [&](int r, int v, Floats *both) { pack_two<T>(both, queries, r, v); });
        barrier();
    }

    void feed_forward(const Weights &w, const Operand &from, Share own, Share own_hidden) {
        const bool exact = sizes.exact_gelu;
        uint32_t *hidden = (uint32_t *)wide;
        product({w.widen, w.widen_bias, dim, sizes.hidden}, from, own_hidden, [&](int r, int v, const Floats *both) {
            Floats active[2];
            for (int i = 0; i < 2; ++i) active[i] = exact ? gelu_exact(both[i]) : gelu_tanh<T::ROUNDED>(both[i]);
            if constexpr (BYTES) hand_over(active, r, v);
            else pack_two<T>(active, hidden, r, v);
        });
        Operand made = operand(own_hidden);
        if constexpr (!BYTES) made.words = hidden;
        const float *gate = table + 5 * dim;
        add_product({w.narrow, w.narrow_bias, sizes.hidden, dim}, made, own,
                    [&](int r, Floats value) { return value * gate[r]; });
    }

    // Some outputs of a block's layer; see `linear`.
    template <class Use> void product(const Matrix &matrix, const Operand &from, Share outputs, Use use) {
#if defined(RELIC_BYTES)
        if constexpr (BYTES) {
            const ByteLinear<T> layer{matrix.weight, matrix.bias, matrix.inputs, matrix.outputs, from.scale};
            return linear(layer, from.words, matrix.inputs, outputs, use);
        }
#endif
        linear(Linear<T>{matrix.weight, matrix.bias}, from.words, matrix.inputs, outputs, use);
    }

    void to_rows(const Matrix &matrix, const Operand &from, float *to, Share outputs) {
        product(matrix, from, outputs, [&](int r, int v, const Floats *both) { put_two(both, to, r, v); });
    }

    // A product, changed by `change(row, value)`, is added to `x`.
    template <class Change>
    void add_product(const Matrix &matrix, const Operand &from, Share outputs, Change change) {
        product(matrix, from, outputs, [&](int r, int v, const Floats *both) {
            for (int i = 0; i < 2; ++i) put(x, r + i, v, at(x, r + i, v) + change(r + i, both[i]));
        });
    }

    float logit_scale() const { return LOG2_E / std::sqrt(float(head_dim)); }

    // Attention of `queries`: threads share the heads of each part of the memory.
    Operand attend(const void *keys, const void *values, long tokens, Share own) {
        static thread_local Attention<T> attention;
        const int thread = thread_number(), threads = team_size();
        const Memory<T> memory{(const Scalar *)keys, (const Scalar *)values, tokens, sizes.heads, head_dim};
        const size_t head = Gathered::floats(head_dim), apart = sizes.heads * head;
        const int parts = tokens >= PARTS * attention.STEP ? PARTS : 1;
        const Share jobs = Share::of(parts * sizes.heads, thread, threads);
        for (int part = 0; part < parts; ++part) {
            const int before = part * sizes.heads, first = jobs.first - before, last = jobs.last - before;
            const Share some{first > 0 ? first : 0, last < sizes.heads ? last : sizes.heads};
            const long begin = tokens * part / parts / attention.STEP * attention.STEP;
            const long end = part + 1 < parts ? tokens * (part + 1) / parts / attention.STEP * attention.STEP : tokens;
            if (some.first < some.last) attention.run(queries, memory, begin, end, some, gathered + part * apart);
        }
        barrier();
        const Share merged = Share::of(sizes.heads * VECTORS, thread, threads);
        for (int job = merged.first; job < merged.last; ++job) {
            const int first = job / VECTORS * head_dim, v = job % VECTORS;
            merge(gathered + job / VECTORS * head, apart, parts, head_dim, v,
                  [&](int r, const Floats *both) { hand_over(both, first + r, v); });
        }
        if constexpr (BYTES) barrier();
        return operand(own);
    }

    // One pose for all tokens, or one for each.
    void add_pose(const Scalar *pose, float *q, float *k, Share own) {
        float *rows = (float *)queries;
        if (sizes.pose_rows > 1) rows_of_tokens<T>(pose, sizes.tokens, dim, rows, words_of(own));
        for (int r = own.first; r < own.last; ++r)
            for (int v = 0; v < VECTORS; ++v) {
                const Floats value = sizes.pose_rows > 1 ? at(rows, r, v) : splat(T::wide(pose[r]));
                put(q, r, v, at(q, r, v) + value);
                put(k, r, v, at(k, r, v) + value);
            }
    }
};

template <class T, bool BYTES>
int run(const Sizes &sizes, const EndWeights &ends, const Weights *weights, int layers, const Frame &frame,
        const Inputs *inputs, const Step *steps, int count) {
    static thread_local Room room;
    float *own = room.of(Pass<T, BYTES>::floats_needed(sizes));
    if (!own) return 1;
    Pass<T, BYTES>(sizes, frame, own).run(ends, weights, inputs, layers, steps, count);
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_frame_network_##NAME(const Sizes *sizes, const EndWeights *ends, const Weights *weights,      \
                                              int32_t layers, const Frame *frame, const Inputs *inputs,                \
                                              const Step *steps, int32_t count) {                                      \
        return in_##NAME([&](auto format) {                                                                            \
            typedef decltype(format) T;                                                                                \
            const auto passes = sizes->in_bytes ? run<T, MAY_BE_BYTES> : run<T, false>;                                \
            return passes(*sizes, *ends, weights, layers, *frame, inputs, steps, count);                               \
        });                                                                                                            \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
