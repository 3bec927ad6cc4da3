// Numbers that weights, cached keys and activations of the decoder are kept in: float32, bfloat16, float16. Sums are float32.
//
// `T` is what memory holds, `PER_COPY` how many make 16 bytes. A word of two halves has the lower index in its low half. No header of
// CUDA is needed, so that the same source serves where kernels are compiled at run time.
#pragma once

#include "async_copy.cuh"
#include "mma.cuh"

#ifdef LUMOS_SIMT

// The rounding of cvt.rn.f16: to ten bits of mantissa, ties to even; beyond 65504 infinite, below 2^-14 in steps of 2^-24.
inline unsigned f16_bits(float v) {
    unsigned u;
    std::memcpy(&u, &v, 4);
    const unsigned sign = u >> 16 & 0x8000u, size = u & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fffu;
    if (size >= 0x477ff000u) return sign | 0x7c00u;
    if (size < 0x38800000u) return sign | unsigned(std::nearbyint(std::fabs(v) * 16777216.0f));
    const unsigned rounded = size + 0xfffu + (size >> 13 & 1u);
    return sign | (rounded - 0x38000000u) >> 13;
}

inline float f16_float(unsigned h) {
    // A product of fragments asks for a thousand of them.
    static const std::vector<float> all = [] {
        std::vector<float> table(1 << 16);
        for (unsigned i = 0; i < table.size(); i++) {
            const int exponent = int(i >> 10 & 31u);
            const float mantissa = float(i & 1023u), sign = i & 0x8000u ? -1.0f : 1.0f;
            const float size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024.0f, exponent - 25);
            table[i] = sign * (exponent < 31 ? size : mantissa == 0.0f ? INFINITY : NAN);
        }
        return table;
    }();
    return all[h & 0xffffu];
}

inline unsigned f16_word(float low, float high) { return f16_bits(high) << 16 | f16_bits(low); }

inline float bf16_float(unsigned h) { return word_float(h << 16); }

inline void mma_f16(float c[4], const unsigned a[4], const unsigned b[2]) { mma_halves(c, a, b, f16_float); }

#else

__device__ __forceinline__ unsigned f16_word(float low, float high) {
    unsigned u;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
}

__device__ __forceinline__ float f16_float(unsigned h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(static_cast<unsigned short>(h)));
    return f;
}

__device__ __forceinline__ float bf16_float(unsigned h) { return __uint_as_float(h << 16); }

__device__ __forceinline__ void mma_f16(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

struct Float32 {
    typedef float T;
    static constexpr int PER_COPY = 4;
    static __device__ __forceinline__ float number(T v) { return v; }
    static __device__ __forceinline__ T make(float v) { return v; }
    // PER_COPY numbers at a multiple of 16 bytes.
    static __device__ __forceinline__ void read(const T* p, float* v) {
        const float4 q = *reinterpret_cast<const float4*>(p);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    }
};

template <class Own> struct Half {
    typedef unsigned short T;
    static constexpr int PER_COPY = 8;
    static __device__ __forceinline__ void read(const T* p, float* v) {
        const uint4 q = *reinterpret_cast<const uint4*>(p);
        const unsigned word[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = Own::number(static_cast<T>(word[i] & 0xffffu));
            v[2 * i + 1] = Own::number(static_cast<T>(word[i] >> 16));
        }
    }
};

struct Bfloat16 : Half<Bfloat16> {
    static __device__ __forceinline__ float number(T v) { return bf16_float(v); }
    static __device__ __forceinline__ T make(float v) { return static_cast<T>(bf16_word(v, 0.0f) & 0xffffu); }
    static __device__ __forceinline__ void multiply(float c[4], const unsigned a[4], const unsigned b[2]) { mma_bf16(c, a, b); }
};

struct Float16 : Half<Float16> {
    static __device__ __forceinline__ float number(T v) { return f16_float(v); }
    static __device__ __forceinline__ T make(float v) { return static_cast<T>(f16_word(v, 0.0f) & 0xffffu); }
    static __device__ __forceinline__ void multiply(float c[4], const unsigned a[4], const unsigned b[2]) { mma_f16(c, a, b); }
};
