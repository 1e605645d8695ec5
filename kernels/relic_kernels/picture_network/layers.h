// Layers over the positions of pictures: pointwise ones with folding, and convolutions.
#pragma once

#include "../native/rows.h"
#include "../native/team.h"
#include "folding.h"
#include "steps.h"

namespace {

// Some positions of a chunk, from `lane` on, that lie in one line.
struct Run {
    int lane, y, x, count;
};

// Cells of `fold` by `fold` positions are one position with fold^2 channels, as in torch's pixel_unshuffle.
struct Folded {
    int channels, height, width, fold;    // as the network sees it: folded
    long plane() const { return long(height) * width * fold * fold; }

    // Calls visit(run) for the lines of a chunk's positions.
    template <class Visit> INLINE void runs(int chunk, Visit visit) const {
        const int begin = chunk * LANES, end = least(begin + LANES, height * width);
        int y = begin / width, x = begin % width;
        for (int position = begin; position < end; ++y, x = 0) {
            const int count = least(width - x, end - position);
            visit(Run{position - begin, y, x, count});
            position += count;
        }
    }

    // Of the unfolded picture: where the line of a run begins that holds channels `line` fold to (line + 1) fold.
    long line_start(int frame, int line, Run run) const {
        const int plane_number = frame * (channels / (fold * fold)) + line / fold;
        return plane_number * plane() + (long(run.y * fold + line % fold) * width + run.x) * fold;
    }
};

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
        in.runs(chunk, [&](Run run) {
            if (taps > 1) read_taps(from + long(frame) * in.channels * in.plane(), run, rows);
            else
                with_fold(in.fold, [&](auto fold) {
                    for (int line = 0; line < in.channels / in.fold; ++line)
                        read_cells<fold>(from + in.line_start(frame, line, run), in.fold, run.count,
                                         rows + line * in.fold * LANES + run.lane);
                });
        });
        if (step.coordinates) place(chunk, rows + in.channels * taps * LANES);
    }

    // What each tap reads of a run; nothing of what lies outside of the picture.
    void read_taps(const float *planes, Run run, float *rows) const {
        const int radius = step.side / 2;
        float *to = rows + run.lane;
        for (int c = 0; c < in.channels; ++c)
            for (int y = run.y - radius; y <= run.y + radius; ++y)
                for (int x = run.x - radius; x <= run.x + radius; ++x, to += LANES) {
                    const int first = most(0, -x), last = least(run.count, in.width - x);
                    if (y < 0 || y >= in.height || first >= last) continue;
                    const float *line = planes + c * in.plane() + long(y) * in.width;
                    std::memcpy(to + first, line + x + first, sizeof(float) * (last - first));
                }
    }

    void place(int chunk, float *rows) const {
        for (int lane = 0; lane < LANES; ++lane) {
            const int position = chunk * LANES + lane, x = position % in.width, y = position / in.width;
            rows[lane] = float(2 * x + 1) / float(in.width) - 1.f;
            rows[LANES + lane] = float(2 * y + 1) / float(in.height) - 1.f;
        }
    }

    void scatter(const float *done, int frame, int chunk, Share outputs, float *to) const {
        out.runs(chunk, [&](Run run) {
            with_fold(out.fold, [&](auto fold) {
                for (int c = outputs.first, some; c < outputs.last; c += some) {
                    const int inside = c % out.fold;
                    some = least(out.fold - inside, outputs.last - c);
                    const float *rows = done + c * LANES + run.lane;
                    float *line = to + out.line_start(frame, c / out.fold, run) + inside;
                    if constexpr (fold > 0)
                        if (some == fold) {
                            write_cells<fold>(rows, run.count, step.adds, line);
                            continue;
                        }
                    // threads that share a chunk may share the channels of a cell
                    write_rows(rows, some, out.fold, run.count, step.adds, line);
                }
            });
        });
    }
};

}  // namespace
