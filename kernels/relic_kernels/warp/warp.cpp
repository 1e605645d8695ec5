// What known views show from other places: see README.md.
#include <cmath>

#include "../native/products.h"
#include "../native/room.h"
#include "../native/team.h"

extern "C" {
struct Scene {
    int32_t cases, views, wanted, height, width, coarse, cell, group, threads;
    float fx, fy, cx, cy, tolerance, nearest;
};
}

namespace {

typedef float Quad __attribute__((vector_size(16)));    // red, green, blue, depth

// World-to-camera rotation, and place.
struct Pose {
    const float *rotation, *position;
    Pose(const float *rotations, const float *positions, int number)
        : rotation(rotations + 9L * number), position(positions + 3L * number) {}
};

struct Seen {
    Floats x, y, z;    // cells of pixels, metres
};

// From one camera's rays to another's picture: (x, y, 1) depth -> (column z, row z, z) = turn (x, y, 1) depth + shift.
struct Between {
    float turn[3][3], shift[3];

    // Columns and rows are those of cells of `side` by `side` pixels.
    Between(const Scene &scene, Pose from, Pose to, int side) {
        for (int i = 0; i < 3; ++i) {
            const float *row = to.rotation + 3 * i;
            shift[i] = 0;
            for (int k = 0; k < 3; ++k) shift[i] += row[k] * (from.position[k] - to.position[k]);
            for (int j = 0; j < 3; ++j) {
                turn[i][j] = 0;
                for (int k = 0; k < 3; ++k) turn[i][j] += row[k] * from.rotation[3 * j + k];
            }
        }
        const float focal[] = {scene.fx / side, scene.fy / side}, centre[] = {scene.cx / side, scene.cy / side};
        for (int i = 0; i < 2; ++i) {
            shift[i] = focal[i] * shift[i] + centre[i] * shift[2];
            for (int j = 0; j < 3; ++j) turn[i][j] = focal[i] * turn[i][j] + centre[i] * turn[2][j];
        }
    }

    INLINE Seen seen(Floats x, float y, Floats depth) const {
        Floats at[3];
        for (int i = 0; i < 3; ++i) at[i] = (turn[i][0] * x + (turn[i][1] * y + turn[i][2])) * depth + shift[i];
        const Floats inverse = 1.f / at[2];
        return {at[0] * inverse, at[1] * inverse, at[2]};
    }
};

INLINE bool any(Ints chosen) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)chosen, (__m512i)chosen);
#else
    int found = 0;
    for (int i = 0; i < WIDTH; ++i) found |= chosen[i];
    return found;
#endif
}

INLINE Floats within(Floats x, float last) { return smaller(x > 0 ? x : Floats{}, splat(last)); }
INLINE Ints whole(Floats x) { return __builtin_convertvector(x, Ints); }
INLINE Floats fraction(Floats x) { return x - __builtin_convertvector(whole(x), Floats); }

// What a view shows at places between pixel centres; beyond the edge, what is at the edge.
INLINE void look(const Scene &scene, const Quad *view, Floats x, Floats y, Floats (&found)[4]) {
    x = within(x - 0.5f, scene.width - 1), y = within(y - 0.5f, scene.height - 1);
    const Ints left = whole(x), top = whole(y);
    int32_t corner[WIDTH], next[WIDTH], below[WIDTH];
    float along[WIDTH], down[WIDTH], layers[4][WIDTH];
    store(corner, top * scene.width + left);
    store(next, (left < scene.width - 1) & 1);
    store(below, (top < scene.height - 1) & scene.width);
    store(along, fraction(x));
    store(down, fraction(y));
    for (int i = 0; i < WIDTH; ++i) {
        const Quad *at = view + corner[i], *under = at + below[i];
        const Quad upper = at[0] * (1 - along[i]) + at[next[i]] * along[i];
        const Quad lower = under[0] * (1 - along[i]) + under[next[i]] * along[i];
        const Quad here = upper * (1 - down[i]) + lower * down[i];
        for (int c = 0; c < 4; ++c) layers[c][i] = here[c];
    }
    for (int c = 0; c < 4; ++c) found[c] = load<Floats>(layers[c]);
}

// Paints wanted pictures one after another, in memory of its thread's own; its lines are of whole vectors.
class Painter {
    const Scene &scene;
    const int columns, rows, apart;    // coarse cells, and floats of a line
    float *const rays, *const known, *const cells;    // x of each column's ray; a line of depth; nearest depths
    int32_t *const source;    // views that a line's pixels are from

    static int whole_vectors(int floats) { return (floats + WIDTH - 1) / WIDTH * WIDTH; }
    INLINE float ray_of(int y) const { return (y + 0.5f - scene.cy) / scene.fy; }

public:
    // The last cell is for points that fall outside.
    static size_t floats_needed(const Scene &scene) {
        return 3 * size_t(whole_vectors(scene.width)) + scene.height * scene.width / (scene.coarse * scene.coarse) + 1;
    }

    Painter(const Scene &scene, float *room)
        : scene(scene), columns(scene.width / scene.coarse), rows(scene.height / scene.coarse),
          apart(whole_vectors(scene.width)), rays(room), known(rays + apart), cells(known + 2 * apart),
          source((int32_t *)(known + apart)) {
        for (int x = 0; x < apart; ++x) rays[x] = (x + 0.5f - scene.cx) / scene.fx;
    }

    void clear() {
        for (int i = 0; i < rows * columns; ++i) cells[i] = INFINITY;
    }

    // Nearest depth of a view's points in each coarse cell of the wanted picture.
    void splat_points(const Between &way, const float *depth) {
        for (int y = 0; y < scene.height; ++y, depth += scene.width)
            for (int x = 0; x < scene.width; x += WIDTH) {
                const int count = least(WIDTH, scene.width - x);
                const Seen to = way.seen(load<Floats>(rays + x), ray_of(y), load_some(depth + x, count));
                const Ints inside = (to.x >= 0) & (to.x < float(columns)) & (to.y >= 0) & (to.y < float(rows)) &
                                    (to.z > scene.nearest);
                const Ints cell = whole(inside ? to.y : Floats{}) * columns + whole(inside ? to.x : Floats{});
                int32_t places[WIDTH];
                float depths[WIDTH];
                store(places, inside ? cell : Ints{} + rows * columns);
                store(depths, to.z);
                for (int i = 0; i < count; ++i) {
                    float &cell = cells[places[i]];
                    cell = depths[i] < cell ? depths[i] : cell;
                }
            }
    }

    // The wanted picture (3, height, width) from all views, those named first first. finish(y, source) gets the view
    // that each pixel of a line is from, -1 where nothing is known.
    template <class Finish>
    void paint(const Quad *views, const Between *ways, const int64_t *order, float *picture, Finish finish) {
        for (int y = 0; y < scene.height; ++y) {
            if (y % scene.coarse == 0) spread(cells + y / scene.coarse * columns);
            for (int x = 0; x < scene.width; x += WIDTH)
                paint_vector(views, ways, order, x, y, picture + long(y) * scene.width + x);
            finish(y, source);
        }
    }

private:
    void spread(const float *line) {
        for (int column = 0; column < columns; ++column)
            for (int i = 0; i < scene.coarse; ++i) known[column * scene.coarse + i] = line[column];
        for (int x = scene.width; x < apart; ++x) known[x] = INFINITY;
    }

    INLINE void paint_vector(const Quad *views, const Between *ways, const int64_t *order, int x, int y,
                             float *picture) {
        const int area = scene.height * scene.width;
        const Floats depth = load<Floats>(known + x);
        Ints missing = depth < INFINITY, from = Ints{} - 1;
        Floats colour[3] = {};
        for (int turn = 0; turn < scene.views && any(missing); ++turn) {
            const int view = int(order[turn]);
            const Seen at = ways[view].seen(load<Floats>(rays + x), ray_of(y), depth);
            Ints taken = missing & (at.x >= 0) & (at.x <= float(scene.width)) & (at.y >= 0) &
                         (at.y <= float(scene.height)) & (at.z > scene.nearest);
            if (!any(taken)) continue;
            Floats found[4];
            look(scene, views + long(view) * area, at.x, at.y, found);
            const Floats off = found[3] - at.z;
            taken &= (off < 0 ? -off : off) <= scene.tolerance * at.z;
            for (int c = 0; c < 3; ++c) colour[c] = taken ? found[c] : colour[c];
            from = taken ? Ints{} + view : from;
            missing &= ~taken;
        }
        for (int c = 0; c < 3; ++c) store_some(picture + c * area, colour[c], 0, least(WIDTH, scene.width - x));
        store(source + x, from);
    }
};

// Pictures (views, 3, area) and depth (views, area) side by side.
void join(const Scene &scene, const float *pictures, const float *depth, Quad *to, Share pixels) {
    const int area = scene.height * scene.width;
    while (pixels.first < pixels.last) {
        const int view = pixels.first / area, last = least(pixels.last, (view + 1) * area);
        const float *red = pictures + 2L * view * area, *green = red + area, *blue = green + area;
        for (int i = pixels.first; i < last; ++i) to[i] = Quad{red[i], green[i], blue[i], depth[i]};
        pixels.first = last;
    }
}

struct Shown {
    float *pictures;    // (cases, wanted, 3, height, width)
    int64_t *source;    // (cases, wanted, height, width), or null
    float *shares;      // (cases, 2, group, wanted / group, cells), or null
};

// What a line of wanted picture `job` is from.
struct Finish {
    const Scene &scene;
    const Shown &shown;
    const int job;

    INLINE void operator()(int y, const int32_t *source) const {
        if (shown.source) {
            int64_t *to = shown.source + (long(job) * scene.height + y) * scene.width;
            for (int x = 0; x < scene.width; ++x) to[x] = source[x];
        }
        if (shown.shares) count(y, source);
    }

    // Shares of cells taken from view 0, and from the others.
    INLINE void count(int y, const int32_t *source) const {
        const int columns = scene.width / scene.cell, cells = columns * (scene.height / scene.cell);
        const int number = job % scene.wanted, groups = scene.wanted / scene.group;
        const long place = (long(job / scene.wanted) * 2 * scene.group + number % scene.group) * groups;
        float *first = shown.shares + (place + number / scene.group) * cells + y / scene.cell * columns;
        float *others = first + long(scene.group) * groups * cells;
        const float one = 1.f / (scene.cell * scene.cell);
        for (int column = 0; column < columns; ++column) {
            int of_first = 0, of_others = 0;
            for (int i = 0; i < scene.cell; ++i) {
                const int view = source[column * scene.cell + i];
                of_first += view == 0, of_others += view > 0;
            }
            first[column] = (y % scene.cell ? first[column] : 0.f) + of_first * one;
            others[column] = (y % scene.cell ? others[column] : 0.f) + of_others * one;
        }
    }
};
}  // namespace

extern "C" int relic_warp(const Scene *given, const float *pictures, const float *depth, const float *rotations,
                          const float *positions, const float *wanted_rotations, const float *wanted_positions,
                          const int64_t *order, float *out, int64_t *source, float *shares) {
    const Scene scene = *given;
    const Shown shown{out, source, shares};
    const int views = scene.views, area = scene.height * scene.width, all = scene.cases * views * area;
    static thread_local Room shared;
    Quad *joined = (Quad *)shared.of(4 * size_t(all));
    if (!joined) return 1;
    bool failed = false;
#pragma omp parallel num_threads(scene.threads) if (scene.threads > 1)
    {
        static thread_local Room room;
        const size_t floats = Painter::floats_needed(scene);
        float *own = room.of(floats + views * sizeof(Between) / sizeof(float));
        if (!own) failed = true;
        join(scene, pictures, depth, joined, Share::of(all, thread_number(), team_size()));
        barrier();
        const Share jobs = Share::of(own ? scene.cases * scene.wanted : 0, thread_number(), team_size());
        Between *back = (Between *)(own + floats);
        for (int job = jobs.first; job < jobs.last; ++job) {
            Painter painter(scene, own);
            const Pose there(wanted_rotations, wanted_positions, job);
            const int known = job / scene.wanted * views;
            painter.clear();
            for (int view = 0; view < views; ++view) {
                const Pose here(rotations, positions, known + view);
                painter.splat_points(Between(scene, here, there, scene.coarse), depth + long(known + view) * area);
                back[view] = Between(scene, there, here, 1);
            }
            painter.paint(joined + long(known) * area, back, order + known, out + 3L * job * area,
                          Finish{scene, shown, job});
        }
    }
    return failed;
}
