// Tensor-core products of one warp: `C [16, 8] += A [16, K] B [K, 8]` with float32 sums, in TF32 (K = 8) or bfloat16 (K = 16).
//
// Lane `l` is in group `g = l / 4` and has number `t = l % 4` in it. What the lane holds, as (row, column):
//
//            A                                                     B                                C
//   TF32     (g, t) (g+8, t) (g, t+4) (g+8, t+4)                   (t, g) (t+4, g)                  (g, 2t) (g, 2t+1)
//   bfloat16 (g, 2t..2t+1) (g+8, 2t..) (g, 2t+8..) (g+8, 2t+8..)   (2t..2t+1, g) (2t+8..2t+9, g)    (g+8, 2t) (g+8, 2t+1)
//
// A register holds one TF32 number, or two bfloat16 numbers with the lower index in the low half. On the CPU the same
// fragments are gathered from the lanes of the warp, so that a wrong layout gives wrong numbers there too.
#pragma once

#include "common.cuh"

// A matrix in shared memory whose rows are contiguous along the depth of the product.
struct AlongDepth {
    const float* p;
    int ld;
    __device__ __forceinline__ float at(int row, int k) const { return p[row * ld + k]; }
    __device__ __forceinline__ float2 pair(int row, int k) const { return *reinterpret_cast<const float2*>(p + row * ld + k); }
};

// A matrix in shared memory stored depth by depth: element (row, k) is at `p[k * ld + row]`.
struct AcrossDepth {
    const float* p;
    int ld;
    __device__ __forceinline__ float at(int row, int k) const { return p[k * ld + row]; }
    __device__ __forceinline__ float2 pair(int row, int k) const { return float2{p[k * ld + row], p[(k + 1) * ld + row]}; }
};

#ifdef LUMOS_SIMT

#include <cstring>

// The rounding of cvt.rna.tf32: to ten bits of mantissa, ties away from zero.
inline unsigned tf32_word(float v) {
    unsigned u;
    std::memcpy(&u, &v, 4);
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}

// The rounding of cvt.rn.bf16: to seven bits of mantissa, ties to even; a NaN stays one.
inline unsigned bf16_bits(float v) {
    unsigned u;
    std::memcpy(&u, &v, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fffu;
    }
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

inline unsigned bf16_word(float low, float high) { return bf16_bits(high) << 16 | bf16_bits(low); }

inline float word_float(unsigned u) {
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

struct MmaFragment {
    unsigned a[4];
    unsigned b[2];
};

inline MmaFragment mma_fragment(const unsigned a[4], const unsigned b[2]) { return {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}; }

inline void mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
    auto warp = simt::share(FULL_WARP, mma_fragment(a, b));
    const int g = int(simt::here.lane) / 4, t = int(simt::here.lane) % 4;
    for (int i = 0; i < 4; i++) {
        const int half = i / 2, col = 2 * t + i % 2;
        for (int k = 0; k < 8; k++) {
            c[i] += word_float(warp.get(4 * g + k % 4).a[half + 2 * (k / 4)]) * word_float(warp.get(4 * col + k % 4).b[k / 4]);
        }
    }
}

// Sixteen products of halves for each sum; `number(bits)` is what a half stands for.
template <class F> inline void mma_halves(float c[4], const unsigned a[4], const unsigned b[2], F number) {
    auto warp = simt::share(FULL_WARP, mma_fragment(a, b));
    const int g = int(simt::here.lane) / 4, t = int(simt::here.lane) % 4;
    auto half_of = [&](unsigned word, int odd) { return number(odd ? word >> 16 : word & 0xffffu); };
    for (int i = 0; i < 4; i++) {
        const int half = i / 2, col = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            const int from = k % 8 / 2;
            c[i] += half_of(warp.get(4 * g + from).a[half + 2 * (k / 8)], k % 2) * half_of(warp.get(4 * col + from).b[k / 8], k % 2);
        }
    }
}

inline void mma_bf16(float c[4], const unsigned a[4], const unsigned b[2]) {
    mma_halves(c, a, b, [](unsigned half) { return word_float(half << 16); });
}

#else

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "TF32 and bfloat16 products need compute capability 8.0"
#endif

__device__ __forceinline__ unsigned tf32_word(float v) {
    unsigned u;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(v));
    return u;
}

__device__ __forceinline__ unsigned bf16_word(float low, float high) {
    unsigned u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
}

__device__ __forceinline__ void mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// Fragments in TF32, read from float32 in shared memory. The leading dimensions that meet no bank conflict are 4 above a
// multiple of 32 along the depth and 8 above across it.
struct Tf32 {
    static constexpr int DEPTH = 8;
    static constexpr int PAD_ALONG = 4;
    static constexpr int PAD_ACROSS = 8;

    template <class M>
    static __device__ __forceinline__ void load_a(unsigned a[4], const M& m, int row, int k, int lane) {
        const int g = row + lane / 4, t = k + lane % 4;
        a[0] = tf32_word(m.at(g, t));
        a[1] = tf32_word(m.at(g + 8, t));
        a[2] = tf32_word(m.at(g, t + 4));
        a[3] = tf32_word(m.at(g + 8, t + 4));
    }

    // `m` is B transposed: element (k, column) of B is `m.at(column, k)`.
    template <class M>
    static __device__ __forceinline__ void load_b(unsigned b[2], const M& m, int col, int k, int lane) {
        const int g = col + lane / 4, t = k + lane % 4;
        b[0] = tf32_word(m.at(g, t));
        b[1] = tf32_word(m.at(g, t + 4));
    }

    static __device__ __forceinline__ void multiply(float c[4], const unsigned a[4], const unsigned b[2]) { mma_tf32(c, a, b); }
};

// Fragments in bfloat16. A lane reads pairs along the depth, hence the other way round: 8 above along it, 4 across.
struct Bf16 {
    static constexpr int DEPTH = 16;
    static constexpr int PAD_ALONG = 8;
    static constexpr int PAD_ACROSS = 4;

    static __device__ __forceinline__ unsigned word(float2 v) { return bf16_word(v.x, v.y); }

    template <class M>
    static __device__ __forceinline__ void load_a(unsigned a[4], const M& m, int row, int k, int lane) {
        const int g = row + lane / 4, t = k + 2 * (lane % 4);
        a[0] = word(m.pair(g, t));
        a[1] = word(m.pair(g + 8, t));
        a[2] = word(m.pair(g, t + 8));
        a[3] = word(m.pair(g + 8, t + 8));
    }

    template <class M>
    static __device__ __forceinline__ void load_b(unsigned b[2], const M& m, int col, int k, int lane) {
        const int g = col + lane / 4, t = k + 2 * (lane % 4);
        b[0] = word(m.pair(g, t));
        b[1] = word(m.pair(g, t + 8));
    }

    static __device__ __forceinline__ void multiply(float c[4], const unsigned a[4], const unsigned b[2]) { mma_bf16(c, a, b); }
};
