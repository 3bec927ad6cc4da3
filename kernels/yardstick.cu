// Kernels that do one thing only, to measure what a GPU can do: copy, multiply-adds, products on tensor cores. Shares of other
// kernels' times are taken of these.
#include "mma.cuh"

namespace yardstick {

constexpr int CHAINS = 16; // independent multiply-adds of a thread: more than the latency of one hides
constexpr int TILES = 8;   // independent products of a warp

// A warp's products: every element of A and B is `x`, every sum starts at 1.
template <class Cores, class Word>
__device__ __forceinline__ void products(float x, int rounds, float* sums, const Word& word) {
    const unsigned w = word(x);
    const unsigned a[4] = {w, w, w, w}, b[2] = {w, w};
    float c[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            c[i][j] = 1.0f;
        }
    }
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            Cores::multiply(c[i], a, b);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        sum += (c[i][0] + c[i][1]) + (c[i][2] + c[i][3]);
    }
    sums[static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}

} // namespace yardstick

// to[i] = from[i] over `fours` groups of four floats.
//
// from, to [4 fours] f32 at multiples of 16 bytes. Grid: any number of blocks of 256 (they go round); shared memory: none.
// Bit-reproducible. Bytes: 32 fours; no operations.
extern "C" __global__ void __launch_bounds__(256) yardstick_copy(const float4* __restrict__ from, float4* __restrict__ to, long long fours) {
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < fours; i += stride) {
        to[i] = from[i];
    }
}
EXPORT_KERNEL(yardstick_copy)

// sums[thread] = the sum of CHAINS numbers that start at 0, 1, ... and become x * a + b, `rounds` times. (Chains that start alike
// would be computed once.)
//
// sums [blocks * 256] f32. Grid: any number of blocks of 256; shared memory: none. Bit-reproducible. Operations: 2 CHAINS
// rounds a thread.
extern "C" __global__ void __launch_bounds__(256) yardstick_fma(float a, float b, int rounds, float* sums) {
    float x[yardstick::CHAINS];
#pragma unroll
    for (int i = 0; i < yardstick::CHAINS; i++) {
        x[i] = static_cast<float>(i);
    }
#pragma unroll 4
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < yardstick::CHAINS; i++) {
            x[i] = fmaf(x[i], a, b);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < yardstick::CHAINS; i++) {
        sum += x[i];
    }
    sums[static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}
EXPORT_KERNEL(yardstick_fma)

// sums[thread] = the sum of the thread's numbers of TILES tiles `C [16, 8]` that start at 1 and have `A B` added `rounds` times,
// every element of A [16, 8] and B [8, 8] being x in TF32.
//
// sums [blocks * 256] f32. Grid: any number of blocks of 256; shared memory: none. Bit-reproducible. Operations: 2,048 TILES
// rounds a warp.
extern "C" __global__ void __launch_bounds__(256) yardstick_tf32(float x, int rounds, float* sums) {
    yardstick::products<Tf32>(x, rounds, sums, [](float v) { return tf32_word(v); });
}
EXPORT_KERNEL(yardstick_tf32)

// The same in bfloat16, with A [16, 16] and B [16, 8]. Operations: 4,096 TILES rounds a warp.
extern "C" __global__ void __launch_bounds__(256) yardstick_bf16(float x, int rounds, float* sums) {
    yardstick::products<Bf16>(x, rounds, sums, [](float v) { return bf16_word(v, v); });
}
EXPORT_KERNEL(yardstick_bf16)
