// Attention of a decoder to cached keys and values in blocks of 16 positions, the same for prompts and for single new tokens.
//
// `qkv [T, heads + 2 kv_heads, width]` holds rotated queries, the cache is that of decoder.cu, `out [T, ld]` has heads side by side.
// A tile is up to 16 queries of one sequence that use the same key head: `tiles [n, 4]` names its first row, its rows, the position of
// the first and where the sequence's block numbers begin in `tables`. Query heads beyond 16 of a key head go to further blocks.
//
// Keys and values pass through shared memory 32 positions at a time, from a multiple of 32 on; the next 32 are on their way meanwhile
// (but for heads of more than 128 float32 numbers, of which memory holds one piece). A warp has every fourth query of the
// tile; a lane scores one key, then sums its dimensions of the values (Milakov and Gimelshein's running softmax). What a query does
// not see counts as exactly nothing, so its bits do not depend on how the prompt was cut or on what else is in the batch.
//
// Bytes: a cell is read once a tile; operations: 4 width for each query and key. Not limited by either in decode but by latency: with
// S sequences there are S kv_heads blocks.
#include "element.cuh"

struct AttentionShape {
    int heads, kv_heads, width, padded, layer, layers;
    int window;  // how many of the latest positions a query sees; 0: all
    float scale; // of products of queries and keys
    float cap;   // scores become cap tanh(score / cap); 0: as they are
    int ld;
};
EXPORT_STRUCT(AttentionShape)

namespace decoder {

constexpr int KEYS = 32, QUERIES = 16, WARPS = 4, OWN = QUERIES / WARPS;

// Pieces of keys and values in shared memory.
template <class E, int J> constexpr int PIECES = sizeof(typename E::T) * J > 16 ? 1 : 2;

// J: dimensions of a lane, `padded` <= 32 J.
template <class E, int J>
__device__ __forceinline__ void attend(void* out, const float* qkv, const void* cache_, const int* tiles, const int* tables,
                                       const AttentionShape& s) {
    typedef typename E::T T;
    constexpr int P = E::PER_COPY;
    const T* cache = static_cast<const T*>(cache_);
    const int key_ld = s.padded + P;
    LUMOS_SHARED(float, queries);                                     // [16, padded]
    float* const weights = queries + QUERIES * s.padded;              // [16, 32]
    T* const pieces = reinterpret_cast<T*>(weights + QUERIES * KEYS); // keys [32, padded + P] and values [32, padded], for each piece

    const int* tile = tiles + 4 * blockIdx.x;
    const int row = tile[0], rows = tile[1], position = tile[2];
    const int* table = tables + tile[3];
    const int kv = blockIdx.y, group = s.heads / s.kv_heads;
    const int first_head = blockIdx.z * QUERIES, heads = min(QUERIES, group - first_head);
    const int n = rows * heads, warp = warp_index(), lane = lane_index();
    const int all = s.heads + 2 * s.kv_heads;

    const int last = position + rows - 1;
    const int first = s.window && position + 1 > s.window ? (position + 1 - s.window) / KEYS * KEYS : 0;

    const int copies = s.padded / P, piece_size = KEYS * (key_ld + s.padded);
    auto fetch = [&](int start) {
        T* const keys = pieces + start / KEYS % PIECES<E, J> * piece_size;
        T* const values = keys + KEYS * key_ld;
        for (int i = threadIdx.x; i < 2 * KEYS * copies; i += 32 * WARPS) {
            const int value = i / (KEYS * copies), key = i / copies % KEYS, at = i % copies * P;
            const bool there = start + key <= last;
            const T* from = cache;
            if (there) {
                const long long cell = (static_cast<long long>(table[(start + key) / 16]) * s.layers + s.layer) * s.kv_heads + kv;
                from += (cell * 32 + value * 16 + (start + key) % 16) * s.padded + at;
            }
            copy_async_or_zero(value ? values + key * s.padded + at : keys + key * key_ld + at, from, there);
        }
    };
    if (PIECES<E, J> == 2) fetch(first);
    for (int i = threadIdx.x; i < n * s.padded; i += 32 * WARPS) {
        const int q = i / s.padded, d = i % s.padded, head = kv * group + first_head + q % heads;
        const float* from = qkv + (static_cast<long long>(row + q / heads) * all + head) * s.width;
        queries[i] = d < s.width ? from[d] : 0.0f;
    }

    float top[OWN], sum[OWN], acc[OWN][J];
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        top[r] = -INFINITY, sum[r] = 0.0f;
#pragma unroll
        for (int j = 0; j < J; j++) acc[r][j] = 0.0f;
    }
    for (int start = first; start <= last; start += KEYS) {
        if (PIECES<E, J> == 1) {
            __syncthreads();
            fetch(start);
        }
        wait_for_copies();
        __syncthreads();
        // What this overwrites was read before the barrier.
        if (PIECES<E, J> == 2 && start + KEYS <= last) fetch(start + KEYS);
        const T* const keys = pieces + start / KEYS % PIECES<E, J> * piece_size;
        const T* const values = keys + KEYS * key_ld;

        float score[OWN];
#pragma unroll
        for (int r = 0; r < OWN; r++) score[r] = 0.0f;
        for (int d = 0; d < s.padded; d += P) {
            float k[P];
            E::read(keys + lane * key_ld + d, k);
#pragma unroll
            for (int r = 0; r < OWN; r++) {
                if (warp + WARPS * r < n) {
                    const float* q = queries + (warp + WARPS * r) * s.padded + d;
#pragma unroll
                    for (int i = 0; i < P; i += 4) {
                        const float4 v = *reinterpret_cast<const float4*>(q + i);
                        score[r] = fmaf(v.w, k[i + 3], fmaf(v.z, k[i + 2], fmaf(v.y, k[i + 1], fmaf(v.x, k[i], score[r]))));
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < OWN; r++) {
            const int q = warp + WARPS * r;
            if (q < n) {
                const int at = position + q / heads, key = start + lane;
                const bool seen = key <= at && (s.window == 0 || key + s.window > at);
                float v = score[r] * s.scale;
                v = s.cap != 0.0f ? s.cap * tanhf(v / s.cap) : v;
                v = seen ? v : -INFINITY;
                const float most = fmaxf(top[r], warp_max(v));
                const bool any = most != -INFINITY;
                const float weight = any && seen ? expf(v - most) : 0.0f;
                const float keep = any ? expf(top[r] - most) : 1.0f;
                top[r] = most;
                sum[r] = sum[r] * keep + warp_sum(weight);
#pragma unroll
                for (int j = 0; j < J; j++) acc[r][j] *= keep;
                weights[q * KEYS + lane] = weight;
            }
        }
        __syncwarp();
        for (int key = 0; key < KEYS; key++) {
            float v[J];
#pragma unroll
            for (int j = 0; j < J; j++) {
                const int d = lane + 32 * j;
                v[j] = d < s.padded ? E::number(values[key * s.padded + d]) : 0.0f;
            }
#pragma unroll
            for (int r = 0; r < OWN; r++) {
                if (warp + WARPS * r < n) {
                    const float weight = weights[(warp + WARPS * r) * KEYS + key];
#pragma unroll
                    for (int j = 0; j < J; j++) {
                        // Nothing even where the value is infinite or none: a key that is not seen leaves no trace.
                        acc[r][j] = weight != 0.0f ? fmaf(weight, v[j], acc[r][j]) : acc[r][j];
                    }
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        const int q = warp + WARPS * r;
        if (q < n) {
            const int head = kv * group + first_head + q % heads;
            T* to = static_cast<T*>(out) + static_cast<long long>(row + q / heads) * s.ld + head * s.width;
#pragma unroll
            for (int j = 0; j < J; j++) {
                const int d = lane + 32 * j;
                if (d < s.width) to[d] = E::make(acc[r][j] / sum[r]);
            }
        }
    }
    // The product that follows reads whole rows: what pads them is nothing.
    if (kv == 0 && blockIdx.z == 0) {
        const int used = s.heads * s.width;
        for (int i = threadIdx.x; i < rows * (s.ld - used); i += 32 * WARPS) {
            const int pad = s.ld - used;
            static_cast<T*>(out)[static_cast<long long>(row + i / pad) * s.ld + used + i % pad] = E::make(0.0f);
        }
    }
}

} // namespace decoder

// Launch: grid (tiles, kv_heads, ceil(heads / kv_heads / 16)), 128 threads; shared bytes 64 padded + 2048 +
// 32 sizeof(number) (2 padded + 16 / sizeof(number)), the last part twice where two pieces are kept. NAME_J takes heads of up to 32 J numbers.
#define LUMOS_ATTEND(name, E, J)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                                           \
        name(void* out, const float* qkv, const void* cache, const int* tiles, const int* tables, AttentionShape shape) {          \
        decoder::attend<E, J>(out, qkv, cache, tiles, tables, shape);                                                              \
    }
LUMOS_ATTEND(decoder_attend_f32_2, Float32, 2)
EXPORT_KERNEL(decoder_attend_f32_2)
LUMOS_ATTEND(decoder_attend_f32_4, Float32, 4)
EXPORT_KERNEL(decoder_attend_f32_4)
LUMOS_ATTEND(decoder_attend_f32_8, Float32, 8)
EXPORT_KERNEL(decoder_attend_f32_8)
LUMOS_ATTEND(decoder_attend_bf16_2, Bfloat16, 2)
EXPORT_KERNEL(decoder_attend_bf16_2)
LUMOS_ATTEND(decoder_attend_bf16_4, Bfloat16, 4)
EXPORT_KERNEL(decoder_attend_bf16_4)
LUMOS_ATTEND(decoder_attend_bf16_8, Bfloat16, 8)
EXPORT_KERNEL(decoder_attend_bf16_8)
LUMOS_ATTEND(decoder_attend_f16_2, Float16, 2)
EXPORT_KERNEL(decoder_attend_f16_2)
LUMOS_ATTEND(decoder_attend_f16_4, Float16, 4)
EXPORT_KERNEL(decoder_attend_f16_4)
LUMOS_ATTEND(decoder_attend_f16_8, Float16, 8)
EXPORT_KERNEL(decoder_attend_f16_8)
