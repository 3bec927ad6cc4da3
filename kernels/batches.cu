// Mini-batches of a participant with many sequences: the gradients of their parts, which are the clients of a launch, become one
// gradient in 64-bit fixed point, as `engine::fixed::add_gradient`, and the optimiser takes one step on all of the participant's weights.
// Integers have no order, so the sums have the same bits for any cutting of a mini-batch into launches.
#include "dropout.cuh"
#include "optimiser.cuh"

constexpr double GRADIENT_SCALE = 1099511627776.0; // steps in 1.0
constexpr float GRADIENT_LIMIT = 256.0f;           // largest gradient of one weight from one part
constexpr unsigned NOT_REFUSED = 0xffffffffu;

// `share * g` in fixed point, rounded to nearest even; `fine` is cleared where it is not finite or too large.
__device__ __forceinline__ long long fixed_gradient(float g, float share, bool* fine) {
    const float part = __fmul_rn(share, g);
    if (!(fabsf(part) <= GRADIENT_LIMIT)) {
        *fine = false;
        return 0;
    }
    return __double2ll_rn(static_cast<double>(part) * GRADIENT_SCALE);
}

// sums[i] += sum over parts c of share[c] * g[c][i]. A gradient that is not finite or beyond the limit lowers *refused to `number`; the
// sums are then of no use.
//
// g `[parts, stride]` f32, share `[parts]` f32, sums `[length]` i64. A thread adds its element over all parts in a register. Grid:
// ceil(length / 256) blocks of 256; shared memory: none. Bit-reproducible. Bytes: 4 parts P + 16 P; operations: 3 parts P, one of
// them in double.
extern "C" __global__ void __launch_bounds__(256)
    add_gradients(const float* g, const float* share, int parts, long long stride, int length, long long* sums, unsigned number,
                  unsigned* refused) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) {
        return;
    }
    long long sum = 0;
    bool fine = true;
    for (int c = 0; c < parts; c++) {
        sum += fixed_gradient(g[c * stride + i], share[c], &fine);
    }
    sums[i] += sum;
    if (!fine) {
        atomicMin(refused, number);
    }
}
EXPORT_KERNEL(add_gradients)

// sums[item[r]] += share of r's part * g[r] for every item row r of every part; refusals as in add_gradients.
//
// g `[R, d]` f32, item `[R]` i32, part_rows `[parts + 1]` i32, share `[parts]` f32, sums `[I, d]` i64. One warp a row. Grid: (parts,
// blocks) blocks of 128: the warps of a part's blocks go round its rows; shared memory: none. Bit-reproducible. Bytes: 4 R d read, 16 R d
// atomically; operations: 3 R d, one of them in double.
extern "C" __global__ void __launch_bounds__(128)
    add_row_gradients(const float* g, const int* item, const int* part_rows, const float* share, int parts, int d, long long* sums,
                      unsigned number, unsigned* refused) {
    const int part = blockIdx.x;
    if (part >= parts) {
        return;
    }
    const float own = share[part];
    bool fine = true;
    for (int r = part_rows[part] + blockIdx.y * warp_count() + warp_index(); r < part_rows[part + 1]; r += gridDim.y * warp_count()) {
        const float* row = g + static_cast<long long>(r) * d;
        long long* to = sums + static_cast<long long>(item[r]) * d;
        for (int k = lane_index(); k < d; k += 32) {
            const long long value = fixed_gradient(row[k], own, &fine);
            if (value != 0) {
                atomicAdd(reinterpret_cast<unsigned long long*>(to + k), static_cast<unsigned long long>(value));
            }
        }
    }
    if (!fine) {
        atomicMin(refused, number);
    }
}
EXPORT_KERNEL(add_row_gradients)

// g[i] = factor * sums[i] as a number, and sums[i] = 0 for the next mini-batch.
//
// sums `[n]` i64, g `[n]` f32. Any grid of blocks of 256; shared memory: none. Bit-reproducible. Bytes: 20 n; operations: 2 n, one of them
// in double.
extern "C" __global__ void __launch_bounds__(256) take_gradients(long long* sums, float factor, float* g, long long n) {
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
         i += static_cast<long long>(gridDim.x) * blockDim.x) {
        g[i] = __fmul_rn(factor, static_cast<float>(static_cast<double>(sums[i]) / GRADIENT_SCALE));
        sums[i] = 0;
    }
}
EXPORT_KERNEL(take_gradients)

// The mask of dropout on a whole item table: y = x times the mask of step `number` of the participant `client`. `y` may be `x`.
//
// x, y `[n]` f32. Any grid of blocks of 256; shared memory: none. Bit-reproducible. Bytes: 8 n; operations: n, and a Philox block for
// eight elements.
extern "C" __global__ void __launch_bounds__(256)
    drop_table(DropoutClock clock, unsigned number, unsigned client, unsigned threshold, float keep, const float* x, float* y, long long n) {
    const elementwise::Mask m{clock, number << 8 | elementwise::SITE_ITEMS, client, threshold, keep};
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; 8 * i < n;
         i += static_cast<long long>(gridDim.x) * blockDim.x) {
        const long long left = n - 8 * i;
        elementwise::drop_eight(m, static_cast<unsigned>(i), x + 8 * i, y + 8 * i, 0, left < 8 ? static_cast<int>(left) : 8);
    }
}
EXPORT_KERNEL(drop_table)

// squares[b] = the sum of squares of elements `b * span` to `(b + 1) * span` of `g`, in double: thread t adds elements t, t + 256, ... of
// the span, then threads in a fixed order.
//
// g `[n]` f32, squares `[ceil(n / span)]` f64. One block of 256 a span; shared memory: 256 bytes (32 doubles). Bit-reproducible. Bytes: 4 n;
// operations: 2 n in double.
extern "C" __global__ void __launch_bounds__(256) gradient_squares(const float* g, long long n, int span, double* squares) {
    LUMOS_SHARED(double, scratch);
    const long long first = static_cast<long long>(blockIdx.x) * span, last = min(n, first + span);
    double sum = 0.0;
    for (long long i = first + threadIdx.x; i < last; i += blockDim.x) {
        const double x = static_cast<double>(g[i]);
        sum += x * x;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        squares[blockIdx.x] = sum;
    }
}
EXPORT_KERNEL(gradient_squares)

// *scale = min(1, clip / norm), the norm being the root of the sum of `squares`.
//
// squares `[count]` f64, scale `[1]` f32. One block of 256; shared memory: 256 bytes (32 doubles). Bit-reproducible. Bytes: 8 count;
// operations: count in double.
extern "C" __global__ void __launch_bounds__(256) clip_factor(const double* squares, int count, float clip, float* scale) {
    LUMOS_SHARED(double, scratch);
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        sum += squares[i];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        const double norm = sqrt(sum);
        *scale = norm > static_cast<double>(clip) ? static_cast<float>(static_cast<double>(clip) / norm) : 1.0f;
    }
}
EXPORT_KERNEL(clip_factor)

// One step of the local optimiser on `n` weights with their gradients times *scale (null: 1). Nothing moves once a mini-batch is refused.
//
// p, m, s, g, start `[n]` f32, the last where the visit began; moments are read and written, but for gradient descent. Any grid of blocks of 256; shared memory: none.
// Bit-reproducible. Bytes: 28 n (12 n for gradient descent); operations: about 14 n.
extern "C" __global__ void __launch_bounds__(256)
    step_span(OptimiserStep opt, const float* scale, const unsigned* refused, float* p, float* m, float* s, const float* g,
              const float* start, long long n) {
    if (*refused != NOT_REFUSED) {
        return;
    }
    const float factor = scale == nullptr ? 1.0f : *scale;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
         i += static_cast<long long>(gridDim.x) * blockDim.x) {
        adam_one(opt, factor, opt.first != 0, p + i, m + i, s + i, g[i]);
        pull_back(opt, p + i, start + i);
    }
}
EXPORT_KERNEL(step_span)
