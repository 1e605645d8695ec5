// Small picture networks, each in one call: see README.md.
#include <vector>

#include "../native/room.h"
#include "blocks.h"
#include "layers.h"

namespace {

constexpr int MAX_PICTURES = 8;

// All steps of a network, and the pictures between them.
template <class T> class Network {
    const PictureSizes &sizes;
    const PictureStep *steps;
    Pictures pictures[MAX_PICTURES] = {};
    std::vector<int> firsts;    // of each step, the first frame whose pictures something reads
    size_t between = 0, shared = 0, apart = 0;    // floats of pictures, of what threads share, and of each thread

public:
    Network(const PictureSizes &sizes, const PictureStep *steps) : sizes(sizes), steps(steps) {
        pictures[0] = {nullptr, sizes.channels, sizes.height, sizes.width};
        for (const PictureStep *step = steps; step < steps + sizes.steps; ++step) {
            Pictures &to = pictures[step->target];
            if (step->blocks) {
                to = pictures[step->source];
                if (step->in_bytes) make_room(Blocks<T, MAY_BE_BYTES>(*step, to, sizes.eps));
                else make_room(Blocks<T, false>(*step, to, sizes.eps));
            } else {
                const Layer<T> layer(*step, pictures[step->source]);
                to = layer.target();
                grow(apart, layer.room_floats());
            }
        }
        for (int i = 1; i < MAX_PICTURES; ++i)
            if (i != last().target) between += in_lines(sizes.frames * pictures[i].floats());
        find_firsts();
    }

    size_t floats_needed() const { return between + shared + sizes.threads * apart; }

    void run(const PictureWeights *weights, const PictureFrames &frames, float *room) {
        float *free = room;
        pictures[0].numbers = const_cast<float *>(frames.in);    // no step writes it
        for (int i = 1; i < MAX_PICTURES; ++i) {
            pictures[i].numbers = i == last().target ? frames.out : free;
            if (i != last().target) free += in_lines(sizes.frames * pictures[i].floats());
        }
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            [[maybe_unused]] const typename T::Registers registers;
            int done = 0;
            for (const PictureStep *step = steps; step < steps + sizes.steps; ++step) {
                const int first = firsts[step - steps];
                const Pictures &from = pictures[step->source];
                float *to = pictures[step->target].numbers;
                if (step->blocks) {
                    const PictureFrames some{from.numbers, to, frames.past + done, frames.kept + done};
                    const PictureWeights *own = weights + done;
                    if (step->in_bytes) run(Blocks<T, MAY_BE_BYTES>(*step, from, sizes.eps), own, some, first, free);
                    else run(Blocks<T, false>(*step, from, sizes.eps), own, some, first, free);
                } else
                    Layer<T>(*step, from)
                        .run({first, sizes.frames}, from.numbers, to, free + shared + thread_number() * apart);
                done += step->blocks;
                barrier();
            }
        }
    }

private:
    const PictureStep &last() const { return steps[sizes.steps - 1]; }

    // Blocks that look back need all frames.
    void find_firsts() {
        int reads[MAX_PICTURES];
        for (int &first : reads) first = sizes.frames;
        reads[last().target] = sizes.unread;
        firsts.resize(sizes.steps);
        for (int i = sizes.steps - 1; i >= 0; --i) {
            firsts[i] = reads[steps[i].target];
            int &first = reads[steps[i].source];
            first = steps[i].shifted ? 0 : least(first, firsts[i]);
        }
    }

    static size_t in_lines(size_t floats) { return (floats + 15) / 16 * 16; }

    static void grow(size_t &room, size_t floats) {
        if (in_lines(floats) > room) room = in_lines(floats);
    }

    template <class Some> void make_room(const Some &blocks) {
        grow(shared, blocks.shared_floats());
        grow(apart, blocks.room_floats());
    }

    template <class Some>
    void run(Some blocks, const PictureWeights *weights, const PictureFrames &frames, int first, float *free) {
        blocks.run(weights, {first, sizes.frames}, sizes.streams, frames, free, free + shared, apart);
    }
};

template <class T>
int run(const PictureSizes &sizes, const PictureStep *steps, const PictureWeights *weights,
        const PictureFrames &frames) {
    static thread_local Room room;
    Network<T> network(sizes, steps);
    float *own = room.of(network.floats_needed());
    if (!own) return 1;
    network.run(weights, frames, own);
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_picture_network_##NAME(const PictureSizes *sizes, const PictureStep *steps,                   \
                                                const PictureWeights *weights, const PictureFrames *frames) {          \
        return in_##NAME([&](auto format) { return run<decltype(format)>(*sizes, steps, weights, *frames); });         \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
