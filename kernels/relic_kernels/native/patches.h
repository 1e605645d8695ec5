// Pictures whose tokens are patches of `side` x `side` cells, `columns` of them beside each other.
#pragma once

#include "lanes.h"

struct Patches {
    int tokens, columns, side;

    int area() const { return side * side; }

    // Calls visit(token, place) for the tokens: `place` is where, in a picture, a channel's cell of the patch lies.
    template <class Visit> INLINE void cells(int channel, int y, int x, Visit visit) const {
        const int width = columns * side, rows = tokens / columns;
        for (int token = 0, row = 0; row < rows; ++row)
            for (int column = 0; column < columns; ++column, ++token)
                visit(token, ((channel * rows + row) * side + y) * long(width) + column * side + x);
    }

    // A row of the patches' numbers, (channels, side, side) of a picture; lanes without a token are 0.
    INLINE void take(const float *picture, int row, float *to) const {
        std::memset(to, 0, sizeof(float) * LANES);
        cells(row / area(), row / side % side, row % side, [&](int lane, long place) { to[lane] = picture[place]; });
    }
};
