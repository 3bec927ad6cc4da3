// The small parts of a language model's decoder on packed rows of tokens: everything but products, attention and the choice of tokens.
//
// The residual stream and the results of products are float32 `[T, width]`; what goes into a product is float32, bfloat16 or float16
// `[T, ld]`, `ld` being the width padded with zeros to a multiple of 32. A row's numbers depend on the row alone. All kernels here are
// bit-reproducible and limited by the bytes they move.
#include "element.cuh"

namespace decoder {

constexpr int THREADS = 128;

template <class E> __device__ __forceinline__ void embed(float* x, const void* table, const int* tokens, int width, int ld, float scale) {
    const typename E::T* from = static_cast<const typename E::T*>(table) + static_cast<long long>(tokens[blockIdx.x]) * ld;
    float* to = x + static_cast<long long>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += THREADS) to[i] = E::number(from[i]) * scale;
}

template <class E> __device__ __forceinline__ void norm(void* y, const float* x, const float* weight, int width, int ld, float eps) {
    LUMOS_SHARED(float, scratch);
    const float* from = x + static_cast<long long>(blockIdx.x) * width;
    typename E::T* to = static_cast<typename E::T*>(y) + static_cast<long long>(blockIdx.x) * ld;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) squares = fmaf(from[i], from[i], squares);
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    for (int i = threadIdx.x; i < ld; i += THREADS) to[i] = E::make(i < width ? from[i] * scale * weight[i] : 0.0f);
}

// gate / (1 + e^-gate), or GELU by its tanh formula.
__device__ __forceinline__ float activate(float gate, int gelu) {
    if (gelu) {
        return 0.5f * gate * (1.0f + tanhf(0.7978845608028654f * (gate + 0.044715f * gate * gate * gate)));
    }
    return gate / (1.0f + expf(-gate));
}

template <class E> __device__ __forceinline__ void gated(void* y, const float* gate_up, int inner, int ld, int gelu) {
    const float* from = gate_up + static_cast<long long>(blockIdx.x) * 2 * inner;
    typename E::T* to = static_cast<typename E::T*>(y) + static_cast<long long>(blockIdx.x) * ld;
    for (int i = threadIdx.x + blockIdx.y * THREADS; i < ld; i += THREADS * gridDim.y) {
        to[i] = E::make(i < inner ? activate(from[i], gelu) * from[inner + i] : 0.0f);
    }
}

template <class E> __device__ __forceinline__ void add(float* x, const void* y, int width, int ld) {
    float* to = x + static_cast<long long>(blockIdx.x) * width;
    const typename E::T* from = static_cast<const typename E::T*>(y) + static_cast<long long>(blockIdx.x) * ld;
    for (int i = threadIdx.x; i < width; i += THREADS) to[i] += E::number(from[i]);
}

} // namespace decoder

// Shape of a cache and of the heads that use it. A cell, keys and values of one block of 16 positions, layer and head, is
// `[2, 16, padded]`; the cache is `[blocks, layers, kv_heads]` of them. `padded` is the head's width padded with zeros to a copy.
struct Heads {
    int heads, kv_heads, width, padded, rotated, layer, layers;
    float eps; // of the heads' norms
};
EXPORT_STRUCT(Heads)

namespace decoder {

// A head of `width` numbers at `x`: its norm, and the rotation of pairs (i, i + rotated / 2) by a warp. `write(i, value)` takes it.
template <class F>
__device__ __forceinline__ void turn(const float* x, const float* weight, const float* table, const Heads& h, F write) {
    const int lane = lane_index(), half = h.rotated / 2;
    float scale = 1.0f;
    if (weight) {
        float squares = 0.0f;
        for (int i = lane; i < h.width; i += 32) squares = fmaf(x[i], x[i], squares);
        scale = 1.0f / sqrtf(warp_sum(squares) / h.width + h.eps);
        __syncwarp(); // `write` may replace numbers that another lane has just read for the norm.
    }
    auto number = [&](int i) { return weight ? x[i] * scale * weight[i] : x[i]; };
    for (int i = lane; i < half; i += 32) {
        const float a = number(i), b = number(i + half), cos = table[i], sin = table[half + i];
        write(i, a * cos - b * sin);
        write(i + half, b * cos + a * sin);
    }
    for (int i = h.rotated + lane; i < h.width; i += 32) write(i, number(i));
}

template <class E>
__device__ __forceinline__ void store(float* qkv, void* cache, const int* positions, const int* places, const float* query_norm,
                                      const float* key_norm, const float* table, const Heads& h, int rows) {
    const int all = h.heads + 2 * h.kv_heads;
    const long long job = static_cast<long long>(blockIdx.x) * 8 + warp_index();
    if (job >= static_cast<long long>(rows) * all) {
        return;
    }
    const int row = static_cast<int>(job / all), head = static_cast<int>(job % all), lane = lane_index();
    float* x = qkv + (static_cast<long long>(row) * all + head) * h.width;
    const float* turns = table + static_cast<long long>(positions[row]) * h.rotated;
    if (head < h.heads) {
        turn(x, query_norm, turns, h, [&](int i, float v) { x[i] = v; });
        return;
    }
    const int value = head >= h.heads + h.kv_heads, own = head - h.heads - value * h.kv_heads;
    const long long cell = (static_cast<long long>(places[row] / 16) * h.layers + h.layer) * h.kv_heads + own;
    typename E::T* to = static_cast<typename E::T*>(cache) + (cell * 32 + value * 16 + places[row] % 16) * h.padded;
    if (value) {
        for (int i = lane; i < h.width; i += 32) to[i] = E::make(x[i]);
    } else {
        turn(x, key_norm, turns, h, [&](int i, float v) { to[i] = E::make(v); });
    }
    for (int i = h.width + lane; i < h.padded; i += 32) to[i] = E::make(0.0f);
}

} // namespace decoder

// `x [T, width] = table[tokens] scale`. Launch: grid T, 128 threads. Bytes: (sizeof(number) + 4) T width.
#define LUMOS_EMBED(name, E)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        name(float* x, const void* table, const int* tokens, int width, int ld, float scale) {                                     \
        decoder::embed<E>(x, table, tokens, width, ld, scale);                                                                     \
    }
LUMOS_EMBED(decoder_embed_f32, Float32)
EXPORT_KERNEL(decoder_embed_f32)
LUMOS_EMBED(decoder_embed_bf16, Bfloat16)
EXPORT_KERNEL(decoder_embed_bf16)
LUMOS_EMBED(decoder_embed_f16, Float16)
EXPORT_KERNEL(decoder_embed_f16)

// `y [T, ld] = x / sqrt(mean(x^2) + eps) weight`. Launch: grid T, 128 threads, 128 bytes of shared memory.
// Bytes: (8 + sizeof(number)) T width.
#define LUMOS_NORM(name, E)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        name(void* y, const float* x, const float* weight, int width, int ld, float eps) {                                         \
        decoder::norm<E>(y, x, weight, width, ld, eps);                                                                            \
    }
LUMOS_NORM(decoder_norm_f32, Float32)
EXPORT_KERNEL(decoder_norm_f32)
LUMOS_NORM(decoder_norm_bf16, Bfloat16)
EXPORT_KERNEL(decoder_norm_bf16)
LUMOS_NORM(decoder_norm_f16, Float16)
EXPORT_KERNEL(decoder_norm_f16)

// `y [T, ld] = activation(gate) up` of `gate_up [T, 2 inner]`; `gelu` chooses the activation. Launch: grid (T, 1 to ceil(ld / 128)),
// 128 threads. Bytes: (8 + sizeof(number)) T inner.
#define LUMOS_GATED(name, E)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) name(void* y, const float* gate_up, int inner, int ld, int gelu) {           \
        decoder::gated<E>(y, gate_up, inner, ld, gelu);                                                                            \
    }
LUMOS_GATED(decoder_gated_f32, Float32)
EXPORT_KERNEL(decoder_gated_f32)
LUMOS_GATED(decoder_gated_bf16, Bfloat16)
EXPORT_KERNEL(decoder_gated_bf16)
LUMOS_GATED(decoder_gated_f16, Float16)
EXPORT_KERNEL(decoder_gated_f16)

// `x [T, width] += y [T, ld]`. Launch: grid T, 128 threads. Bytes: (8 + sizeof(number)) T width.
#define LUMOS_ADD(name, E)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) name(float* x, const void* y, int width, int ld) {                           \
        decoder::add<E>(x, y, width, ld);                                                                                          \
    }
LUMOS_ADD(decoder_add_f32, Float32)
EXPORT_KERNEL(decoder_add_f32)
LUMOS_ADD(decoder_add_bf16, Bfloat16)
EXPORT_KERNEL(decoder_add_bf16)
LUMOS_ADD(decoder_add_f16, Float16)
EXPORT_KERNEL(decoder_add_f16)

// Normalises and rotates the queries of `qkv [T, heads + 2 kv_heads, width]` in place; keys, treated alike, and values go to the cache
// at `places [T]` (block * 16 + position in it). `table [positions, 2, rotated / 2]` has cosines and sines; norms may be null.
// Launch: grid ceil(T (heads + 2 kv_heads) / 8), 256 threads. Bytes: T width (8 heads + (4 + sizeof(number)) 2 kv_heads).
#define LUMOS_STORE(name, E)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                              \
        name(float* qkv, void* cache, const int* positions, const int* places, const float* query_norm, const float* key_norm,     \
             const float* table, Heads heads, int rows) {                                                                          \
        decoder::store<E>(qkv, cache, positions, places, query_norm, key_norm, table, heads, rows);                                \
    }
LUMOS_STORE(decoder_store_f32, Float32)
EXPORT_KERNEL(decoder_store_f32)
LUMOS_STORE(decoder_store_bf16, Bfloat16)
EXPORT_KERNEL(decoder_store_bf16)
LUMOS_STORE(decoder_store_f16, Float16)
EXPORT_KERNEL(decoder_store_f16)

// `to [n, words]` from the rows `rows [n]` of `from [., words]`, words of four bytes. Launch: grid n, 128 threads. Bytes: 8 n words.
extern "C" __global__ void __launch_bounds__(128) decoder_pick(unsigned* to, const unsigned* from, const int* rows, int words) {
    const unsigned* source = from + static_cast<long long>(rows[blockIdx.x]) * words;
    for (int i = threadIdx.x; i < words; i += 128) to[static_cast<long long>(blockIdx.x) * words + i] = source[i];
}
EXPORT_KERNEL(decoder_pick)
