// The masks of dropout, with the very bits of the CPU backend.
#pragma once

#include "packed.cuh"

namespace elementwise {

constexpr int SITE_ITEMS = 255; // the dropout site of the item table, beyond those of any model

__device__ __forceinline__ bool quads(const void* p) { return reinterpret_cast<size_t>(p) % 16 == 0; }

// The mask of dropout: sixteen random bits an element, eight elements a Philox block, as `drop_out` of the CPU backend.
// `threshold` is the rate in 1 / 65,536 and `keep` = 65536 / (65536 - threshold), both computed on the host.
struct Mask {
    DropoutClock clock;
    unsigned number; // step within the visit << 8 | site
    unsigned client; // its number in the population
    unsigned threshold;
    float keep;

    // Elements `8 index` to `8 index + 7` of the client.
    __device__ __forceinline__ Philox block(unsigned index) const {
        return philox(clock.key_low, clock.key_high, index, number, clock.round, client);
    }

    __device__ __forceinline__ float scale(const Philox& p, int k) const {
        return (p.word[k / 2] >> (16 * (k % 2)) & 0xffffu) < threshold ? 0.0f : keep;
    }

    // The factor of one element, for threads that do not hold eight neighbours.
    __device__ __forceinline__ float of(unsigned index) const {
        const Philox p = block(index / 8);
        const unsigned k = index % 8, low = k < 2 ? p.word[0] : p.word[1], high = k < 6 ? p.word[2] : p.word[3];
        return ((k < 4 ? low : high) >> (16 * (k % 2)) & 0xffffu) < threshold ? 0.0f : keep;
    }
};

__device__ __forceinline__ Mask mask(const Packed* step, const DropoutClock* clock, int site, int client, unsigned threshold,
                                            float keep) {
    const unsigned number = static_cast<unsigned>(step->number) << 8 | static_cast<unsigned>(site);
    return Mask{clock->own != 0 ? clock[1 + client] : *clock, number, step->client_id[client], threshold, keep};
}

// Multiplies the part `[from, to)` of the eight elements that begin at `x` by the mask; `y` may be `x`.
__device__ __forceinline__ void drop_eight(const Mask& m, unsigned index, const float* x, float* y, int from, int to) {
    const Philox p = m.block(index);
    if (from == 0 && to == 8 && quads(x) && quads(y)) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 v = reinterpret_cast<const float4*>(x)[h];
            reinterpret_cast<float4*>(y)[h] = float4{v.x * m.scale(p, 4 * h), v.y * m.scale(p, 4 * h + 1), v.z * m.scale(p, 4 * h + 2),
                                                     v.w * m.scale(p, 4 * h + 3)};
        }
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (k >= from && k < to) {
            y[k] = x[k] * m.scale(p, k);
        }
    }
}

} // namespace elementwise
