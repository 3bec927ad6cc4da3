// Layer norm over the rows of an activation `[rows, width]`, rows of either kind, with each client's own gain `g [width]` and
// bias `b [width]`. `stats [rows, 2]` keeps each row's mean and 1 / sqrt(variance + eps) for the backward pass.
#include "norm.cuh"

namespace row_norm {

// The row of this warp; blocks have `blockDim.x / 32` warps.
__device__ __forceinline__ int warp_row() { return blockIdx.x * warp_count() + warp_index(); }

} // namespace row_norm

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
    const float* own = dense + set.client[r] * stride;
    row_norm::normalise(x + at, width, own + g, own + b, y + at, stats + 2 * static_cast<long long>(r));
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
    const float* gain = dense + set.client[r] * stride + g;
    row_norm::slope_of_input(x + at, stats + 2 * static_cast<long long>(r), width, gain, dy + at,
                             [&](int k, float v) { dx[at + k] += v; });
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
        row_norm::weight_part(x, stats, dy, width, k, set.bounds[blockIdx.x] + warp, end, dg, db);
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
