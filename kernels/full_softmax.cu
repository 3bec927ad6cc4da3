// Next-item softmax over all items of a client's table, the whole catalogue without the special rows behind it, without storing a
// logit: three passes that each compute the scores again, tile by tile, and keep the log of the partition sum (`lse`) of each example.
//
// The positive of example e is cands[e][0]. Each output has at most one example.
#include "score_tile.cuh"

// The hidden states of up to 16 examples from `first` on.
struct ExampleRows {
    const float* h;
    const int* example;
    int first, last, d;
    __device__ const float* operator()(int i) const {
        return first + i < last ? h + static_cast<long long>(example[first + i]) * d : nullptr;
    }
};

// lse[e] = log of the sum over rows r of e's client of exp(h . rows[r]); loss[e] = lse[e] - score of the positive.
//
// h [Q, d], rows [R, d], lse [E], loss [E] f32. A block takes 16 examples of one client. Grid: (C, ceil(examples of the
// largest client / 16)) or fewer in y (they go round), blocks of 128; shared memory: SCORE_SHARED floats = 19,456 bytes.
// Bit-reproducible. Bytes: 4 d rows(c) ceil(examples(c) / 16) a client, mostly from the cache; operations: 2 d rows
// examples a client, one exponential a score.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    full_softmax_stats(const Packed* step, const float* h, const float* rows, float* lse, float* loss, int d) {
    LUMOS_SHARED(float, stage);
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warp = warp_index();
    const int last = step->client_examples[client + 1], row_end = step->client_rows[client + 1] - step->special;
    for (int e0 = step->client_examples[client] + SCORE_LEFT * blockIdx.y; e0 < last; e0 += SCORE_LEFT * gridDim.y) {
        const ExampleRows left{h, step->example, e0, last, d};
        LogSum sums[4];
        float positive[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        int target[4];
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int e = e0 + 4 * warp + a;
            target[a] = e < last ? step->cands[static_cast<long long>(e) * step->width] : -1;
        }
        for (int r0 = step->client_rows[client]; r0 < row_end; r0 += SCORE_RIGHT) {
            float scores[4][4];
            score_tile(left, rows + static_cast<long long>(r0) * d, row_end - r0, d, stage, scores);
#pragma unroll
            for (int a = 0; a < 4; a++) {
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    const int r = r0 + 4 * lane + b;
                    if (r < row_end) {
                        sums[a].add(scores[a][b]);
                        positive[a] += r == target[a] ? scores[a][b] : 0.0f;
                    }
                }
            }
        }
#pragma unroll
        for (int a = 0; a < 4; a++) {
            sums[a].reduce();
            const float score = warp_sum(positive[a]);
            const int e = e0 + 4 * warp + a;
            if (lane == 0 && e < last) {
                lse[e] = sums[a].value();
                loss[e] = sums[a].value() - score;
            }
        }
    }
}
EXPORT_KERNEL(full_softmax_stats)

// dh[example[e]] += share * sum over rows r of (exp(score - lse[e]) - [r is the positive]) * rows[r], in row order, share
// 1 / (examples of the client).
//
// h, dh [Q, d], rows [R, d], lse [E] f32. Grid and bit-reproducibility as full_softmax_stats; shared memory: SCORE_SHARED
// floats and 8 KiB = 27,648 bytes. Bytes: twice those of the stats; operations: 4 d rows examples a client for d up to 128,
// and 2 d rows examples more for every further 128 columns.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    full_softmax_hidden(const Packed* step, const float* h, const float* rows, const float* lse, float* dh, int d) {
    LUMOS_SHARED(float, stage);
    float4* weights = reinterpret_cast<float4*>(stage + SCORE_SHARED) + warp_index() * SCORE_RIGHT; // [128] of this warp
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warp = warp_index();
    const int first = step->client_examples[client], last = step->client_examples[client + 1];
    const int row_end = step->client_rows[client + 1] - step->special;
    const float share = 1.0f / static_cast<float>(last - first);
    for (int e0 = first + SCORE_LEFT * blockIdx.y; e0 < last; e0 += SCORE_LEFT * gridDim.y) {
        const ExampleRows left{h, step->example, e0, last, d};
        float level[4];
        int target[4];
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int e = e0 + 4 * warp + a;
            target[a] = e < last ? step->cands[static_cast<long long>(e) * step->width] : -1;
            level[a] = e < last ? lse[e] : 0.0f;
        }
        for (int k0 = 0; k0 < d; k0 += 128) {
            float sums[4][4] = {};
            for (int r0 = step->client_rows[client]; r0 < row_end; r0 += SCORE_RIGHT) {
                const float* right = rows + static_cast<long long>(r0) * d;
                const int count = min(SCORE_RIGHT, row_end - r0);
                float scores[4][4];
                score_tile(left, right, count, d, stage, scores);
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    float w[4];
#pragma unroll
                    for (int a = 0; a < 4; a++) {
                        w[a] = (expf(scores[a][b] - level[a]) - (r0 + 4 * lane + b == target[a] ? 1.0f : 0.0f)) * share;
                    }
                    weights[4 * lane + b] = float4{w[0], w[1], w[2], w[3]};
                }
                __syncwarp();
                score_mix(weights, right, count, d, k0, sums);
            }
#pragma unroll
            for (int a = 0; a < 4; a++) {
                const float* row = left(4 * warp + a);
                if (row == nullptr) {
                    continue;
                }
                float* out = dh + (row - h);
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int k = k0 + 32 * c + lane;
                    if (k < d) {
                        out[k] += sums[a][c];
                    }
                }
            }
        }
    }
}
EXPORT_KERNEL(full_softmax_hidden)

// row_grad[r] += share * sum over examples e of r's client of (exp(score - lse[e]) - [r is the positive]) * h[example[e]],
// in example order.
//
// h [Q, d], rows, row_grad [R, d], lse [E] f32. A block takes 128 rows of one client, a warp 32 of them. Grid: (C, ceil(rows
// of the largest client / 128)) or fewer in y (they go round), blocks of 128; shared memory: SCORE_SHARED floats and
// 8,448 bytes = 27,904. Bit-reproducible. Bytes: 12 R d and 4 d examples(c) ceil(rows(c) / 128) a client; operations: 4 d
// rows examples a client for d up to 64, and 2 d rows examples more for every further 64 columns.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    full_softmax_rows(const Packed* step, const float* h, const float* rows, const float* lse, float* row_grad, int d) {
    LUMOS_SHARED(float, stage);
    float* weights = stage + SCORE_SHARED; // [16, 128]
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warp = warp_index();
    const int first = step->client_examples[client], last = step->client_examples[client + 1];
    const int row_end = step->client_rows[client + 1] - step->special;
    const float share = 1.0f / static_cast<float>(last - first);
    if (first == last) {
        return;
    }
    for (int r0 = step->client_rows[client] + SCORE_RIGHT * blockIdx.y; r0 < row_end; r0 += SCORE_RIGHT * gridDim.y) {
        const int count = min(SCORE_RIGHT, row_end - r0);
        for (int k0 = 0; k0 < d; k0 += 64) {
            const int k = k0 + lane;
            float sums[32][2] = {};
            for (int e0 = first; e0 < last; e0 += SCORE_LEFT) {
                const ExampleRows left{h, step->example, e0, last, d};
                float scores[4][4];
                score_tile(left, rows + static_cast<long long>(r0) * d, count, d, stage, scores);
#pragma unroll
                for (int a = 0; a < 4; a++) {
                    const int e = e0 + 4 * warp + a;
                    const int target = e < last ? step->cands[static_cast<long long>(e) * step->width] : -1;
                    const float level = e < last ? lse[e] : 0.0f;
                    float w[4];
#pragma unroll
                    for (int b = 0; b < 4; b++) {
                        w[b] = (expf(scores[a][b] - level) - (r0 + 4 * lane + b == target ? 1.0f : 0.0f)) * share;
                    }
                    *reinterpret_cast<float4*>(weights + (4 * warp + a) * SCORE_RIGHT_PITCH + 4 * lane) = float4{w[0], w[1], w[2], w[3]};
                }
                __syncthreads();
                const int some = min(SCORE_LEFT, last - e0);
                for (int i = 0; i < some; i++) {
                    const float* x = left(i);
                    const float x0 = k < d ? x[k] : 0.0f, x1 = k + 32 < d ? x[k + 32] : 0.0f;
                    const float4* w = reinterpret_cast<const float4*>(weights + i * SCORE_RIGHT_PITCH + 32 * warp);
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        const float4 v = w[j];
                        const float vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                        for (int b = 0; b < 4; b++) {
                            sums[4 * j + b][0] = fmaf(vs[b], x0, sums[4 * j + b][0]);
                            sums[4 * j + b][1] = fmaf(vs[b], x1, sums[4 * j + b][1]);
                        }
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < 32; j++) {
                if (32 * warp + j < count) {
                    float* out = row_grad + static_cast<long long>(r0 + 32 * warp + j) * d;
                    if (k < d) {
                        out[k] += sums[j][0];
                    }
                    if (k + 32 < d) {
                        out[k + 32] += sums[j][1];
                    }
                }
            }
        }
    }
}
EXPORT_KERNEL(full_softmax_rows)
