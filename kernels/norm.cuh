// Layer norm of one row, by one warp, and parts of the gradients of its weights: see norm.cu.
#pragma once

#include "packed.cuh"

namespace row_norm {

constexpr float EPS = 1e-5f; // `backend::cpu::rows::NORM_EPS`
constexpr int KEPT = 4;      // numbers of a row that a lane keeps in registers: rows up to 128 wide are read once
constexpr int GROUPS = 8;    // warps of a block of weight gradients

// One row, spread over the lanes of a warp: lane `l` has columns l, l + 32, and so on.
struct Row {
    const float* p;
    int width;
    int lane;
    float kept[KEPT];

    __device__ __forceinline__ Row(const float* row, int columns) : p(row), width(columns), lane(lane_index()) {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            kept[j] = lane + 32 * j < width ? p[lane + 32 * j] : 0.0f;
        }
    }

    // Calls `f(column, value)` for the lane's columns in ascending order.
    template <class F>
    __device__ __forceinline__ void each(const F& f) const {
        with(*this, [&](int k, float v, float) { f(k, v); });
    }

    // Calls `f(column, value, value of other)` likewise.
    template <class F>
    __device__ __forceinline__ void with(const Row& other, const F& f) const {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            if (lane + 32 * j < width) {
                f(lane + 32 * j, kept[j], other.kept[j]);
            }
        }
        for (int k = lane + 32 * KEPT; k < width; k += 32) {
            f(k, p[k], other.p[k]);
        }
    }
};

// `y = (x - mean) / sqrt(variance + eps) * gain + bias` of one row, by a warp; `stats [2]` gets the mean and the factor.
__device__ __forceinline__ void normalise(const float* x, int width, const float* gain, const float* bias, float* y, float* stats) {
    const Row row(x, width);
    float sum = 0.0f;
    row.each([&](int, float v) { sum += v; });
    const float mean = warp_sum(sum) / width;
    // Around the mean, because the difference of two sums of squares would cancel.
    float squares = 0.0f;
    row.each([&](int, float v) { squares += (v - mean) * (v - mean); });
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / width + EPS);
    row.each([&](int k, float v) { y[k] = (v - mean) * rstd * gain[k] + bias[k]; });
    if (row.lane == 0) {
        stats[0] = mean;
        stats[1] = rstd;
    }
}

// Calls `put(column, gradient of x)` for each column of this lane; a warp a row.
template <class F>
__device__ __forceinline__ void slope_of_input(const float* x, const float* stats, int width, const float* gain, const float* dy,
                                               const F& put) {
    const Row row(x, width), slope(dy, width);
    const float mean = stats[0], rstd = stats[1];
    float plain = 0.0f, along = 0.0f;
    row.with(slope, [&](int k, float v, float dv) {
        plain += dv * gain[k];
        along += dv * gain[k] * ((v - mean) * rstd);
    });
    plain = warp_sum(plain) / width;
    along = warp_sum(along) / width;
    row.with(slope, [&](int k, float v, float dv) { put(k, (dv * gain[k] - plain - (v - mean) * rstd * along) * rstd); });
}

// Sums of column `k` over rows first, first + GROUPS, ... below `end`: a part of the gradients of gain and bias.
__device__ __forceinline__ void weight_part(const float* x, const float* stats, const float* dy, int width, int k, int first, int end,
                                            float& dg, float& db) {
    dg = 0.0f;
    db = 0.0f;
#pragma unroll 4
    for (int r = first; r < end; r += GROUPS) {
        const long long at = static_cast<long long>(r) * width + k;
        const float mean = stats[2 * static_cast<long long>(r)], rstd = stats[2 * static_cast<long long>(r) + 1];
        dg += dy[at] * ((x[at] - mean) * rstd);
        db += dy[at];
    }
}

} // namespace row_norm
