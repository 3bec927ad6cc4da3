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

// One weight in memory, its moments not read where `first`.
__device__ __forceinline__ void adam_one(const OptimiserStep& opt, float scale, bool first, float* p, float* m, float* s, float g) {
    float m0 = first || opt.sgd ? 0.0f : *m, s0 = first || opt.sgd ? 0.0f : *s;
    *p = adam_value(opt, scale, first, *p, m0, s0, g);
    if (!opt.sgd) {
        *m = m0;
        *s = s0;
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
