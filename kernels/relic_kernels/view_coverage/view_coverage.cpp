// How much of a wanted picture views' points show: see README.md.
#include "../native/room.h"
#include "../native/rows.h"

extern "C" {
struct CoverageSizes {
    int32_t views, points, rows, columns;
    float fx, fy, cx, cy, nearest, closest;
};

struct WantedPose {
    float rotation[3][3], position[3];
};
}

namespace {

struct Distance {
    Floats from[3];
    // To points (3, count), of which `some` from `first` on are there.
    Distance(const float *points, int count, int first, int some, const float *place) {
        for (int i = 0; i < 3; ++i) from[i] = load_some(points + long(i) * count + first, some) - place[i];
    }
    Floats length() const { return square_root(from[0] * from[0] + from[1] * from[1] + from[2] * from[2]); }
    Floats along(const float *axis) const { return axis[0] * from[0] + axis[1] * from[1] + axis[2] * from[2]; }
};

// The best quality in each cell, the last one for points that fall outside.
void take(const CoverageSizes &sizes, const WantedPose &wanted, const float *points, const float *place, float *cells) {
    for (int first = 0; first < sizes.points; first += WIDTH) {
        const int some = least(WIDTH, sizes.points - first);
        const Distance here(points, sizes.points, first, some, wanted.position);
        const Distance taken(points, sizes.points, first, some, place);
        const Floats z = here.along(wanted.rotation[2]), near = larger(z, splat(sizes.nearest));
        const Floats x = here.along(wanted.rotation[0]) / near * sizes.fx + sizes.cx;
        const Floats y = here.along(wanted.rotation[1]) / near * sizes.fy + sizes.cy;
        const Ints inside = (x >= 0) & (x < float(sizes.columns)) & (y >= 0) & (y < float(sizes.rows)) & (z > 0);
        const Ints cell = __builtin_convertvector(inside ? y : Floats{}, Ints) * sizes.columns +
                          __builtin_convertvector(inside ? x : Floats{}, Ints);
        int32_t places[WIDTH];
        float qualities[WIDTH];
        store(places, inside ? cell : Ints{} + sizes.rows * sizes.columns);
        store(qualities, smaller(here.length() / larger(taken.length(), splat(sizes.closest)), splat(1)));
        for (int i = 0; i < some; ++i) {
            float &best = cells[places[i]];
            best = qualities[i] > best ? qualities[i] : best;
        }
    }
}
}  // namespace

extern "C" int relic_view_coverage(const CoverageSizes *given, const WantedPose *wanted, const float *const *points,
                                   const float *const *positions, float *shares) {
    static thread_local Room room;
    const int count = given->rows * given->columns;
    float *cells = room.of(count + 1);
    if (!cells) return 1;
    for (int view = 0; view < given->views; ++view) {
        std::memset(cells, 0, sizeof(float) * (count + 1));
        take(*given, *wanted, points[view], positions[view], cells);
        float sum = 0;
        for (int i = 0; i < count; ++i) sum += cells[i];
        shares[view] = sum / count;
    }
    return 0;
}
