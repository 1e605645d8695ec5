// Layers over the positions of pictures: pointwise ones with folding, and convolutions.
#pragma once

#include <type_traits>

#include "../native/rows.h"
#include "../native/team.h"
#include "steps.h"

namespace {

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

INLINE void add_apart(const float *from, int count, float *to, int step) {
    with_step(step, [&](auto known) {
        for (int i = 0; i < count; ++i) to[i * known] += from[i];
    });
}

// A layer (outputs, inputs) over each position. Its inputs are the channels of cells; or, of a convolution, each
// channel at the kernel's taps, as (channels, side, side); and after them, where it reads coordinates, x and y of the
// position in (-1, 1). Threads work on chunks of LANES positions.
template <class T> class Layer {
    const PictureStep &step;
    const Folded in, out;
    const int inputs;

public:
    Layer(const PictureStep &step, const Pictures &from)
        : step(step),
          in{from.channels * step.fold * step.fold, from.height / step.fold, from.width / step.fold, step.fold},
          out{step.outputs, in.height, in.width, step.unfold},
          inputs(in.channels * step.side * step.side + 2 * step.coordinates) {}

    Pictures target() const {
        const int fold = step.unfold;
        return {nullptr, step.outputs / (fold * fold), out.height * fold, out.width * fold};
    }

    // Of a thread: rows that are read, those that are made, and words of the first.
    size_t room_floats() const { return (2 * size_t(inputs) + step.outputs) * LANES; }

    void run(Share frames, const float *from, float *to, float *rows) const {
        const int chunks = (in.height * in.width + LANES - 1) / LANES;
        const Duty duty = Duty::of((frames.last - frames.first) * chunks, thread_number(), team_size());
        const Share outputs = duty.rows(step.outputs, ROWS_AT_ONCE<T>);
        float *done = rows + size_t(inputs) * LANES;
        uint32_t *packed = (uint32_t *)(done + size_t(step.outputs) * LANES);
        for (int job = duty.chunks.first; job < duty.chunks.last; ++job) {
            const int frame = frames.first + job / chunks, chunk = job % chunks;
            gather(from, frame, chunk, rows);
            pack<T>(rows, {0, inputs}, packed);
            linear(Linear<T>{step.weight, step.bias}, packed, inputs, outputs,
                   [&](int r, int v, const Floats *both) { put_two(both, done, r, v); });
            scatter(done, frame, chunk, outputs, to);
        }
    }

private:
    void gather(const float *from, int frame, int chunk, float *rows) const {
        const int taps = step.side * step.side;
        const bool ragged = (chunk + 1) * LANES > in.height * in.width;
        if (ragged || taps > 1) std::memset(rows, 0, sizeof(float) * inputs * LANES);
        for (int c = 0; c < in.channels; ++c) {
            const float *plane = from + in.start(frame, c);
            for (int tap = 0; tap < taps; ++tap) {
                float *row = rows + (c * taps + tap) * LANES;
                in.runs(c, chunk, [&](int lane, long offset, int count) {
                    if (taps > 1) read_tap(plane, tap, offset, count, row + lane);
                    else read_apart(plane + offset, in.fold, count, row + lane);
                });
            }
        }
        if (step.coordinates) place(chunk, rows + in.channels * taps * LANES);
    }

    // A tap's numbers for `count` positions of one line from `offset` on; nothing for what lies outside of the picture.
    void read_tap(const float *plane, int tap, long offset, int count, float *to) const {
        const int radius = step.side / 2, down = tap / step.side - radius, right = tap % step.side - radius;
        const int y = int(offset / in.width) + down, x = int(offset % in.width) + right;
        const int first = most(0, -x), last = least(count, in.width - x);
        if (y < 0 || y >= in.height || first >= last) return;
        std::memcpy(to + first, plane + long(y) * in.width + x + first, sizeof(float) * (last - first));
    }

    void place(int chunk, float *rows) const {
        for (int lane = 0; lane < LANES; ++lane) {
            const int position = chunk * LANES + lane, x = position % in.width, y = position / in.width;
            rows[lane] = float(2 * x + 1) / float(in.width) - 1.f;
            rows[LANES + lane] = float(2 * y + 1) / float(in.height) - 1.f;
        }
    }

    void scatter(const float *done, int frame, int chunk, Share outputs, float *to) const {
        for (int c = outputs.first; c < outputs.last; ++c) {
            float *plane = to + out.start(frame, c);
            out.runs(c, chunk, [&](int lane, long offset, int count) {
                const float *from = done + c * LANES + lane;
                if (step.adds) add_apart(from, count, plane + offset, out.fold);
                else write_apart(from, count, plane + offset, out.fold);
            });
        }
    }
};

}  // namespace
