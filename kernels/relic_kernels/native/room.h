// Memory that a thread keeps from call to call, so that its pages are there already.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

class Room {
    std::unique_ptr<float, decltype(&std::free)> held{nullptr, &std::free};
    size_t size = 0;

public:
    // At least so many floats, aligned to a cache line, with what was left in them; null where there is no memory.
    float *of(size_t floats) {
        if (floats > size) {
            size = 0;
            held.reset((float *)std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
            if (held) size = floats;
        }
        return held.get();
    }
};
