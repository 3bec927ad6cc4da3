// Contrastive losses: the tri-view InfoNCE of each client's groups, and InfoNCE over a batch with in-batch negatives.
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

// Rows from `first` on of a matrix [B, d].
struct BatchRows {
    const float* rows;
    int first, last, d;
    __device__ const float* operator()(int i) const {
        return first + i < last ? rows + static_cast<long long>(first + i) * d : nullptr;
    }
};

// inverse[0][i] = 1 / |a[i]|, inverse[1][i] = 1 / |b[i]|.
//
// a, b [B, d], inverse [2, B] f32. One warp a row. Grid: (ceil(B / 4), 2), blocks of 128; shared memory: none.
// Bit-reproducible. Bytes: 8 B d; operations: 4 B d.
extern "C" __global__ void __launch_bounds__(128)
    in_batch_info_nce_norms(const float* a, const float* b, float* inverse, int batch, int d) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * warp_count() + warp_index();
    if (row >= batch) {
        return;
    }
    const float* x = (blockIdx.y == 0 ? a : b) + static_cast<long long>(row) * d;
    float squares = 0.0f;
    for (int k = lane; k < d; k += 32) {
        squares = fmaf(x[k], x[k], squares);
    }
    squares = warp_sum(squares);
    if (lane == 0) {
        inverse[static_cast<long long>(blockIdx.y) * batch + row] = 1.0f / sqrtf(squares + NORM_FLOOR);
    }
}
EXPORT_KERNEL(in_batch_info_nce_norms)

// InfoNCE over a batch: with s_ij = cosine(a_i, b_j) / tau, lse[i] = log(sum over j of e^{s_ij}) and loss[i] = lse[i] - s_ii.
// The symmetric form is this one and the same with a and b exchanged. The [B, B] scores are never stored.
//
// a, b [B, d], inverse [2, B] from in_batch_info_nce_norms, lse, loss [B] f32. A block takes 16 rows of a. Grid:
// ceil(B / 16) blocks of 128; shared memory: SCORE_SHARED floats = 19,456 bytes. Bit-reproducible. Bytes: 4 B d ceil(B / 16)
// from the cache; operations: 2 B B d, one exponential a score.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3) in_batch_info_nce_stats(const float* a, const float* b, const float* inverse,
                                                                                    float tau, float* lse, float* loss, int batch, int d) {
    LUMOS_SHARED(float, stage);
    const int lane = lane_index(), warp = warp_index();
    const int i0 = SCORE_LEFT * blockIdx.x;
    const BatchRows left{a, i0, batch, d};
    LogSum sums[4];
    float positive[4] = {0.0f, 0.0f, 0.0f, 0.0f}, scale[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int i = i0 + 4 * warp + r;
        scale[r] = i < batch ? inverse[i] / tau : 0.0f;
    }
    for (int j0 = 0; j0 < batch; j0 += SCORE_RIGHT) {
        float scores[4][4];
        score_tile(left, b + static_cast<long long>(j0) * d, batch - j0, d, stage, scores);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int j = j0 + 4 * lane + c;
            if (j < batch) {
                const float other = inverse[static_cast<long long>(batch) + j];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const float s = scores[r][c] * (scale[r] * other);
                    sums[r].add(s);
                    positive[r] += i0 + 4 * warp + r == j ? s : 0.0f;
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        sums[r].reduce();
        const float score = warp_sum(positive[r]);
        const int i = i0 + 4 * warp + r;
        if (lane == 0 && i < batch) {
            lse[i] = sums[r].value();
            loss[i] = sums[r].value() - score;
        }
    }
}
EXPORT_KERNEL(in_batch_info_nce_stats)

// da += weight / B * d(sum of loss) / da and likewise db, with the scores computed again.
//
// a, b, da, db [B, d] (da and db are different matrices), inverse [2, B], lse [B] f32. A block takes 16 rows of a
// (blockIdx.y 0) or of b (1). Grid: (ceil(B / 16), 2), blocks of 128; shared memory: SCORE_SHARED floats and 8 KiB = 27,648
// bytes. Bit-reproducible. Bytes: 16 B d ceil(B / 16) from the cache; operations: 8 B B d for d up to 128, and 4 B B d more
// for every further 128 columns.
extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 3)
    in_batch_info_nce_grad(const float* a, const float* b, const float* inverse, const float* lse, float tau, float weight, float* da,
                           float* db, int batch, int d) {
    LUMOS_SHARED(float, stage);
    float4* weights = reinterpret_cast<float4*>(stage + SCORE_SHARED) + warp_index() * SCORE_RIGHT; // [128] of this warp
    const int lane = lane_index(), warp = warp_index();
    const bool of_a = blockIdx.y == 0;
    const int i0 = SCORE_LEFT * blockIdx.x;
    const float* others = of_a ? b : a;
    const float* own_inverse = of_a ? inverse : inverse + batch;
    const float* other_inverse = of_a ? inverse + batch : inverse;
    float* grad = of_a ? da : db;
    const BatchRows left{of_a ? a : b, i0, batch, d};
    const float share = weight / static_cast<float>(batch) / tau;
    float own[4], level[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int i = i0 + 4 * warp + r;
        own[r] = i < batch ? own_inverse[i] : 0.0f;
        level[r] = i < batch ? lse[i] : 0.0f;
    }
    for (int k0 = 0; k0 < d; k0 += 128) {
        float sums[4][4] = {};
        float along[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // sum of slope * cosine: the part along the row itself
        for (int j0 = 0; j0 < batch; j0 += SCORE_RIGHT) {
            const float* right = others + static_cast<long long>(j0) * d;
            const int count = min(SCORE_RIGHT, batch - j0);
            float scores[4][4];
            score_tile(left, right, count, d, stage, scores);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int j = j0 + 4 * lane + c;
                const bool inside = j < batch;
                const float other = inside ? other_inverse[j] : 0.0f;
                const float other_level = inside ? lse[j] : 0.0f;
                float w[4];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const float cosine = scores[r][c] * (own[r] * other);
                    const float slope = expf(cosine / tau - (of_a ? level[r] : other_level)) - (i0 + 4 * warp + r == j ? 1.0f : 0.0f);
                    along[r] += inside ? slope * cosine : 0.0f;
                    w[r] = slope * other;
                }
                weights[4 * lane + c] = float4{w[0], w[1], w[2], w[3]};
            }
            __syncwarp();
            score_mix(weights, right, count, d, k0, sums);
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float part = warp_sum(along[r]);
            const float* row = left(4 * warp + r);
            if (row == nullptr) {
                continue;
            }
            float* out = grad + static_cast<long long>(i0 + 4 * warp + r) * d;
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
EXPORT_KERNEL(in_batch_info_nce_grad)
