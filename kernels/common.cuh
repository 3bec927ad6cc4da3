// What every kernel shares: CUDA or its rendition on the CPU, reductions, randomness.
#pragma once

#if !defined(LUMOS_SIMT)
#if !defined(__CUDACC_RTC__)
#include <cuda_bf16.h>
#endif
// Dynamic shared memory, once a kernel; further arrays are carved from it.
#define LUMOS_SHARED(T, name)                              \
    extern __shared__ __align__(16) unsigned char lumos_shared[]; \
    T* const name = reinterpret_cast<T*>(lumos_shared)
// A struct that is a parameter of a kernel and whose address is taken without a copy of it for each thread.
#define LUMOS_GRID_CONSTANT __grid_constant__
// Tests find a kernel by this line; the GPU finds it by its name.
#define EXPORT_KERNEL(name)
// The same for a struct that the host lays out.
#define EXPORT_STRUCT(name)
#else
#define LUMOS_GRID_CONSTANT
#endif

constexpr unsigned FULL_WARP = 0xffffffffu;

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ int lane_index() { return int(threadIdx.x & 31); }
__device__ __forceinline__ int warp_index() { return int(threadIdx.x >> 5); }
__device__ __forceinline__ int warp_count() { return int((blockDim.x + 31) >> 5); }

// Sums over a warp in a fixed order (a butterfly): every lane gets the same bits.
template <class T> __device__ __forceinline__ T warp_sum(T v) {
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL_WARP, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, o));
    return v;
}

// Sum over a block of whole warps (one-dimensional), the same bits in every thread. `scratch` holds 32 values in shared
// memory and may be used again at once.
template <class T> __device__ T block_sum(T v, T* scratch) {
    v = warp_sum(v);
    __syncthreads();
    if (lane_index() == 0) scratch[warp_index()] = v;
    __syncthreads();
    T total = T(0);
    for (int w = 0; w < warp_count(); w++) total += scratch[w];
    return total;
}
__device__ inline float block_max(float v, float* scratch) {
    v = warp_max(v);
    __syncthreads();
    if (lane_index() == 0) scratch[warp_index()] = v;
    __syncthreads();
    float top = scratch[0];
    for (int w = 1; w < warp_count(); w++) top = fmaxf(top, scratch[w]);
    return top;
}

// Philox-4x32 with ten rounds (Salmon et al., SC 2011), the generator of `rng::philox`.
struct Philox {
    unsigned word[4];
};
__device__ __forceinline__ Philox philox(unsigned key_low, unsigned key_high, unsigned c0, unsigned c1, unsigned c2, unsigned c3) {
    for (int i = 0; i < 10; i++) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ key_low;
        c1 = low1;
        c2 = high0 ^ c3 ^ key_high;
        c3 = low0;
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    return Philox{{c0, c1, c2, c3}};
}
