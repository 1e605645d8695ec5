// Several linear layers of one input: see README.md.
#include "../native/room.h"
#include "../native/rows.h"
#include "../native/team.h"

extern "C" struct LayerWeights {
    const void *weight, *bias;
};

namespace {

// `from` (tokens, inputs) -> `to` (layers, tokens, outputs), LANES tokens at a time.
template <class T>
int run(const LayerWeights *layers, int count, const void *from, void *to, int tokens, int inputs, int outputs,
        [[maybe_unused]] int threads_wanted) {
    typedef typename T::Scalar Scalar;
    static thread_local Room room;
    float *rows = room.of(size_t(inputs) * LANES * 2 + size_t(count) * outputs * LANES);
    if (!rows) return 1;
    uint32_t *words = (uint32_t *)(rows + size_t(inputs) * LANES), *done = words + size_t(inputs) * LANES;
#pragma omp parallel num_threads(threads_wanted) if (threads_wanted > 1)
    {
        [[maybe_unused]] const typename T::Registers registers;
        const int thread = thread_number(), threads = team_size();
        for (int first = 0; first < tokens; first += LANES) {
            const int own_tokens = least(LANES, tokens - first);
            if (thread == 0) {
                const Scalar *own = (const Scalar *)from + long(first) * inputs;
                rows_of_tokens<T>(own, own_tokens, inputs, rows, {0, inputs / T::PER_WORD});
                pack<T>(rows, {0, inputs}, words);
            }
            barrier();
            const int blocks = (outputs + STEP_OF<T> - 1) / STEP_OF<T>;
            const Share own = Share::of(count * blocks, thread, threads);
            for (int layer = own.first / blocks; layer * blocks < own.last; ++layer) {
                const Share part{most(own.first - layer * blocks, 0) * STEP_OF<T>,
                                 least(least(own.last - layer * blocks, blocks) * STEP_OF<T>, outputs)};
                uint32_t *values = done + size_t(layer) * outputs / T::PER_WORD * LANES;
                const Linear<T> one{layers[layer].weight, layers[layer].bias};
                linear(
                    one, words, inputs, part,
                    [&](int r, int v, const Floats *both) { pack_two<T>(both, values, r, v); }, own_tokens);
                tokens_of_words<T>(values, own_tokens, outputs, (Scalar *)to + (long(layer) * tokens + first) * outputs,
                                   {part.first / T::PER_WORD, part.last / T::PER_WORD});
            }
            barrier();
        }
    }
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_linear_layers_##NAME(const LayerWeights *layers, int32_t count, const void *from, void *to,   \
                                              int32_t tokens, int32_t inputs, int32_t outputs, int32_t threads) {      \
        return in_##NAME([&](auto format) {                                                                            \
            return run<decltype(format)>(layers, count, from, to, tokens, inputs, outputs, threads);                   \
        });                                                                                                            \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
