// What a network of pictures consists of.
#pragma once

#include "../native/products.h"

extern "C" {
// Of the input: frames of one moment for all streams together, moment after moment. The first `unread` frames of the
// output are left out.
struct PictureSizes {
    int32_t frames, streams, unread, channels, height, width, steps, threads;
    float eps;
};

// A layer, or a run of residual blocks where `blocks` is not 0. It reads the pictures numbered `source`, and writes
// those numbered `target`; 0 are the input, and what the last step writes is the output.
struct PictureStep {
    const void *weight, *bias;    // of a layer, see `Layer`
    int32_t source, target;
    int32_t outputs, fold, unfold, coordinates, adds;    // of a layer; outputs before they are unfolded
    int32_t side;                                        // of the kernel, of either
    int32_t blocks, hidden, shifted, in_bytes;           // of blocks
};

// Of one block; matrices are (outputs, inputs), or of bytes as a ByteLinear has them, the depth-wise kernel
// (channels, side, side).
struct PictureWeights {
    const void *norm, *norm_bias, *depthwise, *depthwise_bias, *widen, *widen_bias, *narrow, *narrow_bias;
};

// Frames (frames, channels, positions) go in and come out. For each block of all steps `past` (streams, shifted,
// positions) are the channels of the frames before, null for zeros, and `kept` become those of the last frames.
struct PictureFrames {
    const float *in;
    float *out;
    const float *const *past;
    float *const *kept;
};
}

namespace {

// Frames of one size, one after another.
struct Pictures {
    float *numbers;
    int channels, height, width;
    int positions() const { return height * width; }
    int chunks() const { return (positions() + LANES - 1) / LANES; }
    size_t floats() const { return size_t(channels) * positions(); }    // of a frame
};

// Rows that threads share a layer by, where several work on one chunk: as many as are multiplied at once.
template <class T> constexpr int ROWS_AT_ONCE = T::TILED ? 32 : 12;

// Which of a number of chunks a thread works on, and which part of their rows: where there are more threads than
// chunks, some share one.
struct Duty {
    Share chunks;
    int part, parts;
    static Duty of(int chunks, int thread, int threads) {
        const int parts = most(1, threads / most(1, chunks));
        if (parts == 1) return {Share::of(chunks, thread, threads), 0, 1};
        const int chunk = least(thread / parts, chunks);
        return {{chunk, least(chunk + 1, chunks)}, thread % parts, parts};
    }
    // Of `count` rows; the bounds are multiples of `step`.
    Share rows(int count, int step) const {
        return parts == 1 ? Share{0, count} : Share::of_steps(count, step, part, parts);
    }
};

}  // namespace
