// The encoders of a latent frame's control: README.md has the maths, reference.py the same in PyTorch.
#include "../native/patches.h"
#include "../native/room.h"
#include "../native/rows.h"
#include "../native/single.h"
#include "../native/team.h"

extern "C" {
struct Sizes {
    int32_t cases, tokens, columns, side, channels, guide_channels, frames, actions, octaves, dim, blocks, threads;
    float pose_scale;
};

struct Constants {
    const float *action_scale, *rays;
};

struct LayerWeights {
    const void *weight, *bias;
};

// Of all cases; without a guide its place is null. The last four are written.
struct Places {
    const float *actions, *rotations, *positions, *guide;
    void *action, *pose, *guide_tokens;
    float *skip;
};
}

namespace {

constexpr int LINE = 9;    // numbers of a viewing ray: direction, moment and origin
constexpr int SEEN = 2;    // pixel frames at which a token's ray is looked at

template <class T> class Encoding {
    typedef typename T::Scalar Scalar;
    static constexpr int STEP = STEP_OF<T>;

    // Layers of an encoder are the one that reads, the hidden one, and each block's; words are what they make.
    struct Encoder {
        const LayerWeights *layers;
        int inputs;
        uint32_t *features, *read, *hidden;
    };

    const Sizes &sizes;
    const Constants &constants;
    const Places &places;
    const LayerWeights *guide_layers;
    const Patches patches;
    const int dim, patch, cells, waves;
    const Share vectors;    // of the tokens
    Encoder action, pose;
    uint32_t *made, *narrow;
    float *moves, *numbers, *wide, *seen, *skipped;

    static int action_inputs(const Sizes &s) { return s.frames * s.actions; }

    static int pose_inputs(const Sizes &s) { return SEEN * LINE * (3 + 2 * s.octaves); }

public:
    static size_t floats_needed(const Sizes &s) {
        const size_t rows = pose_inputs(s) + 3 * s.dim + 2 * (s.guide_channels + s.channels) * s.side * s.side;
        return LANES * rows + 2 * action_inputs(s) + 3 * s.dim;
    }

    Encoding(const Sizes &sizes, const Constants &constants, const LayerWeights *layers, const Places &places,
             float *room)
        : sizes(sizes), constants(constants), places(places), guide_layers(layers + 2 * (2 + sizes.blocks)),
          patches{sizes.tokens, sizes.columns, sizes.side}, dim(sizes.dim),
          patch(sizes.guide_channels * patches.area()), cells(sizes.channels * patches.area()),
          waves(LINE * (sizes.octaves + 1)), vectors{0, (sizes.tokens + WIDTH - 1) / WIDTH} {
        const auto take = [&](size_t floats) {
            float *taken = room;
            room += floats;
            return taken;
        };
        const auto rows = [&](int count) { return take(size_t(LANES) * count); };
        const auto words = [&](float *floats) { return (uint32_t *)floats; };
        const int rays = pose_inputs(sizes), inputs = action_inputs(sizes);
        pose = {layers + 2 + sizes.blocks, rays, words(rows(rays)), words(rows(dim)), words(rows(dim))};
        made = words(rows(dim));
        wide = rows(patch);
        narrow = words(rows(patch));
        seen = rows(cells);
        skipped = rows(cells);
        action = {layers, inputs, words(take(inputs)), words(take(dim)), words(take(dim))};
        moves = take(inputs);
        numbers = take(dim);
    }

    // A thread reads rows that any may have written before the last barrier, and writes its own.
    void run() {
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
        {
            [[maybe_unused]] const typename T::Registers registers;
            const int thread = thread_number(), threads = team_size();
            const Share own = Share::of_steps(dim, STEP, thread, threads);
            const Share own_of_one = Share::of_steps(dim, WIDTH, thread, threads);
            for (int i = 0; i < sizes.cases; ++i) {
                if (thread == 0) take_actions(i);
                take_rays(i, Share::of_steps(pose.inputs, 2, thread, threads));
                if (places.guide) take_guide(i, Share::of_steps(patch, 2, thread, threads));
                barrier();
                of_one<true>(action.layers[0], action.features, action.inputs, action.read, own_of_one);
                activate(pose.layers[0], pose.features, pose.inputs, pose.read, own);
                if (places.guide) embed_guide(i, own, Share::of(patches.area(), thread, threads));
                barrier();
                of_one<true>(action.layers[1], action.read, dim, action.hidden, own_of_one);
                activate(pose.layers[1], pose.read, dim, pose.hidden, own);
                if (places.guide) skip_blocks(i, Share::of_steps(cells, STEP_OF<Float32>, thread, threads));
                barrier();
                for (int block = 0; block < sizes.blocks; ++block) {
                    const long before = (long(block) * sizes.cases + i) * dim;
                    of_one<false>(action.layers[2 + block], action.hidden, dim,
                                  (uint32_t *)((Scalar *)places.action + before), own_of_one);
                    give<T>(pose.layers[2 + block], pose.hidden, dim, dim, made,
                            (Scalar *)places.pose + before * sizes.tokens, own);
                }
            }
        }
    }

private:
    void take_actions(int which) {
        const float *from = places.actions + long(which) * action.inputs;
        for (int i = 0; i < action.inputs; ++i) moves[i] = from[i] / constants.action_scale[i % sizes.actions];
        pack_side_by_side<T>(moves, {0, action.inputs}, action.features);
    }

    // Some outputs of a layer of the only token.
    template <bool ACTIVE>
    void of_one(const LayerWeights &w, const uint32_t *from, int inputs, uint32_t *to, Share own) {
        linear_of_one(Linear<T>{w.weight, w.bias}, from, inputs, own, [&](int first, int count, Floats values) {
            if (ACTIVE) values = silu<T::ROUNDED>(values);
            std::memcpy(numbers + first, &values, sizeof(float) * count);
        });
        pack_side_by_side<T>(numbers, own, to);
    }

    // What the pose encoder reads: for each pixel frame the numbers of a ray, and the waves of them.
    void take_rays(int which, Share rows) {
        alignas(64) float rays[3 * LANES], lines[SEEN * LINE * LANES];
        rows_of_tokens<Float32>(constants.rays, sizes.tokens, 3, rays, {0, 3});
        const int last = sizes.frames - 1, frames[SEEN] = {last / 2, last};
        for (int i = 0; i < SEEN; ++i) {
            const long frame = long(which) * sizes.frames + frames[i];
            take_lines(places.rotations + 9 * frame, places.positions + 3 * frame, rays, lines + i * LINE * LANES);
        }
        for (int r = rows.first; r < rows.last; r += 2) {
            const Feature features[] = {feature(lines, r), feature(lines, r + 1)};
            for (int v = 0; v < VECTORS; ++v) {
                const Floats both[] = {features[0].at(v), features[1].at(v)};
                pack_two<T>(both, pose.features, r, v);
            }
        }
    }

    // Direction, moment and origin of the tokens' rays from a camera.
    void take_lines(const float *rotation, const float *position, const float *rays, float *lines) const {
        float origin[3];
        for (int i = 0; i < 3; ++i) origin[i] = position[i] / sizes.pose_scale;
        for (int v = 0; v < VECTORS; ++v) {
            Floats direction[3];
            for (int i = 0; i < 3; ++i)
                direction[i] = at(rays, 0, v) * rotation[i] + at(rays, 1, v) * rotation[3 + i] +
                               at(rays, 2, v) * rotation[6 + i];
            for (int i = 0; i < 3; ++i) {
                const int next = (i + 1) % 3, other = (i + 2) % 3;
                put(lines, i, v, direction[i]);
                put(lines, 3 + i, v, origin[next] * direction[other] - origin[other] * direction[next]);
                put(lines, 6 + i, v, splat(origin[i]));
            }
        }
    }

    // A row of numbers, or the sine of its multiple, some quarters of a turn further.
    struct Feature {
        const float *row;
        float factor;
        int quarters;
        INLINE Floats at(int v) const {
            const Floats value = ::at(row, 0, v);
            return factor ? sine(value * factor, quarters) : value;
        }
    };

    Feature feature(const float *lines, int row) const {
        const int count = LINE + 2 * waves, place = row % count, wave = place - LINE, octaves = sizes.octaves + 1;
        const float *line = lines + row / count * LINE * LANES;
        if (wave < 0) return {line + place * LANES, 0.f, 0};
        return {line + wave % waves / octaves * LANES, std::ldexp(1.f, wave % octaves), wave / waves};
    }

    void take_guide(int which, Share rows) {
        const float *from = places.guide + long(which) * sizes.tokens * patch;
        for (int r = rows.first; r < rows.last; ++r) patches.take(from, r, wide + r * LANES);
        pack<T>(wide, rows, narrow);
    }

    // Some rows of SiLU of a layer.
    void activate(const LayerWeights &w, const uint32_t *from, int inputs, uint32_t *to, Share own) const {
        linear<false>(
            Linear<T>{w.weight, w.bias}, from, inputs, own,
            [&](int r, int v, const Floats *both) {
                const Floats active[] = {silu<T::ROUNDED>(both[0]), silu<T::ROUNDED>(both[1])};
                pack_two<T>(active, to, r, v);
            },
            vectors);
    }

    // Some rows of a layer -> the same columns of (tokens, outputs) numbers.
    template <class F>
    void give(const LayerWeights &w, const uint32_t *from, int inputs, int outputs, uint32_t *words,
              typename F::Scalar *to, Share own) const {
        linear<false>(
            Linear<F>{w.weight, w.bias}, from, inputs, own,
            [&](int r, int v, const Floats *both) { pack_two<F>(both, words, r, v); }, vectors);
        tokens_of_words<F>(words, sizes.tokens, outputs, to, {own.first / F::PER_WORD, own.last / F::PER_WORD});
    }

    // The guide's tokens; and of some cells of the patches its latents, in proportion to what is known of them.
    void embed_guide(int which, Share own, Share own_cells) {
        Scalar *to = (Scalar *)places.guide_tokens + long(which) * sizes.tokens * dim;
        give<T>(guide_layers[0], narrow, patch, dim, made, to, own);
        for (int cell = own_cells.first; cell < own_cells.last; ++cell)
            for (int v = 0; v < VECTORS; ++v) {
                Floats known = {};
                for (int channel = sizes.channels; channel < sizes.guide_channels; ++channel)
                    known += at(wide, channel * patches.area() + cell, v);
                known = known / float(sizes.frames);
                for (int channel = 0; channel < sizes.channels; ++channel)
                    put(seen, cell * sizes.channels + channel, v, at(wide, channel * patches.area() + cell, v) * known);
            }
    }

    void skip_blocks(int which, Share own) {
        give<Float32>(guide_layers[1], (const uint32_t *)seen, cells, cells, (uint32_t *)skipped,
                      places.skip + long(which) * sizes.tokens * cells, own);
    }
};

template <class T>
int run(const Sizes &sizes, const Constants &constants, const LayerWeights *layers, const Places &places) {
    static thread_local Room room;
    float *own = room.of(Encoding<T>::floats_needed(sizes));
    if (!own) return 1;
    Encoding<T>(sizes, constants, layers, places, own).run();
    return 0;
}
}  // namespace

#define EXPORTED(NAME)                                                                                                 \
    extern "C" int relic_control_encoders_##NAME(const Sizes *sizes, const Constants *constants,                       \
                                                 const LayerWeights *layers, const Places *places) {                   \
        return in_##NAME(                                                                                              \
            [&](auto format) { return run<decltype(format)>(*sizes, *constants, layers, *places); });                  \
    }

EXPORTED(float32)
#if defined(__AVX512BF16__)
EXPORTED(bfloat16)
#endif
