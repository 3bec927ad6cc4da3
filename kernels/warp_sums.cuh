// Several sums over a warp at once, for kernels whose lanes hold parts of many short products.
#pragma once

#include "common.cuh"

// Sums four numbers over the warp: lane `l` gets the sum of number `l % 4`. While lanes differ in which number they will keep,
// each passes on the ones it gives up, so that four sums take six shuffles instead of twenty. The order is fixed.
__device__ __forceinline__ float warp_sum_four(float a, float b, float c, float d) {
    const bool odd = lane_index() & 1, high = lane_index() & 2;
    const float low_pair = (odd ? b : a) + __shfl_xor_sync(FULL_WARP, odd ? a : b, 1);
    const float high_pair = (odd ? d : c) + __shfl_xor_sync(FULL_WARP, odd ? c : d, 1);
    float sum = (high ? high_pair : low_pair) + __shfl_xor_sync(FULL_WARP, high ? low_pair : high_pair, 2);
    for (int o = 4; o < 32; o <<= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    return sum;
}
