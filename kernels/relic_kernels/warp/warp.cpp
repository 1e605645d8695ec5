// What known views show from other places: see README.md.
#include <cmath>

#include "../native/products.h"
#include "../native/room.h"
#include "../native/team.h"

extern "C" {
struct Scene {
    int32_t cases, views, wanted, height, width, coarse, threads;
    float fx, fy, cx, cy, tolerance, nearest;
};
}

namespace {

typedef float Quad __attribute__((vector_size(16)));    // red, green, blue, depth

// From one camera's axes to another's: x -> turn x + shift.
struct Between {
    float turn[3][3], shift[3];
    Between(const float *from, const float *from_position, const float *to, const float *to_position) {
        for (int i = 0; i < 3; ++i) {
            shift[i] = 0;
            for (int k = 0; k < 3; ++k) shift[i] += to[3 * i + k] * (from_position[k] - to_position[k]);
            for (int j = 0; j < 3; ++j) {
                turn[i][j] = 0;
                for (int k = 0; k < 3; ++k) turn[i][j] += to[3 * i + k] * from[3 * j + k];
            }
        }
    }
};

struct Seen {
    float x, y, z;    // pixels, pixels, metres
};

INLINE Seen seen(const Scene &scene, const Between &way, float column, float row, float depth) {
    const float px = (column + 0.5f - scene.cx) / scene.fx * depth, py = (row + 0.5f - scene.cy) / scene.fy * depth;
    float at[3];
    for (int i = 0; i < 3; ++i)
        at[i] = way.turn[i][0] * px + way.turn[i][1] * py + way.turn[i][2] * depth + way.shift[i];
    const float near = at[2] > scene.nearest ? at[2] : scene.nearest;
    return {at[0] / near * scene.fx + scene.cx, at[1] / near * scene.fy + scene.cy, at[2]};
}

// Nearest depth of a view's points in each coarse cell of a wanted picture.
void splat(const Scene &scene, const Between &way, const Quad *view, float *cells) {
    const int columns = scene.width / scene.coarse, rows = scene.height / scene.coarse;
    for (int y = 0; y < scene.height; ++y)
        for (int x = 0; x < scene.width; ++x) {
            const Seen to = seen(scene, way, x, y, view[y * scene.width + x][3]);
            const float column = std::floor(to.x / scene.coarse), row = std::floor(to.y / scene.coarse);
            if (!(column >= 0 && column < columns && row >= 0 && row < rows && to.z > scene.nearest)) continue;
            float &cell = cells[int(row) * columns + int(column)];
            if (to.z < cell) cell = to.z;
        }
}

// A view at a place between pixel centres; beyond the edge, what is at the edge.
INLINE Quad between_pixels(const Scene &scene, const Quad *view, float x, float y) {
    const float right = scene.width - 1, bottom = scene.height - 1;
    x -= 0.5f, y -= 0.5f;
    x = x < 0 ? 0 : x > right ? right : x;
    y = y < 0 ? 0 : y > bottom ? bottom : y;
    const int left = int(x), top = int(y), next = left < scene.width - 1, below = top < scene.height - 1;
    const float along = x - left, down = y - top;
    const Quad *at = view + top * scene.width + left, *under = at + below * scene.width;
    const Quad upper = at[0] * (1 - along) + at[next] * along, lower = under[0] * (1 - along) + under[next] * along;
    return upper * (1 - down) + lower * down;
}

// One wanted picture (3, height, width) from all views, those named first first.
void paint(const Scene &scene, const Quad *views, const Between *ways, const int64_t *order, const float *cells,
           float *picture, int64_t *source) {
    const int area = scene.height * scene.width, columns = scene.width / scene.coarse;
    for (int y = 0; y < scene.height; ++y)
        for (int x = 0; x < scene.width; ++x) {
            const int pixel = y * scene.width + x;
            const float depth = cells[y / scene.coarse * columns + x / scene.coarse];
            Quad colour = {};
            source[pixel] = -1;
            for (int turn = 0; turn < scene.views && depth < INFINITY && source[pixel] < 0; ++turn) {
                const int64_t view = order[turn];
                const Seen from = seen(scene, ways[view], x, y, depth);
                if (!(from.x >= 0 && from.x <= scene.width && from.y >= 0 && from.y <= scene.height &&
                      from.z > scene.nearest))
                    continue;
                const Quad found = between_pixels(scene, views + view * area, from.x, from.y);
                if (std::fabs(found[3] - from.z) > scene.tolerance * from.z) continue;
                colour = found;
                source[pixel] = view;
            }
            for (int c = 0; c < 3; ++c) picture[c * area + pixel] = colour[c];
        }
}

// Pictures (views, 3, area) and depth (views, area) side by side.
void join(const Scene &scene, const float *pictures, const float *depth, Quad *to, Share pixels) {
    const int area = scene.height * scene.width;
    for (int i = pixels.first; i < pixels.last; ++i) {
        const int view = i / area, pixel = i % area;
        const float *from = pictures + 3L * view * area + pixel;
        to[i] = Quad{from[0], from[area], from[2 * area], depth[i]};
    }
}
}  // namespace

extern "C" int relic_warp(const Scene *given, const float *pictures, const float *depth, const float *rotations,
                          const float *positions, const float *wanted_rotations, const float *wanted_positions,
                          const int64_t *order, float *out, int64_t *source) {
    const Scene scene = *given;
    const int views = scene.views, area = scene.height * scene.width, all = scene.cases * views * area;
    static thread_local Room shared;
    Quad *joined = (Quad *)shared.of(4 * size_t(all));
    if (!joined) return 1;
    bool failed = false;
#pragma omp parallel num_threads(scene.threads) if (scene.threads > 1)
    {
        static thread_local Room room;
        const int cell_count = area / (scene.coarse * scene.coarse);
        float *cells = room.of(cell_count + 2 * views * sizeof(Between) / sizeof(float));
        if (!cells) failed = true;
        join(scene, pictures, depth, joined, Share::of(all, thread_number(), team_size()));
        barrier();
        const Share jobs = Share::of(cells ? scene.cases * scene.wanted : 0, thread_number(), team_size());
        for (int job = jobs.first; job < jobs.last; ++job) {
            const int known = job / scene.wanted * views;
            Between *back = (Between *)(cells + cell_count);
            for (int i = 0; i < cell_count; ++i) cells[i] = INFINITY;
            for (int view = 0; view < views; ++view) {
                const float *turn = rotations + 9 * (known + view), *place = positions + 3 * (known + view);
                const float *to = wanted_rotations + 9 * job, *there = wanted_positions + 3 * job;
                splat(scene, Between(turn, place, to, there), joined + size_t(known + view) * area, cells);
                back[view] = Between(to, there, turn, place);
            }
            paint(scene, joined + size_t(known) * area, back, order + known, cells, out + 3L * job * area,
                  source + long(job) * area);
        }
    }
    return failed;
}
