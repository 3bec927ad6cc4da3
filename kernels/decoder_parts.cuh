// How the depth of a decoder's product is cut, and what an output begins with: the same for every tile, so that all have the same bits.
#pragma once

#include "common.cuh"

namespace decoder {

// Numbers of a part of the depth, but for depths that would have more parts than this.
constexpr int PART = 2048, MOST_PARTS = 4;

// Pieces of `depth` numbers, 32 or 64, of one part: up to four equal parts of multiples of 64 numbers.
__device__ __forceinline__ int part_pieces(int ld, int depth) {
    const int parts = min(MOST_PARTS, ceil_div(ld, PART));
    return ceil_div(ceil_div(ld, 64), parts) * 64 / depth;
}

// What the first part of an output begins with.
__device__ __forceinline__ float begun(float sum, const float* bias, int output, const float* at, int add) {
    sum = bias ? sum + bias[output] : sum;
    return add ? *at + sum : sum;
}

} // namespace decoder
