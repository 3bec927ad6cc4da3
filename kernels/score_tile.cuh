// A tile of dot products in registers: 16 rows of one matrix against 128 rows of another, for losses over whole catalogues
// and batches whose score matrix is never stored.
#pragma once

#include "packed.cuh"

constexpr int SCORE_THREADS = 128;
constexpr int SCORE_LEFT = 16;                  // rows of the left side: four a warp
constexpr int SCORE_RIGHT = 128;                // rows of the right side: four a lane
constexpr int SCORE_K = 32;                     // columns staged at a time
constexpr int SCORE_LEFT_PITCH = SCORE_LEFT + 4;
constexpr int SCORE_RIGHT_PITCH = SCORE_RIGHT + 4;
constexpr int SCORE_SHARED = SCORE_K * (SCORE_LEFT_PITCH + SCORE_RIGHT_PITCH); // floats

// scores[a][b] = left(4 * warp + a) . right[4 * lane + b], columns in order. `left(i)` is a pointer to a row of d numbers or
// null, which stands for zeros, as do right rows from `count` on. `stage` holds SCORE_SHARED floats of shared memory. All
// threads of a block of SCORE_THREADS call this together; between two calls there is a barrier.
template <class Left>
__device__ void score_tile(const Left& left, const float* right, int count, int d, float* stage, float (&scores)[4][4]) {
    float* left_stage = stage;                              // [k, 16]
    float* right_stage = stage + SCORE_K * SCORE_LEFT_PITCH; // [k, 128]
    const int lane = lane_index(), warp = warp_index();
#pragma unroll
    for (int a = 0; a < 4; a++) {
#pragma unroll
        for (int b = 0; b < 4; b++) {
            scores[a][b] = 0.0f;
        }
    }
    for (int k0 = 0; k0 < d; k0 += SCORE_K) {
        const int k = k0 + lane;
        __syncthreads();
#pragma unroll
        for (int i = warp; i < SCORE_LEFT; i += SCORE_THREADS / 32) {
            const float* row = left(i);
            left_stage[lane * SCORE_LEFT_PITCH + i] = row != nullptr && k < d ? row[k] : 0.0f;
        }
#pragma unroll 8
        for (int j = warp; j < SCORE_RIGHT; j += SCORE_THREADS / 32) {
            right_stage[lane * SCORE_RIGHT_PITCH + j] = j < count && k < d ? right[static_cast<long long>(j) * d + k] : 0.0f;
        }
        __syncthreads();
        const int columns = min(SCORE_K, d - k0);
#pragma unroll 8
        for (int i = 0; i < columns; i++) {
            const float4 x = *reinterpret_cast<const float4*>(left_stage + i * SCORE_LEFT_PITCH + 4 * warp);
            const float4 y = *reinterpret_cast<const float4*>(right_stage + i * SCORE_RIGHT_PITCH + 4 * lane);
            const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int a = 0; a < 4; a++) {
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    scores[a][b] = fmaf(xs[a], ys[b], scores[a][b]);
                }
            }
        }
    }
}

// sums[a][c] += weights[j][a] * right[j][k0 + 32 * c + lane] over rows j in order, for the four left rows of this warp.
// `weights` [128, 4] are the warp's own, in shared memory.
__device__ __forceinline__ void score_mix(const float4* weights, const float* right, int count, int d, int k0, float (&sums)[4][4]) {
    const int lane = lane_index();
#pragma unroll 2
    for (int j = 0; j < count; j++) {
        const float4 w = weights[j];
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int k = k0 + 32 * c + lane;
            if (k < d) {
                const float x = right[static_cast<long long>(j) * d + k];
                sums[0][c] = fmaf(w.x, x, sums[0][c]);
                sums[1][c] = fmaf(w.y, x, sums[1][c]);
                sums[2][c] = fmaf(w.z, x, sums[2][c]);
                sums[3][c] = fmaf(w.w, x, sums[3][c]);
            }
        }
    }
}

// The log of a sum of exponentials, built up a score at a time.
struct LogSum {
    float max = -INFINITY;
    float sum = 0.0f; // of exp(score - max); 0 before the first

    // A NaN score is not below the maximum and makes `sum` NaN for good.
    __device__ __forceinline__ void add(float score) {
        if (score <= max) {
            sum += expf(score - max);
        } else {
            sum = sum * expf(max - score) + 1.0f;
            max = score;
        }
    }
    __device__ __forceinline__ void merge(float other_max, float other_sum) {
        const float top = fmaxf(max, other_max);
        sum = (sum == 0.0f ? 0.0f : sum * expf(max - top)) + (other_sum == 0.0f ? 0.0f : other_sum * expf(other_max - top));
        max = top;
    }
    // Over the lanes of a warp, in a fixed order.
    __device__ __forceinline__ void reduce() {
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) {
            const float other_max = __shfl_xor_sync(FULL_WARP, max, o), other_sum = __shfl_xor_sync(FULL_WARP, sum, o);
            merge(other_max, other_sum);
        }
    }
    __device__ __forceinline__ float value() const {
        return max + logf(sum);
    }
};
