// Item rows and positions into the encoder, and their gradients back.
#include "scatter.cuh"

// Lanes that share one row of `units` columns: a power of two, at most a warp.
__device__ __forceinline__ int embed_lanes(int units) {
    int lanes = 1;
    while (lanes < units && lanes < 32) {
        lanes *= 2;
    }
    return lanes;
}

__device__ __forceinline__ bool embed_aligned(const void* p) {
    return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// y[t] = scale * rows[row[t]] + positions[position[t]].
//
// rows [R, d], y [T, d] f32; the position table [max_len, d] starts at `positions` in each client's slab, -1 for none.
// Grid: ceil(T / (256 / L)) blocks of 256, or fewer (they go round), L the power of two from d / 4 (d where d is not a
// multiple of 4) up to 32; shared memory: none. Bit-reproducible. Bytes: 12 T d + 8 T, less what the cache holds of
// positions; operations: 2 T d.
extern "C" __global__ void __launch_bounds__(256) embed(const Packed* step, float scale, int positions, const float* rows,
                                                        const float* dense, long long stride, float* y, int d) {
    const float* table = dense + (positions < 0 ? 0 : positions);
    const bool fours = d % 4 == 0 && embed_aligned(rows) && embed_aligned(y) &&
                       (positions < 0 || (embed_aligned(table) && stride % 4 == 0));
    const int units = fours ? d / 4 : d;
    const int lanes = embed_lanes(units);
    const int lane = threadIdx.x & (lanes - 1);
    const int each = blockDim.x / lanes;
    const int tokens = step->tokens;
    for (long long t = static_cast<long long>(blockIdx.x) * each + threadIdx.x / lanes; t < tokens;
         t += static_cast<long long>(gridDim.x) * each) {
        const float* item = rows + static_cast<long long>(step->row[t]) * d;
        const float* place = nullptr;
        if (positions >= 0) {
            place = table + step->token_client[t] * stride + static_cast<long long>(step->position[t]) * d;
        }
        float* out = y + t * d;
        for (int u = lane; u < units; u += lanes) {
            if (fours) {
                const float4 x = reinterpret_cast<const float4*>(item)[u];
                const float4 p = place != nullptr ? reinterpret_cast<const float4*>(place)[u] : float4{0.0f, 0.0f, 0.0f, 0.0f};
                reinterpret_cast<float4*>(out)[u] =
                    float4{x.x * scale + p.x, x.y * scale + p.y, x.z * scale + p.z, x.w * scale + p.w};
            } else {
                out[u] = item[u] * scale + (place != nullptr ? place[u] : 0.0f);
            }
        }
    }
}
EXPORT_KERNEL(embed)

// Tokens as entries of a scatter: each adds its own gradient to the row it was read from.
struct TokenSource {
    const int* rows;
    float scale;
    __device__ int row(int token) const {
        return rows[token];
    }
    __device__ int index(int token) const {
        return token;
    }
    __device__ float factor(int) const {
        return scale;
    }
};

// row_grad[row[t]] += scale * dy[t] for all tokens t, in token order within a row.
//
// dy [T, d], row_grad [R, d] f32. Grid: (C, ceil(rows of the largest client / 64)) or fewer in y (they go round), blocks of
// 128; shared memory: SCATTER_SHARED = 6,160 bytes. Bit-reproducible. Bytes: 4 T d read, 8 d for each distinct row of a
// client; operations: 2 T d.
extern "C" __global__ void __launch_bounds__(SCATTER_THREADS)
    embed_backward_rows(const Packed* step, float scale, const float* dy, float* row_grad, int d) {
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const TokenSource source{step->row, scale};
    scatter_client(step, source, step->client_tokens[client], step->client_tokens[client + 1], dy, row_grad, d);
}
EXPORT_KERNEL(embed_backward_rows)

// grad[c][p] = sum of dy[t] over the tokens t of client c at position p, in token order; zero where there are none. Only
// positions position_low..position_high of the step are written.
//
// dy [T, d]; the gradient table starts at `positions` in each client's slab of `grad [C, stride]`. One warp a position.
// Grid: (C, ceil(largest position_high - position_low / 4)) or fewer in y (they go round), blocks of 128; shared memory:
// none. Bit-reproducible. Bytes: 4 T d read, 4 C P' d written for P' positions; operations: T d.
extern "C" __global__ void __launch_bounds__(128)
    embed_backward_positions(const Packed* step, const float* dy, float* grad, long long stride, int positions, int d) {
    constexpr int COLUMNS = 4; // of a lane at a time, 32 apart
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warps = warp_count();
    const int low = step->client_sequences[client], high = step->client_sequences[client + 1];
    for (int p = step->position_low + blockIdx.y * warps + warp_index(); p < step->position_high; p += gridDim.y * warps) {
        float* out = grad + client * stride + positions + static_cast<long long>(p) * d;
        for (int k0 = 0; k0 < d; k0 += 32 * COLUMNS) {
            float sum[COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (int s0 = low; s0 < high; s0 += 32) {
                // A sequence holds consecutive positions: at most one of its tokens is at p.
                int token = -1;
                if (s0 + lane < high) {
                    const int first = step->bounds[s0 + lane], last = step->bounds[s0 + lane + 1];
                    if (first < last) {
                        const int at = first + p - step->position[first];
                        token = at >= first && at < last ? at : -1;
                    }
                }
                for (unsigned left = __ballot_sync(FULL_WARP, token >= 0); left != 0; left &= left - 1) {
                    const float* x = dy + static_cast<long long>(__shfl_sync(FULL_WARP, token, __ffs(left) - 1)) * d;
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) {
                        const int k = k0 + 32 * c + lane;
                        if (k < d) {
                            sum[c] += x[k];
                        }
                    }
                }
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int k = k0 + 32 * c + lane;
                if (k < d) {
                    out[k] = sum[c];
                }
            }
        }
    }
}
EXPORT_KERNEL(embed_backward_positions)

// rows[r] = table[items[r]]: the item rows of a cohort out of the global table.
//
// items [R] i32, table [I, d], rows [R, d] f32. Grid: ceil(R / (256 / L)) blocks of 256, or fewer (they go round), L as in
// `embed`; shared memory: none. Bit-reproducible. Bytes: 8 R d + 4 R; no operations.
extern "C" __global__ void __launch_bounds__(256) gather_rows(const int* items, const float* table, float* rows, int count, int d) {
    const bool fours = d % 4 == 0 && embed_aligned(table) && embed_aligned(rows);
    const int units = fours ? d / 4 : d;
    const int lanes = embed_lanes(units);
    const int lane = threadIdx.x & (lanes - 1);
    const int each = blockDim.x / lanes;
    for (long long r = static_cast<long long>(blockIdx.x) * each + threadIdx.x / lanes; r < count;
         r += static_cast<long long>(gridDim.x) * each) {
        const float* from = table + static_cast<long long>(items[r]) * d;
        float* to = rows + r * d;
        for (int u = lane; u < units; u += lanes) {
            if (fours) {
                reinterpret_cast<float4*>(to)[u] = reinterpret_cast<const float4*>(from)[u];
            } else {
                to[u] = from[u];
            }
        }
    }
}
EXPORT_KERNEL(gather_rows)
