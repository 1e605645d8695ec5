// Residual convolution blocks and pointwise layers over the positions of pictures: see README.md.
#include <type_traits>

#include "../native/room.h"
#include "../native/rows.h"
#include "../native/team.h"

extern "C" {
struct PictureSizes {
    int32_t frames, streams, channels, hidden, height, width, radius, shifted, in_bytes, threads;
    float eps;
};

// Of one block; matrices are (outputs, inputs), or of bytes as a ByteLinear has them, the depth-wise kernel
// (channels, 2 radius + 1, 2 radius + 1).
struct PictureWeights {
    const void *norm, *norm_bias, *depthwise, *depthwise_bias, *widen, *widen_bias, *narrow, *narrow_bias;
};

// Frames (frames, channels, positions) go in and come out. For each block `past` (streams, shifted, positions) are the
// channels of the frames before, and `kept` becomes those of the last frames; the two may be one.
struct PictureFrames {
    const float *in;
    float *out;
    const float *const *past;
    float *const *kept;
};
}

namespace {

int rounded_up(int count, int step) { return (count + step - 1) / step * step; }

// A thread works on chunks of LANES positions of its own, from the norm to the sum; of others' it reads those around.
template <class T, bool BYTES> class Blocks {
    typedef typename T::Scalar Scalar;
    const PictureSizes &sizes;
    const int channels, words, rows, positions, chunks, side, padded_width, padded;
    const long apart;         // floats from one normed channel to the next: an odd number of cache lines
    float *normed;            // (channels, apart)
    uint32_t *convolved;      // (chunks, rows, LANES) words, or floats for layers of bytes
    float *hidden, *planes;   // of each thread: see `room_floats`, and (PER_WORD, padded)

public:
    Blocks(const PictureSizes &sizes)
        : sizes(sizes), channels(sizes.channels), words(channels / T::PER_WORD), rows(BYTES ? channels : words),
          positions(sizes.height * sizes.width), chunks(rounded_up(positions, LANES) / LANES), side(2 * sizes.radius + 1),
          padded_width(sizes.width + 2 * sizes.radius),
          padded(rounded_up((sizes.height + 2 * sizes.radius) * padded_width + 2 * WIDTH, WIDTH)),
          apart(chunks * LANES + 16) {}

    size_t floats_needed() const {
        return channels * (apart + size_t(chunks) * LANES) +
               size_t(sizes.threads) * (room_floats() + T::PER_WORD * padded);
    }

    // Of a thread's hidden rows and, for layers of bytes, of the words of what one reads.
    size_t room_floats() const { return size_t(LANES) * (sizes.hidden + (BYTES ? most(sizes.hidden, channels) : 0)); }

    void run(const PictureWeights *weights, int blocks, const PictureFrames &frames, float *room) {
        normed = room;
        convolved = (uint32_t *)(normed + channels * apart);
        hidden = (float *)convolved + size_t(channels) * chunks * LANES;
        planes = hidden + size_t(sizes.threads) * room_floats();
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            [[maybe_unused]] const typename T::Registers registers;
            const int thread = thread_number();
            const Share own = Share::of(chunks, thread, team_size());
            float *own_planes = planes + thread * T::PER_WORD * padded;
            std::memset(own_planes, 0, sizeof(float) * T::PER_WORD * padded);
            for (int block = 0; block < blocks; ++block)
                for (int frame = 0; frame < sizes.frames; ++frame) {
                    const size_t place = size_t(frame) * channels * positions;
                    const size_t stream = size_t(frame % sizes.streams) * sizes.shifted * positions;
                    const float *before = frame < sizes.streams ? frames.past[block] : frames.kept[block];
                    one(weights[block], (block ? frames.out : frames.in) + place, frames.out + place, before + stream,
                        frames.kept[block] + stream, own, own_planes, hidden + thread * room_floats());
                }
        }
    }

private:
    void one(const PictureWeights &w, const float *x, float *out, const float *before, float *kept, Share own,
             float *own_planes, float *room) {
        for (int chunk = own.first; chunk < own.last; ++chunk)
            normalise((const Scalar *)w.norm, (const Scalar *)w.norm_bias, chunk, x);
        barrier();
        const Share places{least(own.first * LANES, positions), least(own.last * LANES, positions)};
        for (int word = 0; word < words && places.first < places.last; ++word)
            convolve(w, word, before, places, own_planes);
        for (int chunk = own.first; chunk < own.last; ++chunk) feed_forward(w, chunk, x, out, room);
        barrier();
        for (int c = 0; c < sizes.shifted && places.first < places.last; ++c)
            std::memcpy(kept + size_t(c) * positions + places.first, normed + c * apart + places.first,
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
        const Share lines{places.first / sizes.width, (places.last - 1) / sizes.width + 1};
        for (int i = 0; i < T::PER_WORD; ++i) {
            const int c = word * T::PER_WORD + i;
            pad(c < sizes.shifted ? before + size_t(c) * positions : normed + c * apart, lines, room + i * padded);
        }
        switch (side) {
            case 3: return slide<3>(kernels, bias, word, lines, places, room);
            case 5: return slide<5>(kernels, bias, word, lines, places, room);
            default: return slide<0>(kernels, bias, word, lines, places, room);
        }
    }

    // SIDE of the kernel, known while compiling where it is not 0.
    template <int SIDE>
    void slide(const Scalar *kernels, const Scalar *bias, int word, Share lines, Share places, const float *room) {
        const int taps_a_side = SIDE ? SIDE : side;
        float taps[T::PER_WORD][SIDE ? SIDE * SIDE : 121];
        for (int i = 0; i < T::PER_WORD; ++i)
            for (int k = 0; k < taps_a_side * taps_a_side; ++k)
                taps[i][k] = T::wide(kernels[i * taps_a_side * taps_a_side + k]);
        for (int row = lines.first; row < lines.last; ++row)
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
                const int first = most(0, places.first - place);
                if constexpr (BYTES)
                    for (int i = 0; i < T::PER_WORD; ++i)
                        put_row(word * T::PER_WORD + i, place, (Words)sums[i], first, last);
                else put_row(word, place, T::pack(sums), first, last);
            }
    }

    // Some rows and those around them, into the middle of a plane whose edges are 0.
    void pad(const float *plane, Share lines, float *to) const {
        for (int row = most(0, lines.first - sizes.radius); row < least(sizes.height, lines.last + sizes.radius); ++row)
            std::memcpy(to + (row + sizes.radius) * padded_width + sizes.radius, plane + row * sizes.width,
                        sizeof(float) * sizes.width);
    }

    // Words `first` to `last` of a vector of them, whose first is that of `place`.
    INLINE void put_row(int row, int place, Words value, int first, int last) {
        const int chunk = place / LANES, lane = place % LANES;
        uint32_t *to = convolved + (size_t(chunk) * rows + row) * LANES + lane;
        store_some(to, value, first, least(last, LANES - lane));
        if (lane + last > LANES) store_some(to + (rows - 1) * LANES, value, most(first, LANES - lane), last);
    }

    void feed_forward(const PictureWeights &w, int chunk, const float *x, float *out, float *room) {
        const uint32_t *from = convolved + size_t(chunk) * rows * LANES;
        const auto add = [&](int r, int v, const Floats *both) { add_update(chunk, r, v, both, x, out); };
        const auto activate = [](const Floats *both, Floats *active) {
            for (int i = 0; i < 2; ++i) active[i] = silu<T::ROUNDED>(both[i]);
        };
#if defined(RELIC_BYTES)
        if constexpr (BYTES) {
            Operand read{(uint32_t *)(room + size_t(sizes.hidden) * LANES), {}};
            quantise((const float *)from, channels, read);
            linear(ByteLinear<T>{w.widen, w.widen_bias, channels, sizes.hidden, read.scale}, read.words, channels,
                   {0, sizes.hidden}, [&](int r, int v, const Floats *both) {
                       Floats active[2];
                       activate(both, active);
                       for (int i = 0; i < 2; ++i) put(room, r + i, v, active[i]);
                   });
            quantise(room, sizes.hidden, read);
            linear(ByteLinear<T>{w.narrow, w.narrow_bias, sizes.hidden, channels, read.scale}, read.words,
                   sizes.hidden, {0, channels}, add);
            return;
        }
#endif
        uint32_t *packed = (uint32_t *)room;
        linear(Linear<T>{w.widen, w.widen_bias}, from, channels, {0, sizes.hidden},
               [&](int r, int v, const Floats *both) {
                   Floats active[2];
                   activate(both, active);
                   pack_two<T>(active, packed, r, v);
               });
        linear(Linear<T>{w.narrow, w.narrow_bias}, packed, sizes.hidden, {0, channels}, add);
    }

    // Rows of floats as bytes, for one thread.
    static void quantise(const float *from, int count, Operand &to) {
        float peaks[LANES];
        take_peaks(from, {0, count}, peaks);
        pack_bytes(from, {0, count}, peaks, 1, to.words, to.scale);
    }

    // out = x + update, for two channels at vector `v` of a chunk.
    INLINE void add_update(int chunk, int channel, int v, const Floats *both, const float *x, float *out) const {
        const int place = chunk * LANES + v * WIDTH;
        for (int i = 0; i < 2; ++i) {
            const size_t offset = size_t(channel + i) * positions + place;
            if (place + WIDTH <= positions) store(out + offset, load<Floats>(x + offset) + both[i]);
            else
                for (int lane = 0; place + lane < positions; ++lane)
                    out[offset + lane] = x[offset + lane] + both[i][lane];
        }
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

template <class T, bool BYTES>
int residual(const PictureSizes &sizes, const PictureWeights *weights, int blocks, const PictureFrames &frames) {
    static thread_local Room room;
    Blocks<T, BYTES> all(sizes);
    float *own = room.of(all.floats_needed());
    if (!own) return 1;
    all.run(weights, blocks, frames, own);
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_residual_blocks_##NAME(const PictureSizes *sizes, const PictureWeights *weights,              \
                                                int32_t blocks, const PictureFrames *frames) {                         \
        return in_##NAME([&](auto format) {                                                                            \
            typedef decltype(format) T;                                                                                \
            const auto run = sizes->in_bytes ? residual<T, MAY_BE_BYTES> : residual<T, false>;                         \
            return run(*sizes, weights, blocks, *frames);                                                              \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int relic_pointwise_##NAME(const void *weight, const void *bias, const float *from, float *to,          \
                                          int32_t frames, int32_t inputs, int32_t outputs, int32_t height,             \
                                          int32_t width, int32_t fold, int32_t unfold, int32_t threads) {              \
        return in_##NAME([&](auto format) {                                                                            \
            typedef decltype(format) Format;                                                                           \
            return pointwise<Format>({weight, bias}, from, to, frames, {inputs, height, width, fold},                  \
                                     {outputs, height, width, unfold}, threads);                                       \
        });                                                                                                            \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
