// Kernels that test the rendition itself.
#include "common.cuh"
#include "optimiser.cuh"

extern "C" __global__ void selftest_block_sum(const float* x, float* y, int n) {
    LUMOS_SHARED(float, scratch);
    float v = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) v += x[blockIdx.x * n + i];
    v = block_sum(v, scratch);
    const float again = block_sum(1.0f, scratch);
    const float top = block_max(float(threadIdx.x), scratch);
    if (threadIdx.x == blockDim.x - 1) {
        y[blockIdx.x * 3] = v;
        y[blockIdx.x * 3 + 1] = again;
        y[blockIdx.x * 3 + 2] = top;
    }
}
EXPORT_KERNEL(selftest_block_sum)

// Half warps under masks of their own; the last lanes of the block have already left.
extern "C" __global__ void selftest_half_warps(int* out, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const bool upper = threadIdx.x & 16;
    const unsigned mask = upper ? 0xffff0000u : 0x0000ffffu;
    int v = i;
    if (upper) {
        for (int o = 8; o; o >>= 1) v += __shfl_xor_sync(mask, v, o, 16);
    } else {
        v = __shfl_down_sync(mask, v, 1, 16);
    }
    out[i] = v;
}
EXPORT_KERNEL(selftest_half_warps)

extern "C" __global__ void selftest_votes(unsigned* out) {
    const unsigned odd = __ballot_sync(FULL_WARP, threadIdx.x & 1);
    const int all = __all_sync(FULL_WARP, threadIdx.x < 64), any = __any_sync(FULL_WARP, threadIdx.x == 3);
    const int count = __syncthreads_count(threadIdx.x % 3 == 0), none = __syncthreads_or(0), every = __syncthreads_and(1);
    unsigned* o = out + 6 * threadIdx.x;
    o[0] = odd;
    o[1] = unsigned(all);
    o[2] = unsigned(any);
    o[3] = unsigned(count);
    o[4] = unsigned(none);
    o[5] = unsigned(every);
}
EXPORT_KERNEL(selftest_votes)

extern "C" __global__ void selftest_atomics(long long* sum, unsigned* low, const unsigned* x, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(x[i]));
    atomicMin(low, x[i]);
}
EXPORT_KERNEL(selftest_atomics)

extern "C" __global__ void selftest_unwritten(float* out) {
    LUMOS_SHARED(float, s);
    if (threadIdx.x != 5) s[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
EXPORT_KERNEL(selftest_unwritten)

extern "C" __global__ void selftest_deadlock(int) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncwarp();
        __shfl_sync(threadIdx.x == 40 ? 0xfffffeffu : FULL_WARP, 1, 0);
        __syncthreads();
    }
}
EXPORT_KERNEL(selftest_deadlock)

extern "C" __global__ void selftest_wrong_mask(int) { __syncwarp(threadIdx.x == 7 ? 1u : FULL_WARP); }
EXPORT_KERNEL(selftest_wrong_mask)

extern "C" __global__ void selftest_overrun(int at) {
    LUMOS_SHARED(int, s);
    s[at] = 1;
}
EXPORT_KERNEL(selftest_overrun)

extern "C" __global__ void selftest_places(int* out) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    out[i] = int(i) + 1;
}
EXPORT_KERNEL(selftest_places)

struct SelfTestPair {
    float a;
    int b;
};
extern "C" __global__ void selftest_philox(const unsigned* counters, unsigned* out, unsigned k0, unsigned k1, SelfTestPair pair, char flag) {
    const unsigned* c = counters + 4 * threadIdx.x;
    const Philox p = philox(k0, k1, c[0], c[1], c[2], c[3]);
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = p.word[i] + unsigned(pair.b) * unsigned(pair.a) * unsigned(flag);
}
EXPORT_KERNEL(selftest_philox)

// Weights by `adam_values`, four at a time, and by `adam_value`, one at a time: p, m, s `[4 threads]` and the same again.
extern "C" __global__ void selftest_adam(const OptimiserStep* opt, float scale, float* p, float* m, float* s, const float* g, float* p2, float* m2, float* s2) {
    const int at = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    adam_values<4>(*opt, scale, p + at, m + at, s + at, g + at);
    for (int i = at; i < at + 4; i++) {
        p2[i] = adam_value(*opt, scale, false, p2[i], m2[i], s2[i], g[i]);
    }
}
EXPORT_KERNEL(selftest_adam)
