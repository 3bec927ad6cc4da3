// One step of the local optimiser on one weight: see optimiser.cu.
#pragma once

#include "packed.cuh"

// The new value of the weight `w`, with its moments `m` and `s`; `first` takes them as zero.
__device__ __forceinline__ float adam_value(const OptimiserStep& opt, float scale, bool first, float w, float& m, float& s, float g) {
    g = fmaf(w, opt.l2, __fmul_rn(g, scale));
    w = __fmul_rn(w, opt.shrink);
    if (opt.sgd) {
        return fmaf(-opt.rate, g, w);
    }
    m = fmaf(opt.beta1, first ? 0.0f : m, __fmul_rn(1.0f - opt.beta1, g));
    s = fmaf(opt.beta2, first ? 0.0f : s, __fmul_rn(__fmul_rn(1.0f - opt.beta2, g), g));
    const float den = fmaf(__fsqrt_rn(s), opt.correction, opt.eps);
    return __fsub_rn(w, __fdiv_rn(__fmul_rn(opt.rate, m), den));
}

// The processor's approximations of `1 / sqrt(x)` and `1 / x`, which the compiler's own root and quotient begin with.
#ifdef LUMOS_SIMT
inline float root_start(float x) { return 1.0f / sqrtf(x); }
inline float quotient_start(float x) { return 1.0f / x; }
#else
__device__ __forceinline__ float root_start(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float quotient_start(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// New values of N weights whose moments are at hand, as `adam_value` has them to the last bit; not for gradient descent. Its root and its quotient each have a
// branch for numbers at the ends of the range. Here they are the compiler's own operations without it, which round correctly as long as every number in
// between is a normal one, and one branch for all N weights.
template <int N>
__device__ __forceinline__ void adam_values(const OptimiserStep& opt, float scale, float* w, float* m, float* s, const float* g) {
    constexpr float LEAST = 0x1p-60f, MOST = 0x1p60f;
    // The denominator is at least epsilon and at most 2^60 where a second moment is at most 2^100.
    bool inside = opt.eps >= LEAST && opt.eps <= 0x1p59f && opt.correction <= 0x1p9f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float gradient = fmaf(w[i], opt.l2, __fmul_rn(g[i], scale));
        w[i] = __fmul_rn(w[i], opt.shrink);
        m[i] = fmaf(opt.beta1, m[i], __fmul_rn(1.0f - opt.beta1, gradient));
        s[i] = fmaf(opt.beta2, s[i], __fmul_rn(__fmul_rn(1.0f - opt.beta2, gradient), gradient));
        const float num = fabsf(__fmul_rn(opt.rate, m[i]));
        // Nothing that is no number is inside, nor a negative zero, whose sign would be lost.
        const bool second = (s[i] == 0.0f) | ((s[i] >= 0x1p-100f) & (s[i] <= 0x1p100f));
        inside &= second & ((__float_as_int(m[i]) == 0) | ((num >= LEAST) & (num <= MOST)));
    }
    if (inside) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            // A zero begins like another number: its root is zero all the same.
            const float start = root_start(fmaxf(s[i], 0x1p-100f)), near = __fmul_rn(s[i], start);
            const float root = fmaf(fmaf(-near, near, s[i]), __fmul_rn(start, 0.5f), near);
            const float den = fmaf(root, opt.correction, opt.eps), num = __fmul_rn(opt.rate, m[i]), rough = quotient_start(den);
            const float inverse = fmaf(rough, fmaf(-den, rough, 1.0f), rough), quotient = __fmul_rn(num, inverse);
            w[i] = __fsub_rn(w[i], fmaf(inverse, fmaf(-den, quotient, num), quotient));
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float den = fmaf(__fsqrt_rn(s[i]), opt.correction, opt.eps);
            w[i] = __fsub_rn(w[i], __fdiv_rn(__fmul_rn(opt.rate, m[i]), den));
        }
    }
}

// One weight in memory, its moments not read where `first`.
__device__ __forceinline__ void adam_one(const OptimiserStep& opt, float scale, bool first, float* p, float* m, float* s, float g) {
    float m0 = first || opt.sgd ? 0.0f : *m, s0 = first || opt.sgd ? 0.0f : *s;
    *p = adam_value(opt, scale, first, *p, m0, s0, g);
    if (!opt.sgd) {
        *m = m0;
        *s = s0;
    }
}

// The weight behind a step's proximal term: its share of the way back to `start`, where the visit began.
__device__ __forceinline__ void pull_back(const OptimiserStep& opt, float* p, const float* start) {
    if (opt.pull > 0.0f) {
        *p = fmaf(opt.pull, __fsub_rn(*start, *p), *p);
    }
}

__device__ __forceinline__ bool client_trains(const Packed* step, int client) {
    return step->client_tokens[client] < step->client_tokens[client + 1];
}

// First position that a token of the client has and the one after the last: the rows of the position table that its step
// trains. It is the client's own reach, not the step's, so that weight decay on a row does not depend on who shares the launch.
struct Reach {
    int low;
    int high;
};
__device__ __forceinline__ Reach client_reach(const Packed* step, int client) {
    Reach reach{0, 0};
    bool none = true;
    for (int s = step->client_sequences[client]; s < step->client_sequences[client + 1]; s++) {
        const int first = step->bounds[s], end = step->bounds[s + 1];
        if (first < end) {
            const int low = step->position[first], high = step->position[end - 1] + 1;
            reach = Reach{none ? low : min(reach.low, low), none ? high : max(reach.high, high)};
            none = false;
        }
    }
    return reach;
}
