// Products of many rows by warpgroups, on compute capability 9.0 alone: what `decoder_linear.cu` computes in halves, with its parts of the
// depth and its order of sums, in tiles of 128 outputs by 256 rows.
//
// On other GPUs the kernels leave `y` as it is. The engine takes them where a product of its own has the same bits by them and by the
// other tiles: PTX does not say how a tensor core rounds within a step of 16, and a text's bits must not depend on its batch.
//
// Two warpgroups of 64 outputs each; stages of 64 numbers of the depth. When stage `p` is multiplied, `p + 1` and `p + 2` are on their
// way, and `p - 1` may still be multiplied.
//
// Bytes and operations are those of `decoder_linear.cu`; 48 KB are copied for 4.2 million operations, by tiles of 128 by
// 128 it would be 64.
#include "decoder_parts.cuh"
#include "warpgroup.cuh"

namespace decoder {

constexpr int WIDE_OUT = 128, WIDE_ROWS = 256, WIDE_THREADS = 256, WIDE_STAGES = 4;

template <class E>
__device__ __forceinline__ void multiply_wide(float* y, const void* x_, const void* w_, const float* bias, int rows, int outputs, int ld, int add) {
    typedef typename E::T T;
    using namespace warpgroup;
    // Lines of a stage: first the outputs' weights, then the rows.
    constexpr int LINES = WIDE_OUT + WIDE_ROWS, STAGE = LINES * LINE, STEP = WIDE_THREADS / 8;
    LUMOS_SHARED(T, shared);
    const unsigned begin = (shared_address(shared) + EIGHT_LINES - 1) / EIGHT_LINES * EIGHT_LINES;
    T* const stages = shared + (begin - shared_address(shared)) / sizeof(T);

    const T* x = static_cast<const T*>(x_);
    const T* w = static_cast<const T*>(w_);
    const int first_row = blockIdx.x * WIDE_ROWS, first_out = blockIdx.y * WIDE_OUT;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = lane_index();
    const int pieces = ceil_div(ld, LINE), part = part_pieces(ld, LINE);

    // A thread copies the same 16 bytes of every 32nd line.
    const int own_line = threadIdx.x / 8, place = threadIdx.x % 8;
    auto fetch = [&](int piece) {
        if (piece < pieces) {
            T* to = stages + piece % WIDE_STAGES * STAGE + at(own_line, place);
            const int column = piece * LINE + place * 8;
#pragma unroll
            for (int i = 0; i < LINES / STEP; i++) {
                const bool weights = i < WIDE_OUT / STEP;
                const int index = own_line + i * STEP + (weights ? first_out : first_row - WIDE_OUT);
                const bool there = index < (weights ? outputs : rows) && column < ld;
                const T* from = (weights ? w : x) + (there ? static_cast<long long>(index) * ld + column : 0);
                copy_async_or_zero(to + i * STEP * LINE, from, there);
            }
        }
        close_copies();
    };

    float c[SUMS];
#pragma unroll
    for (int piece = 0; piece < WIDE_STAGES - 2; piece++) fetch(piece);
    for (int first = 0; first < pieces; first += part) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) c[i] = 0.0f;
        const int end = min(first + part, pieces);
        for (int piece = first; piece < end; piece++) {
            wait_for_older_copies<WIDE_STAGES - 3>();
            show_copies();
            __syncthreads();
            // Every thread has awaited the product of the stage that this fills.
            fetch(piece + WIDE_STAGES - 2);
            const unsigned stage = begin + piece % WIDE_STAGES * STAGE * sizeof(T);
            open_products();
#pragma unroll
            for (int k = 0; k < LINE; k += DEPTH) {
                const unsigned a = stage + group * ROWS * LINE * sizeof(T) + k * sizeof(T);
                const unsigned b = stage + WIDE_OUT * LINE * sizeof(T) + k * sizeof(T);
                add_product<E>(c, matrix(a), matrix(b));
            }
            close_products();
            await_products<1>(c);
        }
        await_products<0>(c);
        const int output = first_out + group * ROWS + 16 * warp + lane / 4, row = first_row + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            const int o = output + i % 4 / 2 * 8, r = row + i / 4 * 8 + i % 2;
            if (o < outputs && r < rows) {
                float* to = y + static_cast<long long>(r) * outputs + o;
                *to = first > 0 ? *to + c[i] : begun(c[i], bias, o, to, add);
            }
        }
    }
}

} // namespace decoder

#if defined(LUMOS_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LUMOS_MULTIPLY_WIDE(E) decoder::multiply_wide<E>(y, x, w, bias, rows, outputs, ld, add)
#else
#define LUMOS_MULTIPLY_WIDE(E)
#endif

// Launch: grid (ceil(rows / 256), ceil(outputs / 128)), 256 threads, 197,632 bytes of shared memory.
#define LUMOS_WIDE(name, E)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(decoder::WIDE_THREADS, 1)                                                         \
        name(float* y, const void* x, const void* w, const float* bias, int rows, int outputs, int ld, int add) {                  \
        LUMOS_MULTIPLY_WIDE(E);                                                                                                    \
    }
LUMOS_WIDE(decoder_wide_f16, Float16)
EXPORT_KERNEL(decoder_wide_f16)
LUMOS_WIDE(decoder_wide_bf16, Bfloat16)
EXPORT_KERNEL(decoder_wide_bf16)
