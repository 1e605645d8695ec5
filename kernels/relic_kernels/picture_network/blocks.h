// Residual convolution blocks over the positions of pictures.
#pragma once

#include "../native/rows.h"
#include "../native/team.h"
#include "steps.h"

namespace {

constexpr int MAX_TAPS = 11 * 11;    // of a depth-wise kernel

INLINE int rounded_up(int count, int step) { return (count + step - 1) / step * step; }

// A thread works on chunks of LANES positions of its own, and on halves of them, from the norm to the sum; of others'
// it reads those around. Where there are more threads than chunks, those of one share its channels.
template <class T, bool BYTES> class Blocks {
    typedef typename T::Scalar Scalar;
    static constexpr int PER_ROW = BYTES ? 1 : T::PER_WORD;
    const PictureStep &step;
    const float eps;
    const int channels, height, width, rows, positions, chunks, side, radius, padded_width, padded;
    const long apart;         // floats from one normed channel to the next: an odd number of cache lines
    float *normed;            // (channels, apart)
    uint32_t *convolved;      // (chunks, rows, LANES) words, or floats for layers of bytes
    float *planes, *hidden;   // of this thread: (PER_ROW, padded); of its chunk: (hidden, LANES)
    Operand read;             // of this thread, for layers of bytes
    Duty duty;
    Share own, own_hidden, halves, places;    // channels, hidden rows, halves of chunks and positions

    // Some vectors of a chunk's positions.
    struct Piece {
        int chunk;
        Share vectors;
        bool whole() const { return vectors.last - vectors.first == VECTORS; }
    };

public:
    Blocks(const PictureStep &step, const Pictures &x, float eps)
        : step(step), eps(eps), channels(x.channels), height(x.height), width(x.width), rows(channels / PER_ROW),
          positions(x.positions()), chunks(x.chunks()), side(step.side), radius(side / 2),
          padded_width(width + 2 * radius),
          padded(rounded_up((height + 2 * radius) * padded_width + 2 * WIDTH, WIDTH)), apart(chunks * LANES + 16) {}

    size_t shared_floats() const { return channels * (apart + size_t(chunks) * LANES); }

    // Of a thread: hidden rows, for layers of bytes the words of what one reads, and padded planes.
    size_t room_floats() const {
        return size_t(LANES) * (step.hidden + (BYTES ? most(step.hidden, channels) : 0)) + PER_ROW * padded;
    }

    // Of `frames`, those before the first are only looked back at. `room` is that of all threads, each `room_apart`
    // floats from the next.
    void run(const PictureWeights *weights, Share frames, int streams, const PictureFrames &given, float *shared,
             float *room, size_t room_apart) {
        normed = shared;
        convolved = (uint32_t *)(normed + channels * apart);
        duty = Duty::of(chunks, thread_number(), team_size());
        own = duty.rows(channels, ROWS_AT_ONCE<T>);
        own_hidden = duty.rows(step.hidden, ROWS_AT_ONCE<T>);
        const bool alone = duty.parts == 1;
        halves = alone ? Share::of(2 * chunks, thread_number(), team_size())
                       : Share{2 * duty.chunks.first, 2 * duty.chunks.last};
        places = {least(halves.first * LANES / 2, positions), least(halves.last * LANES / 2, positions)};
        planes = room + thread_number() * room_apart;
        read.words = (uint32_t *)(planes + PER_ROW * padded) + size_t(step.hidden) * LANES;
        hidden = room + (duty.parts > 1 ? duty.chunks.first : thread_number()) * room_apart + PER_ROW * padded;
        std::memset(planes, 0, sizeof(float) * PER_ROW * padded);
        for (int block = 0; block < step.blocks; ++block)
            for (int frame = step.shifted ? 0 : frames.first; frame < frames.last; ++frame) {
                const size_t place = size_t(frame) * channels * positions;
                const size_t stream = size_t(frame % streams) * step.shifted * positions;
                const float *before = frame < streams ? given.past[block] : given.kept[block];
                one(weights[block], (block ? given.out : given.in) + place, given.out + place,
                    before ? before + stream : nullptr, given.kept[block] + stream,
                    block + 1 < step.blocks || frame >= frames.first);
            }
    }

private:
    bool idle() const { return halves.first == halves.last; }

    // Calls visit(piece) for all that are the thread's own.
    template <class Visit> INLINE void pieces(Visit visit) const {
        for (int half = halves.first; half < halves.last; half = half / 2 * 2 + 2) {
            const int last = least(halves.last - half / 2 * 2, 2);
            visit(Piece{half / 2, {half % 2 * VECTORS / 2, last * VECTORS / 2}});
        }
    }

    // A block, for one frame: what it keeps, and what it makes if that is `read`.
    void one(const PictureWeights &w, const float *x, float *out, const float *before, float *kept, bool read) {
        pieces([&](Piece piece) {
            if (piece.whole()) normalise<VECTORS>(w, piece, x);
            else normalise<VECTORS / 2>(w, piece, x);
        });
        if (read) update(w, x, out, before);
        for (int c = own.first; c < least(own.last, step.shifted) && !idle(); ++c)
            std::memcpy(kept + size_t(c) * positions + places.first, normed + c * apart + places.first,
                        sizeof(float) * (places.last - places.first));
    }

    void update(const PictureWeights &w, const float *x, float *out, const float *before) {
        barrier();
        for (int row = own.first / PER_ROW; row < own.last / PER_ROW && !idle(); ++row) convolve(w, row, before);
        if (duty.parts == 1)
            pieces([&](Piece piece) {
                widen(w, piece);
                narrow(w, piece, x, out);
            });
        else {
            barrier();
            pieces([&](Piece piece) { widen(w, piece); });
            barrier();
            pieces([&](Piece piece) { narrow(w, piece, x, out); });
        }
        barrier();
    }

    // Vector `v` of a chunk's positions, of one channel.
    INLINE Floats here(const float *x, int c, int chunk, int v) const {
        const int place = chunk * LANES + v * WIDTH;
        const float *from = x + size_t(c) * positions + place;
        return place + WIDTH <= positions ? load<Floats>(from) : load_some(from, most(0, positions - place));
    }

    template <int COUNT> void normalise(const PictureWeights &w, Piece piece, const float *x) {
        const Scalar *weight = (const Scalar *)w.norm, *bias = (const Scalar *)w.norm_bias;
        const int begin = piece.vectors.first;
        Floats mean[COUNT] = {}, inverse[COUNT] = {};
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < COUNT; ++i) mean[i] += here(x, c, piece.chunk, begin + i);
        for (auto &one : mean) one /= float(channels);
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < COUNT; ++i) {
                const Floats off = here(x, c, piece.chunk, begin + i) - mean[i];
                inverse[i] += off * off;
            }
        for (auto &one : inverse) one = 1.f / square_root(one / float(channels) + eps);
        for (int c = own.first; c < own.last; ++c)
            for (int i = 0; i < COUNT; ++i) {
                const Floats off = here(x, c, piece.chunk, begin + i) - mean[i];
                store(normed + c * apart + piece.chunk * LANES + (begin + i) * WIDTH,
                      off * inverse[i] * T::wide(weight[c]) + T::wide(bias[c]));
            }
    }

    // Depth-wise convolution of the channels of one row, at a thread's positions; channels that are shifted in time are
    // the frame before's.
    void convolve(const PictureWeights &w, int row, const float *before) {
        const Scalar *kernels = (const Scalar *)w.depthwise + row * PER_ROW * side * side;
        const Scalar *bias = (const Scalar *)w.depthwise_bias + row * PER_ROW;
        const Share lines{places.first / width, (places.last - 1) / width + 1};
        for (int i = 0; i < PER_ROW; ++i) {
            const int c = row * PER_ROW + i;
            const float *past = before ? before + size_t(c) * positions : nullptr;
            pad(c < step.shifted ? past : normed + c * apart, lines, planes + i * padded);
        }
        switch (side) {
            case 3: return slide<3>(kernels, bias, row, lines);
            case 5: return slide<5>(kernels, bias, row, lines);
            default: return slide<0>(kernels, bias, row, lines);
        }
    }

    // SIDE of the kernel, known while compiling where it is not 0.
    template <int SIDE> void slide(const Scalar *kernels, const Scalar *bias, int row, Share lines) {
        int line = lines.first;
        if constexpr (SIDE > 0) {
            for (; line + 4 <= lines.last; line += 4) slide_lines<SIDE, 4>(kernels, bias, row, line);
            for (; line + 2 <= lines.last; line += 2) slide_lines<SIDE, 2>(kernels, bias, row, line);
        }
        for (; line < lines.last; ++line) slide_lines<SIDE, 1>(kernels, bias, row, line);
    }

    // LINES at once, which share what they load.
    template <int SIDE, int LINES>
    void slide_lines(const Scalar *kernels, const Scalar *bias, int row, int line) {
        const int taps_a_side = SIDE ? SIDE : side, count = taps_a_side * taps_a_side;
        Floats taps[PER_ROW][SIDE ? SIDE * SIDE : MAX_TAPS];
        for (int i = 0; i < PER_ROW; ++i)
#pragma GCC unroll 25
            for (int k = 0; k < count; ++k) taps[i][k] = splat(T::wide(kernels[i * count + k]));
        for (int column = 0; column < width; column += WIDTH) {
            Floats sums[LINES][PER_ROW];
            for (int i = 0; i < PER_ROW; ++i) {
                const float *from = planes + i * padded + line * padded_width + column;
                for (int r = 0; r < LINES; ++r) sums[r][i] = splat(T::wide(bias[i]));
#pragma GCC unroll 8
                for (int y = 0; y < LINES + taps_a_side - 1; ++y)
#pragma GCC unroll 5
                    for (int x = 0; x < taps_a_side; ++x) {
                        const Floats value = load<Floats>(from + y * padded_width + x);
#pragma GCC unroll 4
                        for (int r = 0; r < LINES; ++r)
                            if (y >= r && y - r < taps_a_side) sums[r][i] += taps[i][(y - r) * taps_a_side + x] * value;
                    }
            }
            for (int r = 0; r < LINES; ++r) put_line(sums[r], row, line + r, column);
        }
    }

    // What the convolution makes of a row, where it is the thread's own.
    INLINE void put_line(const Floats *sums, int row, int line, int column) {
        const int place = line * width + column, first = most(0, places.first - place);
        const int last = least(least(WIDTH, width - column), places.last - place);
        if constexpr (BYTES) put_row(row, place, (Words)sums[0], first, last);
        else put_row(row, place, T::pack(sums), first, last);
    }

    // Some rows and those around them, into the middle of a plane whose edges are 0; null for rows of 0.
    void pad(const float *plane, Share lines, float *to) const {
        for (int row = most(0, lines.first - radius); row < least(height, lines.last + radius); ++row) {
            float *line = to + (row + radius) * padded_width + radius;
            if (plane) std::memcpy(line, plane + row * width, sizeof(float) * width);
            else std::memset(line, 0, sizeof(float) * width);
        }
    }

    // Words `first` to `last` of a vector of them, whose first is that of `place`.
    INLINE void put_row(int row, int place, Words value, int first, int last) {
        const int chunk = place / LANES, lane = place % LANES;
        uint32_t *to = convolved + (size_t(chunk) * rows + row) * LANES + lane;
        store_some(to, value, first, least(last, LANES - lane));
        if (lane + last > LANES) store_some(to + (rows - 1) * LANES, value, most(first, LANES - lane), last);
    }

    void widen(const PictureWeights &w, Piece piece) {
        const uint32_t *from = convolved + size_t(piece.chunk) * rows * LANES;
        product(w.widen, w.widen_bias, from, channels, step.hidden, own_hidden, piece,
                [&](int r, int v, const Floats *both) {
                    Floats active[2];
                    for (int i = 0; i < 2; ++i) active[i] = silu<T::ROUNDED>(both[i]);
                    if constexpr (BYTES) put_two(active, hidden, r, v);
                    else pack_two<T>(active, (uint32_t *)hidden, r, v);
                });
    }

    void narrow(const PictureWeights &w, Piece piece, const float *x, float *out) {
        product(w.narrow, w.narrow_bias, (const uint32_t *)hidden, step.hidden, channels, own, piece,
                [&](int r, int v, const Floats *both) { add_update(piece.chunk, r, v, both, x, out); });
    }

    // Some outputs of a layer that reads words, or floats that it makes bytes of.
    template <class Use>
    void product(const void *weight, const void *bias, const uint32_t *from, int inputs, [[maybe_unused]] int outputs,
                 Share some, Piece piece, Use use) {
#if defined(RELIC_BYTES)
        if constexpr (BYTES) {
            float peaks[LANES];
            take_peaks((const float *)from, {0, inputs}, peaks, piece.vectors);
            pack_bytes((const float *)from, {0, inputs}, peaks, 1, read.words, read.scale, piece.vectors);
            const ByteLinear<T> layer{weight, bias, inputs, outputs, read.scale};
            return multiply_piece(layer, read.words, inputs, some, piece, use);
        }
#endif
        multiply_piece(Linear<T>{weight, bias}, from, inputs, some, piece, use);
    }

    template <class Layer, class Use>
    static void multiply_piece(const Layer &layer, const uint32_t *x, int inputs, Share some, Piece piece, Use use) {
        if (piece.whole()) linear(layer, x, inputs, some, use);
        else linear<false>(layer, x, inputs, some, use, piece.vectors);
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

}  // namespace
