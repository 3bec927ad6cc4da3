// Tri-view InfoNCE of one group, by one warp: see info_nce.cu.
#pragma once

#include "packed.cuh"

// `config::Contrast`, in its order.
enum ContrastKind : int {
    CONTRAST_NONE = 0,
    CONTRAST_JOINT = 1,     // one partition function over all views
    CONTRAST_DECOUPLED = 2, // each positive against the counterfactuals alone
};

// Added to a squared norm, so that a zero row has a finite cosine.
constexpr float NORM_FLOOR = 1e-24f;

// Loss of the group of an anchor and `n` views, all of them rows of `h` counted from `origin`; adds `weight` times the gradient
// to `dh`. `scratch` holds 3 `spacing` numbers of this warp, n of each three used, which nobody reads any more. Returns the loss
// to all lanes.
__device__ __forceinline__ float info_nce_group(int contrast, float tau, float weight, const int* members, int n, int positives,
                                                int origin, const float* __restrict__ h, float* __restrict__ dh,
                                                float* __restrict__ scratch, int spacing, int d) {
    const int lane = lane_index();
    float* cosine = scratch; // [n] used, as are the next two
    float* norm = cosine + spacing;
    float* slope = norm + spacing; // derivative of the loss by the score
    const float* anchor = h + static_cast<long long>(members[0] - origin) * d;
    float squares = 0.0f;
    for (int k = lane; k < d; k += 32) {
        squares = fmaf(anchor[k], anchor[k], squares);
    }
    const float anchor_norm = sqrtf(warp_sum(squares) + NORM_FLOOR);
    for (int i = 0; i < n; i++) {
        const float* view = h + static_cast<long long>(members[1 + i] - origin) * d;
        float dot = 0.0f;
        squares = 0.0f;
        for (int k = lane; k < d; k += 32) {
            dot = fmaf(anchor[k], view[k], dot);
            squares = fmaf(view[k], view[k], squares);
        }
        dot = warp_sum(dot);
        squares = warp_sum(squares);
        if (lane == 0) {
            norm[i] = sqrtf(squares + NORM_FLOOR);
            cosine[i] = dot / (anchor_norm * norm[i]);
            slope[i] = 0.0f;
        }
    }
    __syncwarp();
    float total = 0.0f;
    for (int p = 0; p < positives; p++) {
        float top = -INFINITY;
        for (int i = lane; i < n; i += 32) {
            if (contrast == CONTRAST_JOINT || i == p || i >= positives) {
                top = fmaxf(top, cosine[i] / tau);
            }
        }
        top = warp_max(top);
        float sum = 0.0f;
        for (int i = lane; i < n; i += 32) {
            if (contrast == CONTRAST_JOINT || i == p || i >= positives) {
                sum += expf(cosine[i] / tau - top);
            }
        }
        sum = warp_sum(sum);
        for (int i = lane; i < n; i += 32) {
            if (contrast == CONTRAST_JOINT || i == p || i >= positives) {
                slope[i] += expf(cosine[i] / tau - top) / sum - (i == p ? 1.0f : 0.0f);
            }
        }
        total += top + logf(sum) - cosine[p] / tau;
    }
    __syncwarp();
    float* anchor_grad = dh + static_cast<long long>(members[0] - origin) * d;
    for (int k = lane; k < d; k += 32) {
        const float x = anchor[k] / anchor_norm;
        float sum = 0.0f;
        for (int i = 0; i < n; i++) {
            const long long at = static_cast<long long>(members[1 + i] - origin) * d + k;
            const float y = h[at] / norm[i], c = cosine[i], s = slope[i] * weight;
            sum = fmaf(s, y - c * x, sum);
            dh[at] += s * (x - c * y) / norm[i];
        }
        anchor_grad[k] += sum / anchor_norm;
    }
    return total;
}
