// Layer norm over the rows of an activation `[rows, width]`, rows of either kind, with each client's own gain `g [width]` and
// bias `b [width]`. `stats [rows, 2]` keeps each row's mean and 1 / sqrt(variance + eps) for the backward pass.
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

// The row of this warp; blocks have `blockDim.x / 32` warps.
__device__ __forceinline__ int warp_row() { return blockIdx.x * warp_count() + warp_index(); }

} // namespace norm

// `y = (x - mean) / sqrt(variance + eps) * g + b`, a warp a row.
//
// Launch: grid (ceil(rows of the largest step / 8)), 256 threads (any multiple of 32 will do, with rows / warps blocks), no
// shared memory. Bit-reproducible. Bytes: 8 rows width + 8 C width + 8 rows; operations: about 8 rows width.
extern "C" __global__ void __launch_bounds__(256) layer_norm(const Packed* step, int kind, const float* x, int width, const float* dense,
                                                             long long stride, int g, int b, float* y, float* stats) {
    const RowSet set = row_set(step, kind);
    const int r = row_norm::warp_row();
    if (r >= set.count) {
        return;
    }
    const long long at = static_cast<long long>(r) * width;
    const row_norm::Row row(x + at, width);
    const float* own = dense + set.client[r] * stride;
    float sum = 0.0f;
    row.each([&](int, float v) { sum += v; });
    const float mean = warp_sum(sum) / width;
    // Around the mean, because the difference of two sums of squares would cancel.
    float squares = 0.0f;
    row.each([&](int, float v) { squares += (v - mean) * (v - mean); });
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / width + row_norm::EPS);
    row.each([&](int k, float v) { y[at + k] = (v - mean) * rstd * own[g + k] + own[b + k]; });
    if (row.lane == 0) {
        stats[2 * static_cast<long long>(r)] = mean;
        stats[2 * static_cast<long long>(r) + 1] = rstd;
    }
}
EXPORT_KERNEL(layer_norm)

// Adds the gradient of `x` to `dx`, a warp a row. With h the normalised row and e = dy * g:
// `dx += (e - mean(e) - h mean(e h)) / sqrt(variance + eps)`.
//
// Launch: as layer_norm. Bit-reproducible. Bytes: 16 rows width + 4 C width + 8 rows; operations: about 11 rows width.
extern "C" __global__ void __launch_bounds__(256) layer_norm_backward(const Packed* step, int kind, const float* x, const float* stats,
                                                                      int width, const float* dense, long long stride, int g,
                                                                      const float* dy, float* dx) {
    const RowSet set = row_set(step, kind);
    const int r = row_norm::warp_row();
    if (r >= set.count) {
        return;
    }
    const long long at = static_cast<long long>(r) * width;
    const row_norm::Row row(x + at, width), slope(dy + at, width);
    const float* gain = dense + set.client[r] * stride + g;
    const float mean = stats[2 * static_cast<long long>(r)], rstd = stats[2 * static_cast<long long>(r) + 1];
    float plain = 0.0f, along = 0.0f;
    row.with(slope, [&](int k, float v, float dv) {
        plain += dv * gain[k];
        along += dv * gain[k] * ((v - mean) * rstd);
    });
    plain = warp_sum(plain) / width;
    along = warp_sum(along) / width;
    row.with(slope, [&](int k, float v, float dv) { dx[at + k] += (dv * gain[k] - plain - (v - mean) * rstd * along) * rstd; });
}
EXPORT_KERNEL(layer_norm_backward)

// Gradients of gain and bias over each client's rows, written to `grad + c * stride` at `g` and `b`; zeros for a client
// without rows. Warp `w` of a block sums the client's rows w, w + 8, ... in ascending order, then the eight sums are added in
// order of the warps.
//
// Launch: grid (C of the largest step, ceil(width / 32)), 256 threads, 2,048 bytes of shared memory. Bit-reproducible.
// Bytes: 8 rows width + 8 rows + 8 C width; operations: 5 rows width.
extern "C" __global__ void __launch_bounds__(256) layer_norm_weight(const Packed* step, int kind, const float* x, const float* stats,
                                                                    int width, const float* dy, float* grad, long long stride, int g,
                                                                    int b) {
    if (static_cast<int>(blockIdx.x) >= step->clients) {
        return;
    }
    LUMOS_SHARED(float, sums);
    const RowSet set = row_set(step, kind);
    const int lane = lane_index(), warp = warp_index(), k = blockIdx.y * 32 + lane;
    const int end = set.bounds[blockIdx.x + 1];
    float dg = 0.0f, db = 0.0f;
    if (k < width) {
#pragma unroll 4
        for (int r = set.bounds[blockIdx.x] + warp; r < end; r += row_norm::GROUPS) {
            const long long at = static_cast<long long>(r) * width + k;
            const float mean = stats[2 * static_cast<long long>(r)], rstd = stats[2 * static_cast<long long>(r) + 1];
            dg += dy[at] * ((x[at] - mean) * rstd);
            db += dy[at];
        }
    }
    sums[threadIdx.x] = dg;
    sums[threadIdx.x + 32 * row_norm::GROUPS] = db;
    __syncthreads();
    if (warp < 2 && k < width) {
        const float* own = sums + warp * 32 * row_norm::GROUPS + lane;
        float total = 0.0f;
        for (int i = 0; i < row_norm::GROUPS; i++) {
            total += own[32 * i];
        }
        grad[blockIdx.x * stride + (warp == 0 ? g : b) + k] = total;
    }
}
EXPORT_KERNEL(layer_norm_weight)
