// Next-item losses of one example, by one warp: see losses.cu.
#pragma once

#include "packed.cuh"

// `config::RecLoss`, in its order; the full softmax has kernels of its own.
enum NextItemKind : int {
    LOSS_BCE = 0,
    LOSS_SAMPLED_SOFTMAX = 1,
    LOSS_GBCE = 2,
};

// What the loss of example `i` is multiplied by, an example of a client with `examples` of them.
__device__ __forceinline__ float example_share(const Packed* step, int i, int examples) {
    return step->share != nullptr ? step->share[i] : 1.0f / static_cast<float>(examples);
}

// The loss of example `i` as it is averaged over the client's examples: with shares the mean is the sum of shares times losses.
__device__ __forceinline__ float example_loss(const Packed* step, int i, int examples, float loss) {
    return step->share != nullptr ? loss * (step->share[i] * static_cast<float>(examples)) : loss;
}

// ln(1 + e^x) without overflow.
__device__ __forceinline__ float loss_softplus(float x) {
    return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

__device__ __forceinline__ float loss_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// The offsets of an example whose candidates begin at `first`; null where scores are taken as they are.
__device__ __forceinline__ const float* example_offset(const Packed* step, long long first) {
    return step->offset != nullptr ? step->offset + first : nullptr;
}

// Logits of one example into `coef [width]`, less `offset [width]` where there is one: lane l of the warp computes and later reads
// candidates l, l + 32, ... Candidates name rows counted from row `origin` of the step.
__device__ __forceinline__ void next_item_logits(const int* cands, const float* offset, int width, int origin, const float* h,
                                                 const float* rows, float* coef, int d) {
    constexpr int HELD = 4; // columns of the hidden state that a lane keeps
    const int lane = lane_index();
    float x[HELD];
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        x[c] = lane + 32 * c < d ? h[lane + 32 * c] : 0.0f;
    }
    for (int c0 = 0; c0 < width; c0 += 32) {
        const int mine = c0 + lane < width ? cands[c0 + lane] - origin : 0;
        const int some = min(32, width - c0);
        float logit = 0.0f;
        for (int j = 0; j < some; j++) {
            const float* item = rows + static_cast<long long>(__shfl_sync(FULL_WARP, mine, j)) * d;
            float s = 0.0f;
#pragma unroll
            for (int c = 0; c < HELD; c++) {
                if (lane + 32 * c < d) {
                    s = fmaf(x[c], item[lane + 32 * c], s);
                }
            }
            for (int k = lane + 32 * HELD; k < d; k += 32) {
                s = fmaf(h[k], item[k], s);
            }
            s = warp_sum(s);
            logit = lane == j ? s : logit;
        }
        if (c0 + lane < width) {
            coef[c0 + lane] = offset != nullptr ? logit - offset[c0 + lane] : logit;
        }
    }
}

// Turns logits into derivatives of the mean loss, in place; `beta` is the step's positive_weight; returns this example's loss to all lanes.
__device__ __forceinline__ float next_item_derivatives(int kind, float beta, float share, int width, float* coef) {
    const int lane = lane_index();
    if (kind == LOSS_SAMPLED_SOFTMAX) {
        float top = -INFINITY;
        for (int c = lane; c < width; c += 32) {
            top = fmaxf(top, coef[c]);
        }
        top = warp_max(top);
        float sum = 0.0f;
        for (int c = lane; c < width; c += 32) {
            sum += expf(coef[c] - top);
        }
        sum = warp_sum(sum);
        float target = __shfl_sync(FULL_WARP, lane == 0 ? coef[0] : 0.0f, 0);
        const float scale = 1.0f / sum, each = beta == 1.0f ? 0.0f : (1.0f - beta) / static_cast<float>(width);
        if (each != 0.0f) {
            float all = 0.0f;
            for (int c = lane; c < width; c += 32) {
                all = fmaf(each, coef[c], all);
            }
            target = fmaf(beta, target, warp_sum(all));
        }
        for (int c = lane; c < width; c += 32) {
            coef[c] = (expf(coef[c] - top) * scale - (c == 0 ? beta + each : each)) * share;
        }
        return top + logf(sum) - target;
    }
    const float power = kind == LOSS_GBCE ? beta : 1.0f;
    float total = 0.0f;
    for (int c = lane; c < width; c += 32) {
        const float s = coef[c];
        if (c == 0) {
            total += power * loss_softplus(-s);
            coef[c] = -power * loss_sigmoid(-s) * share;
        } else {
            total += loss_softplus(s);
            coef[c] = loss_sigmoid(s) * share;
        }
    }
    return warp_sum(total);
}

// dh += sum over candidates of coef * row, in candidate order.
__device__ __forceinline__ void next_item_hidden(const int* cands, int width, int origin, const float* coef, const float* rows, float* dh,
                                                 int d) {
    constexpr int COLUMNS = 4;
    const int lane = lane_index();
    for (int k0 = 0; k0 < d; k0 += 32 * COLUMNS) {
        float sum[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int k = k0 + 32 * c + lane;
            sum[c] = k < d ? dh[k] : 0.0f;
        }
        for (int c0 = 0; c0 < width; c0 += 32) {
            const bool inside = c0 + lane < width;
            const int mine = inside ? cands[c0 + lane] - origin : 0;
            const float factor = inside ? coef[c0 + lane] : 0.0f;
            const int some = min(32, width - c0);
            for (int j = 0; j < some; j++) {
                const float* item = rows + static_cast<long long>(__shfl_sync(FULL_WARP, mine, j)) * d;
                const float g = __shfl_sync(FULL_WARP, factor, j);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    const int k = k0 + 32 * c + lane;
                    if (k < d) {
                        sum[c] = fmaf(g, item[k], sum[c]);
                    }
                }
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int k = k0 + 32 * c + lane;
            if (k < d) {
                dh[k] = sum[c];
            }
        }
    }
}

// Mean of the numbers `first..last`, in double: lane l adds l, l + 32, ..., then lanes in a fixed order.
__device__ __forceinline__ double loss_mean(const float* values, int first, int last) {
    double sum = 0.0;
    for (int i = first + lane_index(); i < last; i += 32) {
        sum += static_cast<double>(values[i]);
    }
    return warp_sum(sum) / static_cast<double>(last - first);
}
