// Products of a resident client's activations with its weights in shared memory, and the weights' gradients, each turned into an
// optimiser step in the registers that sum it.
#pragma once

#include "mma.cuh"
#include "resident.cuh"

namespace resident {

// What is done to a product's sums, in this order, before they are stored to `y [rows, width]`.
struct Finish {
    float* y;
    int width;
    const float* bias;  // added; null: none
    bool relu;
    const float* gate;  // zero where this is not positive, [rows, width]; null: none
    const float* add;   // added, [rows, width]; null: none
    const int* add_row; // rows of `add`, -1: nothing is added; null: the same rows

    // N neighbouring columns of a row, all inside. Rounded after each operation, as by the kernels that do them one by one.
    template <int N> __device__ __forceinline__ void put(int row, int col, const float* sums) const {
        const int at = row * width + col, other = add_row ? add_row[row] : row;
        const bool adds = add != nullptr && other >= 0;
        float v[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            v[i] = bias ? __fadd_rn(sums[i], bias[col + i]) : sums[i];
            v[i] = relu && !(v[i] > 0.0f) ? 0.0f : v[i];
            v[i] = gate && !(gate[at + i] > 0.0f) ? 0.0f : v[i];
            v[i] = adds ? __fadd_rn(v[i], add[other * width + col + i]) : v[i];
        }
        if constexpr (N == 4) {
            *reinterpret_cast<float4*>(y + at) = float4{v[0], v[1], v[2], v[3]};
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                y[at + i] = v[i];
            }
        }
    }
};

// The threads of the block in an order that begins at `from`, so that products that wait for nothing of each other run side by
// side: each takes the threads after those of the one before it.
__device__ __forceinline__ int place_from(int from, int index, int count) { return (index + count - from % count) % count; }

__device__ __forceinline__ void add_scaled(float c[4], float scale, float4 v) {
    c[0] += scale * v.x;
    c[1] += scale * v.y;
    c[2] += scale * v.z;
    c[3] += scale * v.w;
}

// Four steps along the depth of four sums: `v` has a row of the weight for each step, or for each sum where TURNED.
template <bool TURNED> __device__ __forceinline__ void multiply_four(float c[4], float4 x, const float4 v[4]) {
    if (TURNED) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            c[j] += x.x * v[j].x;
            c[j] += x.y * v[j].y;
            c[j] += x.z * v[j].z;
            c[j] += x.w * v[j].w;
        }
    } else {
        add_scaled(c, x.x, v[0]);
        add_scaled(c, x.y, v[1]);
        add_scaled(c, x.z, v[2]);
        add_scaled(c, x.w, v[3]);
    }
}

// float32. A thread has two rows and four columns of a product, or one row where there are threads enough for that; four and four of a
// weight's gradient. Widths are multiples of 4.
struct Plain {
    // `x [rows, depth] B`, with B the weight `w [depth, cols]`, or the transpose of `w [cols, depth]` where TURNED. Returns the
    // place after its threads.
    template <bool TURNED>
    static __device__ __forceinline__ int product(int from, const float* x, int rows, int depth, const float* w, int ld, int cols,
                                                  const Finish& finish) {
        const int across = cols / 4;
        const bool pairs = rows * across > static_cast<int>(blockDim.x);
        const int units = (pairs ? ceil_div(rows, 2) : rows) * across;
#pragma unroll 1
        for (int u = place_from(from, threadIdx.x, blockDim.x); u < units; u += blockDim.x) {
            const int row = pairs ? u / across * 2 : u / across, col = u % across;
            const bool both = pairs && row + 1 < rows;
            const float* a = x + row * depth;
            const float* b = both ? a + depth : a;
            float c[2][4] = {};
#pragma unroll 2
            for (int k = 0; k < depth; k += 4) {
                const float4 v0 = *reinterpret_cast<const float4*>(a + k);
                float4 v[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    v[j] = *reinterpret_cast<const float4*>(TURNED ? w + (col + across * j) * ld + k : w + (k + j) * ld + 4 * col);
                }
                multiply_four<TURNED>(c[0], v0, v);
                if (pairs) {
                    multiply_four<TURNED>(c[1], *reinterpret_cast<const float4*>(b + k), v);
                }
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (i == 1 && !both) {
                    break;
                }
                if (TURNED) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        finish.put<1>(row + i, col + across * j, &c[i][j]);
                    }
                } else {
                    finish.put<4>(row + i, 4 * col, c[i]);
                }
            }
        }
        return from + ceil_div(units, 32) * 32;
    }

    // `x^T dy` of a weight, turned into its step at once.
    static __device__ __forceinline__ int gradient(const Update& update, int from, const Matrix& m, const float* x,
                                                   const float* dy, int rows) {
        const int across = m.out / 4, units = m.in / 4 * across;
#pragma unroll 1
        for (int u = place_from(from, threadIdx.x, blockDim.x); u < units; u += blockDim.x) {
            const int row = u / across * 4, col = u % across * 4;
            float first[4][4], second[4][4], c[4][4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                update.load<4>(m.slab + (row + i) * m.out + col, first[i], second[i]);
            }
#pragma unroll 2
            for (int r = 0; r < rows; r++) {
                const float4 v = *reinterpret_cast<const float4*>(x + r * m.in + row);
                const float4 g = *reinterpret_cast<const float4*>(dy + r * m.out + col);
                add_scaled(c[0], v.x, g);
                add_scaled(c[1], v.y, g);
                add_scaled(c[2], v.z, g);
                add_scaled(c[3], v.w, g);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                update.apply<4>(weights() + m.fast + (row + i) * m.ld + col, m.slab + (row + i) * m.out + col, first[i], second[i], c[i]);
            }
        }
        return from + ceil_div(units, 32) * 32;
    }
};

// A matrix `[rows, depth]` for fragments, zero beyond its sides: stored along the depth or across it.
struct Along {
    const float* p;
    int ld, rows, depth;
    __device__ __forceinline__ float at(int row, int k) const { return row < rows && k < depth ? p[row * ld + k] : 0.0f; }
    __device__ __forceinline__ float2 pair(int row, int k) const { return float2{at(row, k), at(row, k + 1)}; }
};
struct Across {
    const float* p;
    int ld, rows, depth;
    __device__ __forceinline__ float at(int row, int k) const { return row < rows && k < depth ? p[k * ld + row] : 0.0f; }
    __device__ __forceinline__ float2 pair(int row, int k) const { return float2{at(row, k), at(row, k + 1)}; }
};

// Tensor cores, on inputs rounded by P. A warp has 16 rows and 8 columns of a product, 16 x 16 of a weight's gradient.
template <class P> struct Cores {
    template <bool TURNED>
    static __device__ __forceinline__ int product(int from, const float* x, int rows, int depth, const float* w, int ld, int cols,
                                                  const Finish& finish) {
        const int lane = lane_index(), across = ceil_div(cols, 8), units = ceil_div(rows, 16) * across;
        const Along left{x, depth, rows, depth}, turned{w, ld, cols, depth};
        const Across straight{w, ld, cols, depth};
#pragma unroll 1
        for (int u = place_from(from / 32, warp_index(), warp_count()); u < units; u += warp_count()) {
            const int row = u / across * 16, col = u % across * 8;
            float c[4] = {};
#pragma unroll 2
            for (int k = 0; k < depth; k += P::DEPTH) {
                unsigned a[4], b[2];
                P::load_a(a, left, row, k, lane);
                if (TURNED) {
                    P::load_b(b, turned, col, k, lane);
                } else {
                    P::load_b(b, straight, col, k, lane);
                }
                P::multiply(c, a, b);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = row + lane / 4 + i / 2 * 8, k = col + 2 * (lane % 4) + i % 2;
                if (r < rows && k < cols) {
                    finish.put<1>(r, k, c + i);
                }
            }
        }
        return from + 32 * units;
    }

    static __device__ __forceinline__ int gradient(const Update& update, int from, const Matrix& m, const float* x,
                                                   const float* dy, int rows) {
        const int lane = lane_index(), across = ceil_div(m.out, 16), units = ceil_div(m.in, 16) * across;
        const Across left{x, m.in, m.in, rows}, right{dy, m.out, m.out, rows};
#pragma unroll 1
        for (int u = place_from(from / 32, warp_index(), warp_count()); u < units; u += warp_count()) {
            const int row = u / across * 16, col = u % across * 16;
            float first[8], second[8], c[2][4] = {};
            // Number i of the lane: its row and column in the weight. Two neighbours lie side by side, for widths are multiples of 4.
            const auto row_of = [&](int i) { return row + lane / 4 + i / 2 % 2 * 8; };
            const auto col_of = [&](int i) { return col + i / 4 * 8 + 2 * (lane % 4) + i % 2; };
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                if (row_of(i) < m.in && col_of(i) < m.out) {
                    update.load<2>(m.slab + row_of(i) * m.out + col_of(i), first + i, second + i);
                }
            }
#pragma unroll 1
            for (int k = 0; k < rows; k += P::DEPTH) {
                unsigned a[4], b[2];
                P::load_a(a, left, row, k, lane);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    P::load_b(b, right, col + 8 * j, k, lane);
                    P::multiply(c[j], a, b);
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                if (row_of(i) < m.in && col_of(i) < m.out) {
                    update.apply<2>(weights() + m.fast + row_of(i) * m.ld + col_of(i), m.slab + row_of(i) * m.out + col_of(i), first + i,
                                    second + i, &c[i / 4][i % 4]);
                }
            }
        }
        return from + 32 * units;
    }
};

} // namespace resident
