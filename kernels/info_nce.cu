// Contrastive losses: the tri-view InfoNCE of each client's groups, and InfoNCE of a client's pairs with the other pairs as negatives.
#include "contrast.cuh"
#include "score_tile.cuh"

// Tri-view InfoNCE of every group g of the step: a history (anchor) and its views, first the positives `A`, then the
// counterfactuals. With scores s = cosine / tau, loss[g] = sum over a in A of log(sum over v of e^{s_v}) - s_a, where v runs
// over all views (joint) or over a and the counterfactuals (decoupled). Adds lambda / (groups of the client) times the
// gradient to dh; a group without a positive has loss 0 and no gradient.
//
// h, dh [Q, d], loss [G] f32 (without lambda), apart in memory. One warp a group; no two groups share an output. `views` is at least the
// views of the largest group (a larger group gets a NaN loss and no gradient).
// Grid: ceil(G / 4) blocks of 128, or fewer (they go round); shared memory: 48 views bytes. Bit-reproducible.
// Bytes: 12 d members; operations: about 16 d members.
extern "C" __global__ void __launch_bounds__(128, 8)
    info_nce(const Packed* step, int contrast, float tau, const float* __restrict__ h, float* __restrict__ dh, float* __restrict__ loss,
             int views, int d) {
    LUMOS_SHARED(float, shared);
    const int lane = lane_index(), warps = warp_count(), warp = warp_index();
    for (int g = blockIdx.x * warps + warp; g < step->groups; g += gridDim.x * warps) {
        const int* members = step->group + step->group_bounds[g];
        const int n = step->group_bounds[g + 1] - step->group_bounds[g] - 1, positives = step->positives[g];
        if (n <= 0 || positives == 0 || contrast == CONTRAST_NONE || n > views) {
            if (lane == 0) {
                loss[g] = n > views ? NAN : 0.0f;
            }
            continue;
        }
        const int client = step->out_client[members[0]];
        const float weight = step->lambda / static_cast<float>(step->client_groups[client + 1] - step->client_groups[client]) / tau;
        __syncwarp(); // The last group's numbers are no longer read.
        const float total = info_nce_group(contrast, tau, weight, members, n, positives, 0, h, dh, shared + 3 * views * warp, views, d);
        if (lane == 0) {
            loss[g] = total;
        }
    }
}
EXPORT_KERNEL(info_nce)

// InfoNCE within a mini-batch. The `n = 2 N` paired outputs of a client are rows `2 client_pairs[c]` to `2 client_pairs[c + 1]` of a
// matrix `z [2 pairs, d]`; rows `i` and `i ^ 1` are twins. With scores s_ij = z_i . z_j / tau (of rows of length 1 under the cosine)
// the loss of row i is log(sum over j != i of e^{s_ij}) - s_i,twin. The [n, n] scores are never stored; both
// kernels round them alike, and alike for (i, j) and (j, i), so that a level taken from a score it holds is exact.

// z[r] = h[pair[r]], inverse[r] = 1 / |z[r]| under the cosine, 1 under the inner product.
//
// h [Q, d], z [2 pairs, d], inverse [2 pairs] f32. One warp a row. Grid: ceil(2 pairs / 4) blocks of 128, or fewer (they go round);
// shared memory: none. Bit-reproducible. Bytes: 16 pairs d; operations: 4 pairs d.
extern "C" __global__ void __launch_bounds__(128)
    in_batch_gather(const Packed* step, int cosine, const float* h, float* z, float* inverse, int d) {
    const int lane = lane_index(), warps = warp_count();
    for (int r = blockIdx.x * warps + warp_index(); r < 2 * step->pairs; r += gridDim.x * warps) {
        const float* from = h + static_cast<long long>(step->pair[r]) * d;
        float* to = z + static_cast<long long>(r) * d;
        float squares = 0.0f;
        for (int k = lane; k < d; k += 32) {
            const float x = from[k];
            to[k] = x;
            squares = fmaf(x, x, squares);
        }
        squares = warp_sum(squares);
        if (lane == 0) {
            inverse[r] = cosine ? 1.0f / sqrtf(squares + NORM_FLOOR) : 1.0f;
        }
    }
}
EXPORT_KERNEL(in_batch_gather)

// Rows from `first` on of a matrix [., d].
struct BatchRows {
    const float* rows;
    int first, last, d;
    __device__ const float* operator()(int i) const {
        return first + i < last ? rows + static_cast<long long>(first + i) * d : nullptr;
    }
};

// lse[i] = log(sum over j != i of e^{s_ij}), loss[i] = lse[i] - s_i,twin.
//
// z [2 pairs, d], inverse from in_batch_gather, lse, loss [2 pairs] f32. A block takes 16 rows of one client. Grid: (C, ceil(2 pairs of
// the largest client / 16)) or fewer in y (they go round), blocks of 128; shared memory: SCORE_SHARED floats = 19,456 bytes.
// Bit-reproducible. Bytes: 4 n d ceil(n / 16) a client from the cache; operations: 2 n n d, one exponential a score.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    in_batch_info_nce_stats(const Packed* step, const float* z, const float* inverse, float tau, float* lse, float* loss, int d) {
    LUMOS_SHARED(float, stage);
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warp = warp_index();
    const int begin = 2 * step->client_pairs[client], end = 2 * step->client_pairs[client + 1];
    for (int i0 = begin + SCORE_LEFT * blockIdx.y; i0 < end; i0 += SCORE_LEFT * gridDim.y) {
        const BatchRows left{z, i0, end, d};
        LogSum sums[4];
        float positive[4] = {0.0f, 0.0f, 0.0f, 0.0f}, own[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int i = i0 + 4 * warp + r;
            own[r] = i < end ? inverse[i] : 0.0f;
        }
        for (int j0 = begin; j0 < end; j0 += SCORE_RIGHT) {
            float scores[4][4];
            score_tile(left, z + static_cast<long long>(j0) * d, end - j0, d, stage, scores);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int j = j0 + 4 * lane + c;
                if (j < end) {
                    const float other = inverse[j];
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        const int i = i0 + 4 * warp + r;
                        const float s = scores[r][c] * (own[r] * other) / tau;
                        if (i != j) {
                            sums[r].add(s);
                        }
                        positive[r] += j == (i ^ 1) ? s : 0.0f;
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            sums[r].reduce();
            const float score = warp_sum(positive[r]);
            const int i = i0 + 4 * warp + r;
            if (lane == 0 && i < end) {
                lse[i] = sums[r].value();
                loss[i] = sums[r].value() - score;
            }
        }
    }
}
EXPORT_KERNEL(in_batch_info_nce_stats)

// dh[pair[i]] += weight / n * gradient of the client's summed loss by its row i, with the scores computed again: a row is an anchor
// once and on the other side of every anchor, so its slope by z_j is e^{s_ij - lse_i} + e^{s_ij - lse_j} - 2 [j is i's twin].
//
// z [2 pairs, d], inverse, lse [2 pairs], dh [Q, d] f32; no two rows share an output. Grid and bit-reproducibility as
// in_batch_info_nce_stats; shared memory: SCORE_SHARED floats and 8 KiB = 27,648 bytes. Bytes: 8 n d ceil(n / 16) a client from the
// cache; operations: 4 n n d for d up to 128, and 2 n n d more for every further 128 columns, two exponentials a score.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    in_batch_info_nce_grad(const Packed* step, int cosine, const float* z, const float* inverse, const float* lse, float tau, float weight,
                           float* dh, int d) {
    LUMOS_SHARED(float, stage);
    float4* weights = reinterpret_cast<float4*>(stage + SCORE_SHARED) + warp_index() * SCORE_RIGHT; // [128] of this warp
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const int lane = lane_index(), warp = warp_index();
    const int begin = 2 * step->client_pairs[client], end = 2 * step->client_pairs[client + 1];
    const float share = weight / static_cast<float>(end - begin) / tau;
    for (int i0 = begin + SCORE_LEFT * blockIdx.y; i0 < end; i0 += SCORE_LEFT * gridDim.y) {
        const BatchRows left{z, i0, end, d};
        float own[4], level[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int i = i0 + 4 * warp + r;
            own[r] = i < end ? inverse[i] : 0.0f;
            level[r] = i < end ? lse[i] : 0.0f;
        }
        for (int k0 = 0; k0 < d; k0 += 128) {
            float sums[4][4] = {};
            float along[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // sum of slope * cosine: the part along the row itself
            for (int j0 = begin; j0 < end; j0 += SCORE_RIGHT) {
                const float* right = z + static_cast<long long>(j0) * d;
                const int count = min(SCORE_RIGHT, end - j0);
                float scores[4][4];
                score_tile(left, right, count, d, stage, scores);
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int j = j0 + 4 * lane + c;
                    const bool inside = j < end;
                    const float other = inside ? inverse[j] : 0.0f;
                    const float other_level = inside ? lse[j] : 0.0f;
                    float w[4];
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        const int i = i0 + 4 * warp + r;
                        const float score = scores[r][c] * (own[r] * other), s = score / tau;
                        const float twin = j == (i ^ 1) ? 2.0f : 0.0f;
                        const float slope = inside && i != j ? expf(s - level[r]) + expf(s - other_level) - twin : 0.0f;
                        along[r] += slope * score;
                        w[r] = slope * other;
                    }
                    weights[4 * lane + c] = float4{w[0], w[1], w[2], w[3]};
                }
                __syncwarp();
                score_mix(weights, right, count, d, k0, sums);
            }
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float part = cosine ? warp_sum(along[r]) : 0.0f;
                const float* row = left(4 * warp + r);
                if (row == nullptr) {
                    continue;
                }
                float* out = dh + static_cast<long long>(step->pair[i0 + 4 * warp + r]) * d;
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int k = k0 + 32 * c + lane;
                    if (k < d) {
                        out[k] += share * own[r] * (sums[r][c] - part * own[r] * row[k]);
                    }
                }
            }
        }
    }
}
EXPORT_KERNEL(in_batch_info_nce_grad)
