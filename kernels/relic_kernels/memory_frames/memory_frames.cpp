// One frame's keys, turned, and its values put into a memory as it is read: see README.md.
#include "../native/products.h"
#include "../native/team.h"

extern "C" {
// Tokens of all layers and cases, those of one case side by side; how far layers and cases are apart is in numbers.
struct Place {
    void *at;
    int64_t layers_apart, cases_apart;
};

struct Frame {
    Place k, v, keys, values;
    const float *turns;
    int64_t layers, cases, tokens, heads, head_dim, threads;
};
}

namespace {

typedef uint64_t Pairs __attribute__((vector_size(4 * WIDTH)));

// WIDTH numbers in memory, as floats.
INLINE Floats widened(const float *from) { return load<Floats>(from); }
INLINE void put_narrowed(float *to, Floats value) { store(to, value); }
#if defined(__AVX512BF16__)
INLINE Floats widened(const uint16_t *from) {
    return (Floats)(__builtin_convertvector(load<Halves>(from), Words) << 16);
}
INLINE void put_narrowed(uint16_t *to, Floats value) {
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(to, &narrow, sizeof narrow);
}
#endif

// Keeps a product from being fused with a sum: each is rounded, as in torch's product of complex numbers.
INLINE Floats rounded(Floats x) {
#if defined(__FMA__)
    asm("" : "+x"(x));
#endif
    return x;
}

// WIDTH / 2 turns, cosine before sine, ready for neighbouring numbers.
struct Turns {
    Floats cosine, sine;    // the sine of the second number of a pair is negative
    explicit Turns(Floats both) {
        constexpr uint64_t FIRST = 0xffffffffu, SECOND_SIGN = 1ull << 63;
        const Pairs first = (Pairs)both & FIRST, second = (Pairs)both >> 32;
        cosine = (Floats)(first | first << 32);
        sine = (Floats)((second | second << 32) ^ SECOND_SIGN);
    }
    INLINE Floats operator()(Floats x) const {
        const Floats swapped = (Floats)((Pairs)x >> 32 | (Pairs)x << 32);
        return rounded(x * cosine) - rounded(swapped * sine);
    }
};

// The heads of a token, `first` to `first + count` of each.
template <class Scalar>
INLINE void turn_some(const Scalar *from, const float *turns, Scalar *to, int heads, int head_dim, int first,
                      int count) {
    const Turns turn(load_some(turns + first, count));
    for (int head = 0; head < heads; ++head) {
        Scalar some[WIDTH] = {};
        const int at = head * head_dim + first;
        std::memcpy(some, from + at, sizeof(Scalar) * count);
        put_narrowed(some, turn(widened(some)));
        std::memcpy(to + at, some, sizeof(Scalar) * count);
    }
}

template <class Scalar> void turn_token(const Scalar *from, const float *turns, Scalar *to, int heads, int head_dim) {
    int first = 0;
    for (; first + WIDTH <= head_dim; first += WIDTH) {
        const Turns turn(load<Floats>(turns + first));
        for (int at = first; at < heads * head_dim; at += head_dim) put_narrowed(to + at, turn(widened(from + at)));
    }
    if (first < head_dim) turn_some(from, turns, to, heads, head_dim, first, head_dim - first);
}

template <class Scalar> Scalar *case_of(const Place &place, int layer, int number) {
    return (Scalar *)place.at + layer * place.layers_apart + number * place.cases_apart;
}

template <class Scalar> void put_frame(const Frame &frame) {
    const int heads = frame.heads, head_dim = frame.head_dim, width = heads * head_dim, tokens = frame.tokens;
#pragma omp parallel num_threads(frame.threads) if (frame.threads > 1)
    {
        const Share own = Share::of(frame.layers * frame.cases, thread_number(), team_size());
        for (int job = own.first; job < own.last; ++job) {
            const int layer = job / frame.cases, number = job % frame.cases;
            const Scalar *from = case_of<Scalar>(frame.k, layer, number);
            Scalar *to = case_of<Scalar>(frame.keys, layer, number);
            for (int token = 0; token < tokens; ++token)
                turn_token(from + token * width, frame.turns + token * head_dim, to + token * width, heads, head_dim);
            std::memcpy(case_of<Scalar>(frame.values, layer, number), case_of<Scalar>(frame.v, layer, number),
                        sizeof(Scalar) * tokens * width);
        }
    }
}
}  // namespace

extern "C" void relic_memory_frames_float32(const Frame *frame) { put_frame<float>(*frame); }
#if defined(__AVX512BF16__)
extern "C" void relic_memory_frames_bfloat16(const Frame *frame) { put_frame<uint16_t>(*frame); }
#endif
