// Residual convolution blocks and pointwise layers over the positions of pictures: see README.md.
#include <type_traits>

#include "../native/room.h"
#include "../native/rows.h"
#include "../native/team.h"

extern "C" {
struct PictureSizes {
    int32_t frames, streams, channels, hidden, height, width, radius, shifted, threads;
    float eps;
};

// Of one block; matrices are (outputs, inputs), the depth-wise kernel (channels, 2 radius + 1, 2 radius + 1).
struct PictureWeights {
    const void *norm, *norm_bias, *depthwise, *depthwise_bias, *widen, *widen_bias, *narrow, *narrow_bias;
};
}

namespace {

int rounded_up(int count, int step) { return (count + step - 1) / step * step; }

// A thread works on chunks of LANES positions of its own, from the norm to the sum; of others' it reads those around.
template <class T> class Blocks {
    typedef typename T::Scalar Scalar;
    const PictureSizes &sizes;
    const int channels, words, positions, chunks, side, padded_width, padded;
    const long apart;         // floats from one normed channel to the next: an odd number of cache lines
    float *normed;            // (channels, apart)
    uint32_t *convolved;      // (chunks, channels / PER_WORD, LANES)
    float *hidden, *planes;   // of each thread: (hidden / PER_WORD, LANES) words and (PER_WORD, padded)

public:
    Blocks(const PictureSizes &sizes)
        : sizes(sizes), channels(sizes.channels), words(channels / T::PER_WORD), positions(sizes.height * sizes.width),
          chunks(rounded_up(positions, LANES) / LANES), side(2 * sizes.radius + 1),
          padded_width(sizes.width + 2 * sizes.radius),
          padded(rounded_up((sizes.height + 2 * sizes.radius) * padded_width + 2 * WIDTH, WIDTH)),
          apart(chunks * LANES + 16) {}

    size_t floats_needed() const {
        return channels * (apart + size_t(chunks) * LANES) +
               size_t(sizes.threads) * (sizes.hidden * LANES + T::PER_WORD * padded);
    }

    // `frames` (frames, channels, positions) is changed in place; `past` (streams, shifted, positions) of each block is
    // read and becomes the last frames' own.
    void run(const PictureWeights *weights, int blocks, float *frames, float *const *past, float *room) {
        normed = room;
        convolved = (uint32_t *)(normed + channels * apart);
        hidden = (float *)convolved + size_t(channels) * chunks * LANES;
        planes = hidden + size_t(sizes.threads) * sizes.hidden * LANES;
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            [[maybe_unused]] const typename T::Registers registers;
            const int thread = thread_number();
            const Share own = Share::of(chunks, thread, team_size());
            float *own_planes = planes + thread * T::PER_WORD * padded;
            std::memset(own_planes, 0, sizeof(float) * T::PER_WORD * padded);
            for (int block = 0; block < blocks; ++block)
                for (int frame = 0; frame < sizes.frames; ++frame) {
                    float *x = frames + size_t(frame) * channels * positions;
                    float *before = past[block] + size_t(frame % sizes.streams) * sizes.shifted * positions;
                    one(weights[block], x, before, own, own_planes, hidden + size_t(thread) * sizes.hidden * LANES);
                }
        }
    }

private:
    void one(const PictureWeights &w, float *x, float *before, Share own, float *own_planes, float *room) {
        for (int chunk = own.first; chunk < own.last; ++chunk)
            normalise((const Scalar *)w.norm, (const Scalar *)w.norm_bias, chunk, x);
        barrier();
        const Share places{least(own.first * LANES, positions), least(own.last * LANES, positions)};
        for (int word = 0; word < words && places.first < places.last; ++word)
            convolve(w, word, before, places, own_planes);
        for (int chunk = own.first; chunk < own.last; ++chunk) feed_forward(w, chunk, x, room);
        barrier();
        for (int c = 0; c < sizes.shifted && places.first < places.last; ++c)
            std::memcpy(before + size_t(c) * positions + places.first, normed + c * apart + places.first,
                        sizeof(float) * (places.last - places.first));
    }

    // Vector `v` of a chunk's positions, of one channel.
    INLINE Floats here(const float *x, int c, int chunk, int v) const {
        const int place = chunk * LANES + v * WIDTH;
        const float *from = x + size_t(c) * positions + place;
        return place + WIDTH <= positions ? load<Floats>(from) : load_some(from, most(0, positions - place));
    }

    void normalise(const Scalar *weight, const Scalar *bias, int chunk, const float *x) {
        Floats mean[VECTORS] = {}, inverse[VECTORS] = {};
        for (int c = 0; c < channels; ++c)
            for (int v = 0; v < VECTORS; ++v) mean[v] += here(x, c, chunk, v);
        for (auto &one : mean) one /= float(channels);
        for (int c = 0; c < channels; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                const Floats off = here(x, c, chunk, v) - mean[v];
                inverse[v] += off * off;
            }
        for (auto &one : inverse) one = 1.f / square_root(one / float(channels) + sizes.eps);
        for (int c = 0; c < channels; ++c)
            for (int v = 0; v < VECTORS; ++v)
                store(normed + c * apart + chunk * LANES + v * WIDTH,
                      (here(x, c, chunk, v) - mean[v]) * inverse[v] * T::wide(weight[c]) + T::wide(bias[c]));
    }

    // Depth-wise convolution of the channels of one word, at some positions; channels that are shifted in time are the
    // frame before's.
    void convolve(const PictureWeights &w, int word, const float *before, Share places, float *room) {
        const Scalar *kernels = (const Scalar *)w.depthwise + word * T::PER_WORD * side * side;
        const Scalar *bias = (const Scalar *)w.depthwise_bias + word * T::PER_WORD;
        const Share rows{places.first / sizes.width, (places.last - 1) / sizes.width + 1};
        for (int i = 0; i < T::PER_WORD; ++i) {
            const int c = word * T::PER_WORD + i;
            pad(c < sizes.shifted ? before + size_t(c) * positions : normed + c * apart, rows, room + i * padded);
        }
        switch (side) {
            case 3: return slide<3>(kernels, bias, word, rows, places, room);
            case 5: return slide<5>(kernels, bias, word, rows, places, room);
            default: return slide<0>(kernels, bias, word, rows, places, room);
        }
    }

    // SIDE of the kernel, known while compiling where it is not 0.
    template <int SIDE>
    void slide(const Scalar *kernels, const Scalar *bias, int word, Share rows, Share places, const float *room) {
        const int taps_a_side = SIDE ? SIDE : side;
        float taps[T::PER_WORD][SIDE ? SIDE * SIDE : 121];
        for (int i = 0; i < T::PER_WORD; ++i)
            for (int k = 0; k < taps_a_side * taps_a_side; ++k)
                taps[i][k] = T::wide(kernels[i * taps_a_side * taps_a_side + k]);
        for (int row = rows.first; row < rows.last; ++row)
            for (int column = 0; column < sizes.width; column += WIDTH) {
                Floats sums[T::PER_WORD];
                for (int i = 0; i < T::PER_WORD; ++i) {
                    const float *from = room + i * padded + row * padded_width + column;
                    sums[i] = splat(T::wide(bias[i]));
                    for (int ky = 0; ky < taps_a_side; ++ky)
                        for (int kx = 0; kx < taps_a_side; ++kx)
                            sums[i] += taps[i][ky * taps_a_side + kx] * load<Floats>(from + ky * padded_width + kx);
                }
                const int place = row * sizes.width + column;
                const int last = least(least(WIDTH, sizes.width - column), places.last - place);
                put_words(word, place, T::pack(sums), most(0, places.first - place), last);
            }
    }

    // Some rows and those around them, into the middle of a plane whose edges are 0.
    void pad(const float *plane, Share rows, float *to) const {
        for (int row = most(0, rows.first - sizes.radius); row < least(sizes.height, rows.last + sizes.radius); ++row)
            std::memcpy(to + (row + sizes.radius) * padded_width + sizes.radius, plane + row * sizes.width,
                        sizeof(float) * sizes.width);
    }

    // Words `first` to `last` of a vector of them, whose first is that of `place`.
    INLINE void put_words(int word, int place, Words value, int first, int last) {
        const int chunk = place / LANES, lane = place % LANES;
        uint32_t *to = convolved + (size_t(chunk) * words + word) * LANES + lane;
        store_some(to, value, first, least(last, LANES - lane));
        if (lane + last > LANES) store_some(to + (words - 1) * LANES, value, most(first, LANES - lane), last);
    }

    void feed_forward(const PictureWeights &w, int chunk, float *own, float *room) {
        const Linear<T> widen{w.widen, w.widen_bias};
        const Linear<T> narrow{w.narrow, w.narrow_bias};
        uint32_t *packed = (uint32_t *)room;
        linear(widen, convolved + size_t(chunk) * words * LANES, channels, {0, sizes.hidden},
               [&](int r, int v, const Floats *both) {
                   const Floats active[] = {silu<T::ROUNDED>(both[0]), silu<T::ROUNDED>(both[1])};
                   pack_two<T>(active, packed, r, v);
               });
        const int begin = chunk * LANES, count = least(positions - begin, LANES);
        linear(narrow, packed, sizes.hidden, {0, channels}, [&](int r, int v, const Floats *both) {
            for (int i = 0; i < 2; ++i) {
                float *to = own + size_t(r + i) * positions + begin + v * WIDTH;
                if ((v + 1) * WIDTH <= count) store(to, load<Floats>(to) + both[i]);
                else
                    for (int lane = 0; v * WIDTH + lane < count; ++lane) to[lane] += both[i][lane];
            }
        });
    }
};

// Cells of `fold` by `fold` positions are one position with fold^2 channels, as in torch's pixel_unshuffle.
struct Folded {
    int channels, height, width, fold;    // as the network sees it: folded
    long plane() const { return long(height) * width * fold * fold; }
    // Calls visit(lane, offset, count) for the runs of a chunk's positions that lie in one row, `fold` floats apart;
    // offset is into the unfolded plane that holds `channel`.
    template <class Visit> INLINE void runs(int channel, int chunk, Visit visit) const {
        const int inside = channel % (fold * fold), begin = chunk * LANES, end = least(begin + LANES, height * width);
        int y = begin / width, x = begin % width;
        for (int position = begin; position < end; ++y, x = 0) {
            const int count = least(width - x, end - position);
            visit(position - begin, (long(y * fold + inside / fold) * width + x) * fold + inside % fold, count);
            position += count;
        }
    }
    long start(int frame, int channel) const {
        const int area = fold * fold;
        return (long(frame) * (channels / area) + channel / area) * plane();
    }
};

// Calls use(step) with a step between numbers that is known while compiling, where it is a usual one.
template <class Use> INLINE void with_step(int step, Use use) {
    switch (step) {
        case 1: return use(std::integral_constant<int, 1>{});
        case 2: return use(std::integral_constant<int, 2>{});
        case 4: return use(std::integral_constant<int, 4>{});
        case 8: return use(std::integral_constant<int, 8>{});
        default: return use(step);
    }
}

INLINE void read_apart(const float *from, int step, int count, float *to) {
    with_step(step, [&](auto known) {
        for (int i = 0; i < count; ++i) to[i] = from[i * known];
    });
}

INLINE void write_apart(const float *from, int count, float *to, int step) {
    with_step(step, [&](auto known) {
        for (int i = 0; i < count; ++i) to[i * known] = from[i];
    });
}

template <class T>
int pointwise(const Linear<T> &layer, const float *from, float *to, int frames, const Folded &in, const Folded &out,
              [[maybe_unused]] int threads_wanted) {
    const int chunks = rounded_up(in.height * in.width, LANES) / LANES;
    bool failed = false;
#pragma omp parallel num_threads(threads_wanted) if (threads_wanted > 1)
    {
        [[maybe_unused]] const typename T::Registers registers;
        static thread_local Room room;
        float *rows = room.of((2 * size_t(in.channels) + out.channels) * LANES);
        if (!rows) failed = true;
        const Share jobs = Share::of(rows ? frames * chunks : 0, thread_number(), team_size());
        for (int job = jobs.first; job < jobs.last; ++job) {
            const int frame = job / chunks, chunk = job % chunks;
            float *done = rows + size_t(in.channels) * LANES;
            uint32_t *packed = (uint32_t *)(done + size_t(out.channels) * LANES);
            if ((chunk + 1) * LANES > in.height * in.width) std::memset(rows, 0, sizeof(float) * in.channels * LANES);
            for (int c = 0; c < in.channels; ++c) {
                const float *plane = from + in.start(frame, c);
                in.runs(c, chunk, [&](int lane, long offset, int count) {
                    read_apart(plane + offset, in.fold, count, rows + c * LANES + lane);
                });
            }
            pack<T>(rows, {0, in.channels}, packed);
            linear(layer, packed, in.channels, {0, out.channels},
                   [&](int r, int v, const Floats *both) {
                       for (int i = 0; i < 2; ++i) put(done, r + i, v, both[i]);
                   });
            for (int c = 0; c < out.channels; ++c) {
                float *plane = to + out.start(frame, c);
                out.runs(c, chunk, [&](int lane, long offset, int count) {
                    write_apart(done + c * LANES + lane, count, plane + offset, out.fold);
                });
            }
        }
    }
    return failed;
}

template <class T>
int residual(const PictureSizes &sizes, const PictureWeights *weights, int blocks, float *frames, float *const *past) {
    static thread_local Room room;
    Blocks<T> all(sizes);
    float *own = room.of(all.floats_needed());
    if (!own) return 1;
    all.run(weights, blocks, frames, past, own);
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_residual_blocks_##NAME(const PictureSizes *sizes, const PictureWeights *weights,              \
                                                int32_t blocks, float *frames, float *const *past) {                   \
        return in_##NAME([&](auto format) {                                                                            \
            return residual<decltype(format)>(*sizes, weights, blocks, frames, past);                                  \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int relic_pointwise_##NAME(const void *weight, const void *bias, const float *from, float *to,          \
                                          int32_t frames, int32_t inputs, int32_t outputs, int32_t height,             \
                                          int32_t width, int32_t fold, int32_t unfold, int32_t threads) {              \
        return in_##NAME([&](auto format) {                                                                            \
            typedef decltype(format) Format;                                                                           \
            typedef const typename Format::Scalar *Place;                                                              \
            return pointwise<Format>({(Place)weight, (Place)bias}, from, to, frames, {inputs, height, width, fold},    \
                                     {outputs, height, width, unfold}, threads);                                       \
        });                                                                                                            \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
