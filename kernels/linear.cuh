// Grouped linear layers, as blocks of threads compute them: see linear.cu.
#pragma once

#include "mma.cuh"
#include "optimiser.cuh"
#include "packed.cuh"

namespace linear {

constexpr int THREADS = 128;
constexpr int BLOCK = 64; // columns of a block, and how much of the depth is staged at a time

__device__ __forceinline__ bool wide(const float* p, int ld) { return ld % 4 == 0 && reinterpret_cast<size_t>(p) % 16 == 0; }

// Copies `src [rows, cols]` with leading dimension `src_ld` to `dst [ROWS, BLOCK]` in shared memory, zeros beyond.
template <int ROWS>
__device__ __forceinline__ void stage(float* dst, int ld, const float* src, int src_ld, int rows, int cols) {
    constexpr int QUADS = BLOCK / 4, STEPS = ROWS * QUADS / THREADS;
    const bool quads = wide(src, src_ld);
    // All reads are under way before the first is waited for.
    float4 v[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = threadIdx.x + s * THREADS, row = i / QUADS, col = 4 * (i % QUADS);
        const float* at = src + (row * src_ld + col);
        v[s] = float4{0.0f, 0.0f, 0.0f, 0.0f};
        if (row < rows && col < cols) {
            if (quads) {
                v[s] = *reinterpret_cast<const float4*>(at);
            } else {
                v[s].x = at[0];
                v[s].y = col + 1 < cols ? at[1] : 0.0f;
                v[s].z = col + 2 < cols ? at[2] : 0.0f;
                v[s].w = col + 3 < cols ? at[3] : 0.0f;
            }
        }
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = threadIdx.x + s * THREADS;
        *reinterpret_cast<float4*>(dst + i / QUADS * ld + 4 * (i % QUADS)) = v[s];
    }
}

// Where a block's sums go: `y [rows, cols]` with leading dimension `ld`, each with its column's bias and what was there
// before, if asked for.
struct Target {
    float* y;
    const float* bias;
    int ld;
    int rows;
    int cols;
    bool add;

    __device__ __forceinline__ float value(float v, const float* at, int col) const {
        v = bias ? v + bias[col] : v;
        return add ? v + *at : v;
    }

    // N neighbouring columns of a row.
    template <int N>
    __device__ __forceinline__ void put(int row, int col, const float* v) const {
        if (row >= rows || col >= cols) {
            return;
        }
        float* at = y + static_cast<long long>(row) * ld + col;
        if (N > 1 && wide(y, ld)) {
            float out[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                out[i] = value(v[i], at + i, col + i);
            }
            if (N == 4) {
                *reinterpret_cast<float4*>(at) = float4{out[0], out[1], out[2 % N], out[3 % N]};
            } else {
                *reinterpret_cast<float2*>(at) = float2{out[0], out[1 % N]};
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (col + i < cols) {
                at[i] = value(v[i], at + i, col + i);
            }
        }
    }
};

// Where a block's sums are gradients of weights `[rows, cols]` with leading dimension `ld`, which the optimiser steps on: the weights, their moments
// (not read for gradient descent) and the weights that the visit began with.
struct Stepped {
    OptimiserStep opt;
    float* p;
    float* m;
    float* s;
    const float* start;
    int ld;
    int rows;
    int cols;

    __device__ __forceinline__ void one(int at, float g) const {
        adam_one(opt, 1.0f, opt.first != 0, p + at, m + at, s + at, g);
        pull_back(opt, p + at, start + at);
    }

    template <int N>
    __device__ __forceinline__ void put(int row, int col, const float* g) const {
        if (row >= rows || col >= cols) {
            return;
        }
        const int at = row * ld + col;
        if (N == 4 && wide(p, ld) && wide(m, ld) && wide(s, ld) && !opt.sgd) {
            float4 w = *reinterpret_cast<float4*>(p + at), first = *reinterpret_cast<float4*>(m + at), second = *reinterpret_cast<float4*>(s + at);
            w.x = adam_value(opt, 1.0f, opt.first != 0, w.x, first.x, second.x, g[0]);
            w.y = adam_value(opt, 1.0f, opt.first != 0, w.y, first.y, second.y, g[1 % N]);
            w.z = adam_value(opt, 1.0f, opt.first != 0, w.z, first.z, second.z, g[2 % N]);
            w.w = adam_value(opt, 1.0f, opt.first != 0, w.w, first.w, second.w, g[3 % N]);
            *reinterpret_cast<float4*>(p + at) = w;
            *reinterpret_cast<float4*>(m + at) = first;
            *reinterpret_cast<float4*>(s + at) = second;
            for (int i = 0; opt.pull > 0.0f && i < N; i++) {
                pull_back(opt, p + at + i, start + at + i);
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (col + i < cols) {
                one(at + i, g[i]);
            }
        }
    }
};

// Adds `scale * v` to four sums.
__device__ __forceinline__ void add_scaled(float c[4], float scale, float4 v) {
    c[0] += scale * v.x;
    c[1] += scale * v.y;
    c[2] += scale * v.z;
    c[3] += scale * v.w;
}

// float32: a thread keeps 4 x 4 sums of a [32, 64] block of products, 8 x 4 of a [64, 64] block of weight gradients.
struct Plain {
    static constexpr int PAD_ALONG = 4;
    static constexpr int PAD_ACROSS = 4;

    // TURNED: the weight is staged as [columns, depth].
    template <bool TURNED>
    struct Product {
        static constexpr int LD = BLOCK + 4;
        float c[4][4];

        // Where it is turned, the columns of a thread lie 16 apart, so that a warp's reads fall on different banks.
        __device__ __forceinline__ void multiply(const float* a, const float* b, int rows, int, int deep) {
            const int row = threadIdx.x / 16 * 4, x = threadIdx.x % 16;
            if (row >= rows) {
                return;
            }
#pragma unroll 2
            for (int k = 0; k < deep; k += 4) {
                float4 v[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    v[i] = *reinterpret_cast<const float4*>(a + (row + i) * LD + k);
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float4 w = *reinterpret_cast<const float4*>(TURNED ? b + (x + 16 * j) * LD + k : b + (k + j) * LD + 4 * x);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        if (TURNED) {
                            c[i][j] += v[i].x * w.x;
                            c[i][j] += v[i].y * w.y;
                            c[i][j] += v[i].z * w.z;
                            c[i][j] += v[i].w * w.w;
                        } else {
                            add_scaled(c[i], j == 0 ? v[i].x : j == 1 ? v[i].y : j == 2 ? v[i].z : v[i].w, w);
                        }
                    }
                }
            }
        }

        __device__ __forceinline__ void store(const Target& to) const {
            const int row = threadIdx.x / 16 * 4, x = threadIdx.x % 16;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (TURNED) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        to.put<1>(row + i, x + 16 * j, &c[i][j]);
                    }
                } else {
                    to.put<4>(row + i, 4 * x, c[i]);
                }
            }
        }
    };

    struct Gradient {
        static constexpr int LD = BLOCK + 4;
        float c[8][4];

        __device__ __forceinline__ void multiply(const float* x, const float* dy, int rows) {
            const int row = threadIdx.x / 16 * 4, col = threadIdx.x % 16 * 4;
#pragma unroll 2
            for (int r = 0; r < rows; r++) {
                const float4 low = *reinterpret_cast<const float4*>(x + r * LD + row);
                const float4 high = *reinterpret_cast<const float4*>(x + r * LD + row + 32);
                const float4 d = *reinterpret_cast<const float4*>(dy + r * LD + col);
                add_scaled(c[0], low.x, d);
                add_scaled(c[1], low.y, d);
                add_scaled(c[2], low.z, d);
                add_scaled(c[3], low.w, d);
                add_scaled(c[4], high.x, d);
                add_scaled(c[5], high.y, d);
                add_scaled(c[6], high.z, d);
                add_scaled(c[7], high.w, d);
            }
        }

        template <class To>
        __device__ __forceinline__ void store(const To& to) const {
            const int row = threadIdx.x / 16 * 4, col = threadIdx.x % 16 * 4;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                to.template put<4>(row + i % 4 + 32 * (i / 4), col, c[i]);
            }
        }
    };
};

// Tensor cores: warp `w` owns columns 16 w to 16 w + 15 of a block of products, all rows of it, so that clients with few
// rows keep every warp busy; a quarter of a block of weight gradients, 32 x 32.
template <class P>
struct Cores {
    static constexpr int PAD_ALONG = P::PAD_ALONG;
    static constexpr int PAD_ACROSS = P::PAD_ACROSS;

    template <bool TURNED>
    struct Product {
        float c[2][2][4];

        __device__ __forceinline__ void multiply(const float* a, const float* b, int rows, int cols, int deep) {
            const int lane = threadIdx.x % 32, col = threadIdx.x / 32 * 16;
            if (col >= cols) {
                return;
            }
            const AlongDepth left{a, BLOCK + PAD_ALONG};
            const AlongDepth turned{b, BLOCK + PAD_ALONG};
            const AcrossDepth straight{b, BLOCK + PAD_ACROSS};
#pragma unroll 2
            for (int k = 0; k < deep; k += P::DEPTH) {
                unsigned w[2][2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    if (TURNED) {
                        P::load_b(w[j], turned, col + 8 * j, k, lane);
                    } else {
                        P::load_b(w[j], straight, col + 8 * j, k, lane);
                    }
                }
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (16 * i < rows) {
                        unsigned v[4];
                        P::load_a(v, left, 16 * i, k, lane);
                        P::multiply(c[i][0], v, w[0]);
                        P::multiply(c[i][1], v, w[1]);
                    }
                }
            }
        }

        __device__ __forceinline__ void store(const Target& to) const {
            const int lane = threadIdx.x % 32, row = lane / 4, col = threadIdx.x / 32 * 16 + 2 * (lane % 4);
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    to.put<2>(row + 16 * i, col + 8 * j, c[i][j]);
                    to.put<2>(row + 16 * i + 8, col + 8 * j, c[i][j] + 2);
                }
            }
        }
    };

    struct Gradient {
        float c[2][4][4];

        __device__ __forceinline__ void multiply(const float* x, const float* dy, int rows) {
            const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp / 2 * 32, col = warp % 2 * 32;
            const AcrossDepth left{x, BLOCK + PAD_ACROSS};
            const AcrossDepth right{dy, BLOCK + PAD_ACROSS};
            for (int k = 0; k < rows; k += P::DEPTH) {
                unsigned v[2][4];
                P::load_a(v[0], left, row, k, lane);
                P::load_a(v[1], left, row + 16, k, lane);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    unsigned w[2];
                    P::load_b(w, right, col + 8 * j, k, lane);
                    P::multiply(c[0][j], v[0], w);
                    P::multiply(c[1][j], v[1], w);
                }
            }
        }

        template <class To>
        __device__ __forceinline__ void store(const To& to) const {
            const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
            const int row = warp / 2 * 32 + lane / 4, col = warp % 2 * 32 + 2 * (lane % 4);
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    to.template put<2>(row + 16 * i, col + 8 * j, c[i][j]);
                    to.template put<2>(row + 16 * i + 8, col + 8 * j, c[i][j] + 2);
                }
            }
        }
    };
};

// `y (+)= a B + b` for one tile and 64 columns, with `a [rows, depth]`; B is the weight `[depth, cols]`, or the transpose of
// a weight `[cols, depth]` where TURNED.
template <class Math, bool TURNED>
__device__ __forceinline__ void product(const Packed* step, int kind, const float* a, int depth, const float* weights,
                                        const float* biases, long long stride, float* y, int cols, bool add) {
    const RowSet set = row_set(step, kind);
    if (static_cast<int>(blockIdx.x) >= set.tiles) {
        return;
    }
    constexpr int LEFT = BLOCK + Math::PAD_ALONG, RIGHT = BLOCK + (TURNED ? Math::PAD_ALONG : Math::PAD_ACROSS);
    LUMOS_SHARED(float, left);
    float* right = left + TILE_ROWS * LEFT;
    const Tile tile = set.tile[blockIdx.x];
    const int rows = min(TILE_ROWS, set.bounds[tile.client + 1] - tile.first);
    const int col = blockIdx.y * BLOCK, here = min(BLOCK, cols - col);
    const float* w = weights + tile.client * stride;
    a += static_cast<long long>(tile.first) * depth;
    typename Math::template Product<TURNED> sums = {};
    for (int k = 0; k < depth; k += BLOCK) {
        const int deep = min(BLOCK, depth - k);
        stage<TILE_ROWS>(left, LEFT, a + k, depth, rows, deep);
        if (TURNED) {
            stage<BLOCK>(right, RIGHT, w + static_cast<long long>(col) * depth + k, depth, here, deep);
        } else {
            stage<BLOCK>(right, RIGHT, w + static_cast<long long>(k) * cols + col, cols, deep, here);
        }
        __syncthreads();
        sums.multiply(left, right, rows, here, deep);
        __syncthreads();
    }
    const float* bias = biases ? biases + tile.client * stride + col : nullptr;
    sums.store(Target{y + static_cast<long long>(tile.first) * cols + col, bias, cols, rows, here, add});
}

// `dw = x^T dy` for one client and a block `[64, 64]` of `[in, out]`, given to `target(row, col, rows, cols)`; the blocks of the first inputs sum the bias too.
template <class Math, class Where>
__device__ __forceinline__ void gradient(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad, int b,
                                         const Where& target) {
    constexpr int LD = BLOCK + Math::PAD_ACROSS;
    LUMOS_SHARED(float, left);
    float* right = left + TILE_ROWS * LD;
    const RowSet set = row_set(step, kind);
    const int across = (out + BLOCK - 1) / BLOCK;
    const int row = blockIdx.y / across * BLOCK, col = blockIdx.y % across * BLOCK;
    const int ins = min(BLOCK, in - row), outs = min(BLOCK, out - col);
    const int end = set.bounds[blockIdx.x + 1];
    const bool sums_bias = b >= 0 && row == 0 && static_cast<int>(threadIdx.x) < outs;
    typename Math::Gradient sums = {};
    float bias = 0.0f;
    for (int first = set.bounds[blockIdx.x]; first < end; first += TILE_ROWS) {
        const int rows = min(TILE_ROWS, end - first);
        stage<TILE_ROWS>(left, LD, x + static_cast<long long>(first) * in + row, in, rows, ins);
        stage<TILE_ROWS>(right, LD, dy + static_cast<long long>(first) * out + col, out, rows, outs);
        __syncthreads();
        sums.multiply(left, right, rows);
        if (sums_bias) {
            for (int r = 0; r < rows; r++) {
                bias += right[r * LD + threadIdx.x];
            }
        }
        __syncthreads();
    }
    if (sums_bias) {
        grad[b + col + threadIdx.x] = bias;
    }
    sums.store(target(row, col, ins, outs));
}

template <class Math>
__device__ __forceinline__ void weight_gradient(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad,
                                                long long stride, int w, int b) {
    if (static_cast<int>(blockIdx.x) >= step->clients) {
        return;
    }
    grad += blockIdx.x * stride;
    gradient<Math>(step, kind, x, in, dy, out, grad, b, [&](int row, int col, int rows, int cols) {
        return Target{grad + w + static_cast<long long>(row) * out + col, nullptr, out, rows, cols, false};
    });
}

// A client without tokens is left alone, its moments set to zero at the first step, as by `adam_dense`.
template <class Math>
__device__ __forceinline__ void weight_step(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad,
                                            const OptimiserStep* opt, float* p, float* m, float* s, const float* global, long long stride,
                                            int w, int b) {
    if (static_cast<int>(blockIdx.x) >= step->clients) {
        return;
    }
    const long long base = blockIdx.x * stride;
    const auto target = [&](int row, int col, int rows, int cols) {
        const long long at = w + static_cast<long long>(row) * out + col;
        // Descent has no moments, and none of these is read.
        float* const first = opt->sgd ? p : m;
        float* const second = opt->sgd ? p : s;
        return Stepped{*opt, p + base + at, first + base + at, second + base + at, global + at, out, rows, cols};
    };
    if (!client_trains(step, blockIdx.x)) {
        if (opt->first && !opt->sgd) {
            const int across = (out + BLOCK - 1) / BLOCK, row = blockIdx.y / across * BLOCK, col = blockIdx.y % across * BLOCK;
            const Stepped here = target(row, col, min(BLOCK, in - row), min(BLOCK, out - col));
            for (int i = threadIdx.x; i < here.rows * here.cols; i += THREADS) {
                here.m[i / here.cols * out + i % here.cols] = here.s[i / here.cols * out + i % here.cols] = 0.0f;
            }
        }
        return;
    }
    gradient<Math>(step, kind, x, in, dy, out, grad + base, b, target);
}

} // namespace linear
