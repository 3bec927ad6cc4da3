// Products of a language model's decoder: `y [rows, outputs] = x [rows, depth] w [outputs, depth]^T + bias`, or added to `y`.
//
// Rows of `x` and `w` are contiguous along the depth, padded with zeros to a multiple of 32 numbers (`ld`), at multiples of 16 bytes;
// `x` and `w` are float32, bfloat16 or float16, sums and `y` are float32. Halves are multiplied by the tensor cores with the weights
// as the 16 rows of a fragment and the activations as its 8 columns, so that a step of few rows wastes little.
//
// The depth is cut into up to four equal parts of some 2048 numbers. A part of an output is one chain, in steps of one (float32: fused
// multiply-adds) or of a fragment's 16, and the parts are added in their order to what was there: its bits depend on its row and its
// weights alone, not on the number of rows, on which tile was taken, or on how many parts a block works at.
//
// A block owns OUT outputs of ROWS rows and keeps STAGES pieces of the depth on their way. Where rows are few, the parts of the depth
// are worked at side by side, each by a group of the block's threads with stages of its own. Blocks that share weights are neighbours
// (blockIdx.x counts rows), so that a weight comes from device memory once.
//
// Bytes: sizeof(number) (outputs + rows) ld + 4 rows outputs (8 when adding); operations: 2 rows outputs depth. The limit of a decode
// step is the weights' bytes below about 300 rows on an H200 (bfloat16), and the tensor cores above.
#include "decoder_parts.cuh"
#include "element.cuh"

namespace decoder {

// WO x WR warps share a tile; a stage has DEPTH numbers of every line.
template <class E_, int OUT_, int ROWS_, int WO_, int WR_, int STAGES_, int DEPTH_> struct Tile {
    typedef E_ E;
    typedef typename E::T T;
    static constexpr int OUT = OUT_, ROWS = ROWS_, WO = WO_, WR = WR_, STAGES = STAGES_, DEPTH = DEPTH_;
    static constexpr int THREADS = 32 * WO * WR;
    // 20 or 36 words: eight rows at four neighbouring words each fall on different banks.
    static constexpr int LD = DEPTH + E::PER_COPY;
    static constexpr int STAGE = (OUT + ROWS) * LD;
};

// Sums of one warp.
template <class S, class E> struct Sums {
    static constexpr int MO = S::OUT / S::WO / 16, NR = S::ROWS / S::WR / 8;
    float c[MO][NR][4] = {};

    __device__ __forceinline__ void multiply(const typename S::T* w, const typename S::T* x, int lane) {
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int k = 0; k < S::DEPTH; k += 16) {
            unsigned a[MO][4], b[NR][2];
#pragma unroll
            for (int i = 0; i < MO; i++) {
                const typename S::T* p = w + (16 * i + g) * S::LD + k + 2 * t;
                a[i][0] = *reinterpret_cast<const unsigned*>(p);
                a[i][1] = *reinterpret_cast<const unsigned*>(p + 8 * S::LD);
                a[i][2] = *reinterpret_cast<const unsigned*>(p + 8);
                a[i][3] = *reinterpret_cast<const unsigned*>(p + 8 * S::LD + 8);
            }
#pragma unroll
            for (int j = 0; j < NR; j++) {
                const typename S::T* p = x + (8 * j + g) * S::LD + k + 2 * t;
                b[j][0] = *reinterpret_cast<const unsigned*>(p);
                b[j][1] = *reinterpret_cast<const unsigned*>(p + 8);
            }
#pragma unroll
            for (int i = 0; i < MO; i++) {
#pragma unroll
                for (int j = 0; j < NR; j++) E::multiply(c[i][j], a[i], b[j]);
            }
        }
    }

    // `put(output, row, sum)` for every sum.
    template <class F> __device__ __forceinline__ void each(int lane, F put) {
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < MO; i++) {
#pragma unroll
            for (int j = 0; j < NR; j++) {
#pragma unroll
                for (int n = 0; n < 4; n++) put(16 * i + g + n / 2 * 8, 8 * j + 2 * t + n % 2, c[i][j][n]);
            }
        }
    }
};

// Lanes are eight outputs by four rows.
template <class S> struct Sums<S, Float32> {
    static constexpr int MO = S::OUT / S::WO / 8, NR = S::ROWS / S::WR / 4;
    float c[MO][NR] = {};

    __device__ __forceinline__ void multiply(const float* w, const float* x, int lane) {
        const int o = lane % 8, r = lane / 8;
#pragma unroll 1
        for (int k = 0; k < S::DEPTH; k += 4) {
            float4 b[NR];
#pragma unroll
            for (int j = 0; j < NR; j++) b[j] = *reinterpret_cast<const float4*>(x + (4 * j + r) * S::LD + k);
#pragma unroll
            for (int i = 0; i < MO; i++) {
                const float4 a = *reinterpret_cast<const float4*>(w + (8 * i + o) * S::LD + k);
#pragma unroll
                for (int j = 0; j < NR; j++) {
                    c[i][j] = fmaf(a.w, b[j].w, fmaf(a.z, b[j].z, fmaf(a.y, b[j].y, fmaf(a.x, b[j].x, c[i][j]))));
                }
            }
        }
    }

    template <class F> __device__ __forceinline__ void each(int lane, F put) {
        const int o = lane % 8, r = lane / 8;
#pragma unroll
        for (int i = 0; i < MO; i++) {
#pragma unroll
            for (int j = 0; j < NR; j++) put(8 * i + o, 4 * j + r, c[i][j]);
        }
    }
};

template <class S>
__device__ __forceinline__ void multiply(float* y, const void* x_, const void* w_, const float* bias, int rows, int outputs, int ld, int add) {
    typedef typename S::T T;
    LUMOS_SHARED(T, shared);
    const T* x = static_cast<const T*>(x_);
    const T* w = static_cast<const T*>(w_);
    const int first_row = blockIdx.x * S::ROWS, first_out = blockIdx.y * S::OUT;
    const int groups = blockDim.x / S::THREADS, group = threadIdx.x / S::THREADS, thread = threadIdx.x % S::THREADS;
    const int warp = thread / 32, lane = lane_index();
    const int wo = warp % S::WO * (S::OUT / S::WO), wr = warp / S::WO * (S::ROWS / S::WR);
    const int pieces = ceil_div(ld, S::DEPTH), part = part_pieces(ld, S::DEPTH);
    // Pieces of this group: all of them, or those of its part.
    const int first = group * part, count = groups == 1 ? pieces : part, own = min(count, pieces - first);
    T* const stages = shared + group * S::STAGES * S::STAGE;

    auto fetch = [&](int piece) {
        constexpr int COPIES = S::DEPTH / S::E::PER_COPY, ALL = (S::OUT + S::ROWS) * COPIES;
        if (piece < own) {
            T* to = stages + piece % S::STAGES * S::STAGE;
            for (int i = thread; i < ALL; i += S::THREADS) {
                const int line = i / COPIES, at = i % COPIES * S::E::PER_COPY;
                const int index = line < S::OUT ? first_out + line : first_row + line - S::OUT;
                const int column = (first + piece) * S::DEPTH + at;
                const bool there = index < (line < S::OUT ? outputs : rows) && column < ld;
                const T* from = (line < S::OUT ? w : x) + (there ? static_cast<long long>(index) * ld + column : 0);
                copy_async_or_zero(to + line * S::LD + at, from, there);
            }
        }
        close_copies();
    };
    Sums<S, typename S::E> sums;
#pragma unroll
    for (int piece = 0; piece < S::STAGES - 1; piece++) fetch(piece);
    for (int piece = 0; piece < count; piece++) {
        wait_for_older_copies<S::STAGES - 2>();
        __syncthreads();
        // The stage that this fills was read before the barrier.
        fetch(piece + S::STAGES - 1);
        const T* stage = stages + piece % S::STAGES * S::STAGE;
        if (piece < own) sums.multiply(stage + wo * S::LD, stage + (S::OUT + wr) * S::LD, lane);
        if (groups == 1 && ((piece + 1) % part == 0 || piece + 1 == count)) {
            const bool later = piece >= part;
            sums.each(lane, [&](int output, int row, float& sum) {
                output += first_out + wo, row += first_row + wr;
                if (output < outputs && row < rows) {
                    float* at = y + static_cast<long long>(row) * outputs + output;
                    *at = later ? *at + sum : begun(sum, bias, output, at, add);
                }
                sum = 0.0f;
            });
        }
    }
    if (groups > 1) {
        // The stages make room for the groups' sums `[groups, ROWS, OUT]`.
        __syncthreads();
        constexpr int ALL = S::OUT * S::ROWS;
        float* const all = reinterpret_cast<float*>(shared);
        sums.each(lane, [&](int output, int row, float& sum) { all[group * ALL + (row + wr) * S::OUT + output + wo] = sum; });
        __syncthreads();
        for (int i = threadIdx.x; i < ALL; i += blockDim.x) {
            const int output = first_out + i % S::OUT, row = first_row + i / S::OUT;
            if (output < outputs && row < rows) {
                float* at = y + static_cast<long long>(row) * outputs + output;
                float sum = begun(all[i], bias, output, at, add);
                for (int g = 1; g < groups; g++) sum += all[g * ALL + i];
                *at = sum;
            }
        }
    }
}

} // namespace decoder

// Launch: grid (ceil(rows / ROWS), ceil(outputs / OUT)), threads and shared bytes of the tile: NAME_ROWS with OUT, threads and bytes
// 16: 32, 128, 27,648 (float32 13,824); 64: 64, 128, 40,960 (36,864); 128: 128, 256, 81,920 (73,728). With as many times the threads and
// the bytes as the depth has parts, these are worked at side by side (but for 128 rows).
#define LUMOS_LINEAR(name, E, OUT, ROWS, WO, WR, STAGES, DEPTH, MOST)                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * WO * WR * MOST)                                                              \
        name(float* y, const void* x, const void* w, const float* bias, int rows, int outputs, int ld, int add) {                  \
        decoder::multiply<decoder::Tile<E, OUT, ROWS, WO, WR, STAGES, DEPTH>>(y, x, w, bias, rows, outputs, ld, add);                     \
    }
LUMOS_LINEAR(decoder_linear_f32_16, Float32, 32, 16, 2, 2, 2, 32, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_f32_16)
LUMOS_LINEAR(decoder_linear_f32_64, Float32, 64, 64, 2, 2, 2, 32, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_f32_64)
LUMOS_LINEAR(decoder_linear_f32_128, Float32, 128, 128, 2, 4, 2, 32, 1)
EXPORT_KERNEL(decoder_linear_f32_128)
LUMOS_LINEAR(decoder_linear_bf16_16, Bfloat16, 32, 16, 2, 2, 4, 64, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_bf16_16)
LUMOS_LINEAR(decoder_linear_bf16_64, Bfloat16, 64, 64, 2, 2, 4, 32, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_bf16_64)
LUMOS_LINEAR(decoder_linear_bf16_128, Bfloat16, 128, 128, 2, 4, 4, 32, 1)
EXPORT_KERNEL(decoder_linear_bf16_128)
LUMOS_LINEAR(decoder_linear_f16_16, Float16, 32, 16, 2, 2, 4, 64, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_f16_16)
LUMOS_LINEAR(decoder_linear_f16_64, Float16, 64, 64, 2, 2, 4, 32, decoder::MOST_PARTS)
EXPORT_KERNEL(decoder_linear_f16_64)
LUMOS_LINEAR(decoder_linear_f16_128, Float16, 128, 128, 2, 4, 4, 32, 1)
EXPORT_KERNEL(decoder_linear_f16_128)

namespace decoder {

template <class E>
__device__ __forceinline__ void some(float* y, const void* x_, const void* w_, const float* bias, const int* pairs, int count, int ld) {
    const typename E::T* x = static_cast<const typename E::T*>(x_);
    const typename E::T* w = static_cast<const typename E::T*>(w_);
    const int pair = blockIdx.x * 8 + warp_index();
    if (pair >= count) {
        return;
    }
    const int row = pairs[2 * pair], output = pairs[2 * pair + 1];
    float sum = 0.0f;
    for (int k = lane_index() * E::PER_COPY; k < ld; k += 32 * E::PER_COPY) {
        float a[E::PER_COPY], b[E::PER_COPY];
        E::read(x + static_cast<long long>(row) * ld + k, a);
        E::read(w + static_cast<long long>(output) * ld + k, b);
#pragma unroll
        for (int i = 0; i < E::PER_COPY; i++) sum = fmaf(a[i], b[i], sum);
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) {
        y[pair] = bias ? sum + bias[output] : sum;
    }
}

} // namespace decoder

// `y [count]`: only the outputs named in `pairs [count, 2]` (row, output), a warp each.
//
// Launch: grid ceil(count / 8), 256 threads. Bit-reproducible, a pair's sum depends on its row and weights alone.
// Bytes: 2 sizeof(number) count ld; operations: 2 count depth.
#define LUMOS_SOME(name, E)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                              \
        name(float* y, const void* x, const void* w, const float* bias, const int* pairs, int count, int ld) {                     \
        decoder::some<E>(y, x, w, bias, pairs, count, ld);                                                                         \
    }
LUMOS_SOME(decoder_some_f32, Float32)
EXPORT_KERNEL(decoder_some_f32)
LUMOS_SOME(decoder_some_bf16, Bfloat16)
EXPORT_KERNEL(decoder_some_bf16)
LUMOS_SOME(decoder_some_f16, Float16)
EXPORT_KERNEL(decoder_some_f16)
