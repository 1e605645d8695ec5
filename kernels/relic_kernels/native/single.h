// Linear layers of one token, whose features lie side by side: vectors hold neighbouring inputs, since lanes of tokens
// would be empty. What is computed is bound by reading the weights, each once.
#pragma once

#include "products.h"

// Outputs `own` of a layer, WIDTH at once: `use(output, count, values)` gets the number of the first and how many there
// are. `inputs` come out in words, and the first of `own` is a multiple of WIDTH.
template <class T, class Use>
void linear_of_one(const Linear<T> &layer, const uint32_t *x, int inputs, Share own, Use use) {
    constexpr int AHEAD = 2 * WIDTH;    // rows of weights that are asked for before their turn
    const int words = inputs / T::PER_WORD, rest = words % WIDTH;
    for (int first = own.first; first < own.last; first += WIDTH) {
        const int count = least(WIDTH, own.last - first);
        const uint32_t *rows[WIDTH];
        for (int r = 0; r < WIDTH; ++r)
            rows[r] = (const uint32_t *)layer.weight + long(first + least(r, count - 1)) * words;
        Floats sums[WIDTH] = {};
        int k = 0;
        for (; k + WIDTH <= words; k += WIDTH) {
            const Words values = load<Words>(x + k);
            for (int r = 0; r < WIDTH; ++r) {
                __builtin_prefetch(rows[r] + k + long(AHEAD) * words, 0, 2);
                sums[r] = T::dot(sums[r], values, load<Words>(rows[r] + k));
            }
        }
        if (rest) {
            const Words values = (Words)load_some((const float *)x + k, rest);
            for (int r = 0; r < WIDTH; ++r)
                sums[r] = T::dot(sums[r], values, (Words)load_some((const float *)rows[r] + k, rest));
        }
        Words parts[WIDTH];
        for (int r = 0; r < WIDTH; ++r) parts[r] = (Words)sums[r];
        transpose(parts);
        Floats total = {};
        for (int i = 0; i < WIDTH; ++i) total += (Floats)parts[i];
        for (int r = 0; r < count; ++r) total[r] += T::wide(layer.bias[first + r]);
        use(first, count, total);
    }
}

// Numbers side by side -> words; the bounds of `own` are even.
template <class T> void pack_side_by_side(const float *from, Share own, uint32_t *to) {
    for (int word = own.first / T::PER_WORD; word < own.last / T::PER_WORD; word += WIDTH) {
        const int count = least(WIDTH, own.last / T::PER_WORD - word);
        Floats parts[T::PER_WORD] = {};
        for (int i = 0; i < count; ++i)
            for (int j = 0; j < T::PER_WORD; ++j) parts[j][i] = from[(word + i) * T::PER_WORD + j];
        const Words packed = T::pack(parts);
        std::memcpy(to + word, &packed, 4 * count);
    }
}
