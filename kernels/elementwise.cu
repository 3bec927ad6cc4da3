// Operations on single elements of activations `[rows, width]`, float32, rows of either kind, and dropout.
//
// Grids here are any size: blocks walk over what is there, grid-stride, so that one launch shape serves every step. Four
// elements a thread where the arrays begin at multiples of 16 bytes. Each element is written by one thread from its own
// inputs: everything is bit-reproducible. Nothing uses shared memory.
#include "dropout.cuh"

namespace elementwise {

__device__ __forceinline__ long long first_index() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long grid_stride() { return static_cast<long long>(gridDim.x) * blockDim.x; }

__device__ __forceinline__ long long elements(const Packed* step, int kind, int width) {
    return static_cast<long long>(kind == TOKENS ? step->tokens : step->outputs) * width;
}

// `y[i] = f(x[i], y[i])` over `n` elements; `x` and `y` may be the same array.
template <class F>
__device__ __forceinline__ void map(const float* x, float* y, long long n, const F& f) {
    long long done = 0;
    if (quads(x) && quads(y)) {
        done = n / 4 * 4;
        for (long long i = first_index(); i < n / 4; i += grid_stride()) {
            const float4 a = reinterpret_cast<const float4*>(x)[i], b = reinterpret_cast<const float4*>(y)[i];
            reinterpret_cast<float4*>(y)[i] = float4{f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)};
        }
    }
    for (long long i = done + first_index(); i < n; i += grid_stride()) {
        y[i] = f(x[i], y[i]);
    }
}

// Calls `f(row, part)` for `parts` parts of each of `rows` rows. Divides 32-bit numbers where they suffice: four times as fast.
template <class F>
__device__ __forceinline__ void each_part(int rows, int parts, const F& f) {
    const long long n = static_cast<long long>(rows) * parts;
    if (n < 1ll << 31 && grid_stride() < 1ll << 31) {
        const unsigned stride = static_cast<unsigned>(grid_stride()), across = static_cast<unsigned>(parts);
        for (unsigned i = static_cast<unsigned>(first_index()); i < static_cast<unsigned>(n); i += stride) {
            f(static_cast<int>(i / across), static_cast<int>(i % across));
        }
    } else {
        for (long long i = first_index(); i < n; i += grid_stride()) {
            f(static_cast<int>(i / parts), static_cast<int>(i % parts));
        }
    }
}

// The item rows of one client, `[rows of the client, d]`: block `(c, i)` takes every `gridDim.y`-th stretch of client `c`.
// A client's elements lie together, so eights never span two clients.
__device__ __forceinline__ void drop_rows(const Packed* step, unsigned threshold, float keep, const DropoutClock* clock, const float* x,
                                          float* y, int d) {
    const int c = blockIdx.x;
    if (c >= step->clients) {
        return;
    }
    const Mask m = mask(step, clock, SITE_ITEMS, c, threshold, keep);
    const long long base = static_cast<long long>(step->client_rows[c]) * d;
    const long long n = static_cast<long long>(step->client_rows[c + 1]) * d - base;
    for (long long i = static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x; 8 * i < n;
         i += static_cast<long long>(gridDim.y) * blockDim.x) {
        const long long left = n - 8 * i;
        drop_eight(m, static_cast<unsigned>(i), x + base + 8 * i, y + base + 8 * i, 0, left < 8 ? static_cast<int>(left) : 8);
    }
}

// Gelu in its tanh form is `x` times sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). No overflow: the exponential of a large
// argument is infinite and its share 0.
__device__ __forceinline__ float gelu_share(float x) { return 1.0f / (1.0f + expf(-1.5957691f * x * fmaf(0.044715f, x * x, 1.0f))); }

} // namespace elementwise

// `x = max(x, 0)`; a NaN becomes 0.
//
// Launch: any grid (G), 256 threads. Bytes: 8 rows width; operations: rows width.
extern "C" __global__ void __launch_bounds__(256) relu(const Packed* step, int kind, float* x, int width) {
    elementwise::map(x, x, elementwise::elements(step, kind, width), [](float v, float) { return v > 0.0f ? v : 0.0f; });
}
EXPORT_KERNEL(relu)

// Zeroes `dx` where the activation `y` is not positive.
//
// Launch: any grid (G), 256 threads. Bytes: 12 rows width; operations: rows width.
extern "C" __global__ void __launch_bounds__(256) relu_backward(const Packed* step, int kind, const float* y, float* dx, int width) {
    elementwise::map(y, dx, elementwise::elements(step, kind, width), [](float v, float g) { return v > 0.0f ? g : 0.0f; });
}
EXPORT_KERNEL(relu_backward)

// `y = gelu(x)` in its tanh form; `x` is kept.
//
// Launch: any grid (G), 256 threads. Bytes: 8 rows width; operations: about 12 rows width.
extern "C" __global__ void __launch_bounds__(256) gelu(const Packed* step, int kind, const float* x, float* y, int width) {
    elementwise::map(x, y, elementwise::elements(step, kind, width), [](float v, float) { return v * elementwise::gelu_share(v); });
}
EXPORT_KERNEL(gelu)

// `dx *= gelu'(x)`: with s = sigmoid(2 u), s + x s (1 - s) (2 u)'.
//
// Launch: any grid (G), 256 threads. Bytes: 12 rows width; operations: about 20 rows width.
extern "C" __global__ void __launch_bounds__(256) gelu_backward(const Packed* step, int kind, const float* x, float* dx, int width) {
    elementwise::map(x, dx, elementwise::elements(step, kind, width), [](float v, float g) {
        const float s = elementwise::gelu_share(v);
        return g * fmaf(v * s * (1.0f - s), 1.5957691f * fmaf(0.134145f, v * v, 1.0f), s);
    });
}
EXPORT_KERNEL(gelu_backward)

// `y += x`.
//
// Launch: any grid (G), 256 threads. Bytes: 12 rows width; operations: rows width.
extern "C" __global__ void __launch_bounds__(256) add(const Packed* step, int kind, const float* x, float* y, int width) {
    elementwise::map(x, y, elementwise::elements(step, kind, width), [](float v, float w) { return v + w; });
}
EXPORT_KERNEL(add)

// `y += factor / n x`, `n` the client's rows: what a mean over the client's rows adds to each of them.
//
// Launch: any grid (G), 256 threads. Bytes: 12 rows width; operations: 2 rows width.
extern "C" __global__ void __launch_bounds__(256) add_mean(const Packed* step, int kind, float factor, const float* x, float* y, int width) {
    const RowSet set = row_set(step, kind);
    elementwise::each_part(set.count, width, [&](int row, int k) {
        const int c = set.client[row];
        const long long i = static_cast<long long>(row) * width + k;
        y[i] = fmaf(factor / static_cast<float>(set.bounds[c + 1] - set.bounds[c]), x[i], y[i]);
    });
}
EXPORT_KERNEL(add_mean)

// `y = x`.
//
// Launch: any grid (G), 256 threads. Bytes: 8 rows width.
extern "C" __global__ void __launch_bounds__(256) copy(const Packed* step, int kind, const float* x, float* y, int width) {
    elementwise::map(x, y, elementwise::elements(step, kind, width), [](float v, float) { return v; });
}
EXPORT_KERNEL(copy)

// `x = 0`.
//
// Launch: any grid (G), 256 threads. Bytes: 4 rows width.
extern "C" __global__ void __launch_bounds__(256) zero(const Packed* step, int kind, float* x, int width) {
    elementwise::map(x, x, elementwise::elements(step, kind, width), [](float, float) { return 0.0f; });
}
EXPORT_KERNEL(zero)

// `y[q] = x[out_token[q]]`, from `[T, width]` to `[Q, width]`.
//
// Launch: any grid (G), 256 threads. Bytes: 8 Q width + 4 Q.
extern "C" __global__ void __launch_bounds__(256) select_rows(const Packed* step, const float* x, float* y, int width) {
    using namespace elementwise;
    const auto at = [=](int row, int k) { return static_cast<long long>(row) * width + k; };
    if (width % 4 == 0 && quads(x) && quads(y)) {
        each_part(step->outputs, width / 4, [&](int q, int k) {
            *reinterpret_cast<float4*>(y + at(q, 4 * k)) = *reinterpret_cast<const float4*>(x + at(step->out_token[q], 4 * k));
        });
    } else {
        each_part(step->outputs, width, [&](int q, int k) { y[at(q, k)] = x[at(step->out_token[q], k)]; });
    }
}
EXPORT_KERNEL(select_rows)

// `dx[out_token[q]] += dy[q]`. A token is an output at most once, so no two threads meet.
//
// Launch: any grid (G), 256 threads. Bytes: 12 Q width + 4 Q; operations: Q width.
extern "C" __global__ void __launch_bounds__(256) select_rows_backward(const Packed* step, const float* dy, float* dx, int width) {
    using namespace elementwise;
    const auto at = [=](int row, int k) { return static_cast<long long>(row) * width + k; };
    if (width % 4 == 0 && quads(dy) && quads(dx)) {
        each_part(step->outputs, width / 4, [&](int q, int k) {
            const float4 g = *reinterpret_cast<const float4*>(dy + at(q, 4 * k));
            float4* to = reinterpret_cast<float4*>(dx + at(step->out_token[q], 4 * k));
            const float4 v = *to;
            *to = float4{v.x + g.x, v.y + g.y, v.z + g.z, v.w + g.w};
        });
    } else {
        each_part(step->outputs, width, [&](int q, int k) { dx[at(step->out_token[q], k)] += dy[at(q, k)]; });
    }
}
EXPORT_KERNEL(select_rows_backward)

// Inverted dropout in place: each element times 0 or `keep`, by the bits of the CPU backend. An element's index counts from
// the client's first element, `(row - first row of the client) * width + column`. Values going forward and gradients coming
// back meet the same mask for the same site and step.
//
// A thread takes the part of eight elements that lies in one row. Where the width is no multiple of 8 an eight may span two
// rows; both parts then draw the same block.
//
// Launch: any grid (G), 256 threads. Bytes: 8 rows width; operations: about 8 integer ones an element.
extern "C" __global__ void __launch_bounds__(256) dropout(const Packed* step, int kind, int site, unsigned threshold, float keep,
                                                          const DropoutClock* clock, float* x, int width) {
    using namespace elementwise;
    const RowSet set = row_set(step, kind);
    // Eights that a row can touch.
    const int parts = width % 8 == 0 ? width / 8 : width / 8 + 2;
    each_part(set.count, parts, [&](int row, int part) {
        const int c = set.client[row];
        const long long begin = static_cast<long long>(row - set.bounds[c]) * width, end = begin + width;
        const long long index = begin / 8 + part;
        const long long from = begin - 8 * index, to = end - 8 * index;
        if (to > 0) {
            float* eight = x + (static_cast<long long>(set.bounds[c]) * width + 8 * index);
            drop_eight(mask(step, clock, site, c, threshold, keep), static_cast<unsigned>(index), eight, eight,
                       from > 0 ? static_cast<int>(from) : 0, to < 8 ? static_cast<int>(to) : 8);
        }
    });
}
EXPORT_KERNEL(dropout)

// Inverted dropout on the item table: `dropped = rows * mask`, both `[R, d]`, one mask a step for a row as an input and as a
// candidate (site 255). An element's index counts from the client's first row.
//
// Launch: grid (C of the largest step, any), 256 threads; ceil(rows of the largest client * d / 2048) blocks along the second
// side read each element once. Bytes: 8 R d; operations: about 8 integer ones an element.
extern "C" __global__ void __launch_bounds__(256) drop_items(const Packed* step, unsigned threshold, float keep, const DropoutClock* clock,
                                                             const float* rows, float* dropped, int d) {
    elementwise::drop_rows(step, threshold, keep, clock, rows, dropped, d);
}
EXPORT_KERNEL(drop_items)

// The mask of drop_items on the gradients of the rows `grad [R, d]`, in place.
//
// Launch and cost: as drop_items.
extern "C" __global__ void __launch_bounds__(256) drop_items_backward(const Packed* step, unsigned threshold, float keep,
                                                                      const DropoutClock* clock, float* grad, int d) {
    elementwise::drop_rows(step, threshold, keep, clock, grad, grad, d);
}
EXPORT_KERNEL(drop_items_backward)
