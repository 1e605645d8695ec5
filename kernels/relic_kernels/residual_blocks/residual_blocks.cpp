// Residual convolution blocks and pointwise layers over the positions of pictures: see README.md.
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

template <class T> class Blocks {
    typedef typename T::Scalar Scalar;
    const PictureSizes &sizes;
    const int channels, words, positions, lanes, chunks, side, padded_width, padded;
    float *x, *normed;        // (channels, lanes), lanes whole chunks
    uint32_t *convolved;      // (chunks, channels / PER_WORD, LANES)
    float *hidden, *planes;   // of each thread: (hidden / PER_WORD, LANES) words and (PER_WORD, padded)

public:
    Blocks(const PictureSizes &sizes)
        : sizes(sizes), channels(sizes.channels), words(channels / T::PER_WORD), positions(sizes.height * sizes.width),
          lanes(rounded_up(positions, LANES)), chunks(lanes / LANES), side(2 * sizes.radius + 1),
          padded_width(sizes.width + 2 * sizes.radius),
          padded(rounded_up((sizes.height + 2 * sizes.radius) * padded_width + 2 * WIDTH, WIDTH)) {}

    size_t floats_needed() const {
        return size_t(channels) * lanes * 3 + WIDTH + size_t(sizes.threads) * (sizes.hidden * LANES + T::PER_WORD * padded);
    }

    // `frames` (frames, channels, positions) is changed in place; `past` (streams, shifted, positions) of each block is
    // read and becomes the last frames' own.
    void run(const PictureWeights *weights, int blocks, float *frames, float *const *past, float *room) {
        x = room;
        normed = x + size_t(channels) * lanes;
        convolved = (uint32_t *)(normed + size_t(channels) * lanes);
        hidden = (float *)(convolved + size_t(channels) * lanes) + WIDTH;
        planes = hidden + size_t(sizes.threads) * sizes.hidden * LANES;
        if (lanes > positions) std::memset(x, 0, sizeof(float) * channels * lanes);
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            const typename T::Registers registers;
            const int thread = thread_number(), threads = team_size();
            float *own_planes = planes + thread * T::PER_WORD * padded;
            std::memset(own_planes, 0, sizeof(float) * T::PER_WORD * padded);
            for (int block = 0; block < blocks; ++block)
                for (int frame = 0; frame < sizes.frames; ++frame) {
                    float *own = frames + size_t(frame) * channels * positions;
                    float *before = past[block] + size_t(frame % sizes.streams) * sizes.shifted * positions;
                    one(weights[block], own, before, own_planes, thread, threads);
                }
        }
    }

private:
    void one(const PictureWeights &w, float *own, float *before, float *own_planes, int thread, int threads) {
        const Share rows = Share::of(channels, thread, threads);
        for (int c = rows.first; c < rows.last; ++c)
            std::memcpy(x + size_t(c) * lanes, own + size_t(c) * positions, sizeof(float) * positions);
        barrier();
        normalise((const Scalar *)w.norm, (const Scalar *)w.norm_bias, Share::of(lanes / WIDTH, thread, threads));
        barrier();
        const Share own_words = Share::of(words, thread, threads);
        for (int word = own_words.first; word < own_words.last; ++word)
            convolve(w, word, before, own_planes);
        barrier();
        const Share own_chunks = Share::of(chunks, thread, threads);
        for (int chunk = own_chunks.first; chunk < own_chunks.last; ++chunk)
            feed_forward(w, chunk, own, hidden + size_t(thread) * sizes.hidden * LANES);
        barrier();
    }

    void normalise(const Scalar *weight, const Scalar *bias, Share vectors) {
        for (int v = vectors.first; v < vectors.last; ++v) {
            Floats sum = {}, square = {};
            for (int c = 0; c < channels; ++c) sum += here(x, c, v);
            const Floats mean = sum / float(channels);
            for (int c = 0; c < channels; ++c) {
                const Floats off = here(x, c, v) - mean;
                square += off * off;
            }
            const Floats inverse = 1.f / square_root(square / float(channels) + sizes.eps);
            for (int c = 0; c < channels; ++c)
                store(normed + size_t(c) * lanes + v * WIDTH,
                      (here(x, c, v) - mean) * inverse * T::wide(weight[c]) + T::wide(bias[c]));
        }
    }

    INLINE Floats here(const float *rows, int c, int v) const {
        return load<Floats>(rows + size_t(c) * lanes + v * WIDTH);
    }

    // Depth-wise convolution of the channels of one word; those that are shifted in time are the frame before's.
    void convolve(const PictureWeights &w, int word, float *before, float *room) {
        const Scalar *kernels = (const Scalar *)w.depthwise + word * T::PER_WORD * side * side;
        const Scalar *bias = (const Scalar *)w.depthwise_bias + word * T::PER_WORD;
        for (int i = 0; i < T::PER_WORD; ++i) {
            const int c = word * T::PER_WORD + i;
            float *now = normed + size_t(c) * lanes, *shifted = before + size_t(c) * positions;
            pad(c < sizes.shifted ? shifted : now, room + i * padded);
            if (c < sizes.shifted) std::memcpy(shifted, now, sizeof(float) * positions);
        }
        switch (side) {
            case 3: return slide<3>(kernels, bias, word, room);
            case 5: return slide<5>(kernels, bias, word, room);
            default: return slide<0>(kernels, bias, word, room);
        }
    }

    // SIDE of the kernel, known while compiling where it is not 0.
    template <int SIDE> void slide(const Scalar *kernels, const Scalar *bias, int word, const float *room) {
        const int taps_a_side = SIDE ? SIDE : side;
        float taps[T::PER_WORD][SIDE ? SIDE * SIDE : 121];
        for (int i = 0; i < T::PER_WORD; ++i)
            for (int k = 0; k < taps_a_side * taps_a_side; ++k)
                taps[i][k] = T::wide(kernels[i * taps_a_side * taps_a_side + k]);
        for (int row = 0; row < sizes.height; ++row)
            for (int column = 0; column < sizes.width; column += WIDTH) {
                Floats sums[T::PER_WORD];
                for (int i = 0; i < T::PER_WORD; ++i) {
                    const float *from = room + i * padded + row * padded_width + column;
                    sums[i] = splat(T::wide(bias[i]));
                    for (int ky = 0; ky < taps_a_side; ++ky)
                        for (int kx = 0; kx < taps_a_side; ++kx)
                            sums[i] += taps[i][ky * taps_a_side + kx] * load<Floats>(from + ky * padded_width + kx);
                }
                put_words(word, row * sizes.width + column, T::pack(sums));
            }
    }

    // Into the middle of a plane whose edges are 0.
    void pad(const float *plane, float *to) const {
        for (int row = 0; row < sizes.height; ++row)
            std::memcpy(to + (row + sizes.radius) * padded_width + sizes.radius, plane + row * sizes.width,
                        sizeof(float) * sizes.width);
    }

    // Words of WIDTH positions; what goes beyond a row of the picture is overwritten by the row after it.
    INLINE void put_words(int word, int position, Words value) {
        const int chunk = position / LANES, lane = position % LANES;
        uint32_t *to = convolved + (size_t(chunk) * words + word) * LANES + lane;
        if (lane + WIDTH <= LANES) return store(to, value);
        uint32_t all[WIDTH];
        store(all, value);
        std::memcpy(to, all, sizeof(uint32_t) * (LANES - lane));
        if (chunk + 1 < chunks)
            std::memcpy(to + (words - 1) * LANES + LANES - lane, all + LANES - lane,
                        sizeof(uint32_t) * (lane + WIDTH - LANES));
    }

    void feed_forward(const PictureWeights &w, int chunk, float *own, float *room) {
        const Linear<T> widen{(const Scalar *)w.widen, (const Scalar *)w.widen_bias};
        const Linear<T> narrow{(const Scalar *)w.narrow, (const Scalar *)w.narrow_bias};
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
    // Calls visit(lane, offset) for the positions of a chunk; offset is into the unfolded plane that holds `channel`.
    template <class Visit> INLINE void positions(int channel, int chunk, Visit visit) const {
        const int inside = channel % (fold * fold), row_length = width * fold;
        const int begin = chunk * LANES, end = begin + LANES < height * width ? begin + LANES : height * width;
        int y = begin / width, x = begin % width;
        for (int position = begin; position < end; ++y, x = 0) {
            const long first = long(y * fold + inside / fold) * row_length + inside % fold;
            for (; x < width && position < end; ++x, ++position) visit(position - begin, first + long(x) * fold);
        }
    }
    long start(int frame, int channel) const {
        const int area = fold * fold;
        return (long(frame) * (channels / area) + channel / area) * plane();
    }
};

template <class T>
int pointwise(const Linear<T> &layer, const float *from, float *to, int frames, const Folded &in, const Folded &out,
              int threads_wanted) {
    const int chunks = rounded_up(in.height * in.width, LANES) / LANES;
    bool failed = false;
#pragma omp parallel num_threads(threads_wanted) if (threads_wanted > 1)
    {
        const typename T::Registers registers;
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
                in.positions(c, chunk, [&](int lane, long offset) { rows[c * LANES + lane] = plane[offset]; });
            }
            pack<T>(rows, in.channels, packed);
            linear(layer, packed, in.channels, {0, out.channels},
                   [&](int r, int v, const Floats *both) {
                       for (int i = 0; i < 2; ++i) put(done, r + i, v, both[i]);
                   });
            for (int c = 0; c < out.channels; ++c) {
                float *plane = to + out.start(frame, c);
                out.positions(c, chunk, [&](int lane, long offset) { plane[offset] = done[c * LANES + lane]; });
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
        return in_##NAME([&](auto format) { return residual<decltype(format)>(*sizes, weights, blocks, frames, past); }); \
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
