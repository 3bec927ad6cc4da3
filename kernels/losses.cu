// Next-item losses over candidate rows, and the losses of clients. The softmax over whole catalogues is in full_softmax.cu.
#include "scatter.cuh"

// `config::RecLoss`, in its order; the full softmax has kernels of its own.
enum NextItemKind : int {
    LOSS_BCE = 0,
    LOSS_SAMPLED_SOFTMAX = 1,
    LOSS_GBCE = 2,
};

// ln(1 + e^x) without overflow.
__device__ __forceinline__ float loss_softplus(float x) {
    return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

__device__ __forceinline__ float loss_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// Logits of one example into `coef [width]`: lane l of the warp computes and later reads candidates l, l + 32, ...
__device__ __forceinline__ void next_item_logits(const int* cands, int width, const float* h, const float* rows, float* coef, int d) {
    constexpr int HELD = 4; // columns of the hidden state that a lane keeps
    const int lane = lane_index();
    float x[HELD];
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        x[c] = lane + 32 * c < d ? h[lane + 32 * c] : 0.0f;
    }
    for (int c0 = 0; c0 < width; c0 += 32) {
        const int mine = c0 + lane < width ? cands[c0 + lane] : 0;
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
            coef[c0 + lane] = logit;
        }
    }
}

// Turns logits into derivatives of the mean loss, in place; returns this example's loss to all lanes.
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
        const float positive = __shfl_sync(FULL_WARP, lane == 0 ? coef[0] : 0.0f, 0);
        const float scale = 1.0f / sum;
        for (int c = lane; c < width; c += 32) {
            coef[c] = (expf(coef[c] - top) * scale - (c == 0 ? 1.0f : 0.0f)) * share;
        }
        return top + logf(sum) - positive;
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
__device__ __forceinline__ void next_item_hidden(const int* cands, int width, const float* coef, const float* rows, float* dh, int d) {
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
            const int mine = inside ? cands[c0 + lane] : 0;
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

// Next-item losses of all examples and their gradient by the hidden states: BCE, gBCE (the positive's term times the step's
// gbce_beta) and the softmax over the candidates, each example weighing 1 / (examples of its client).
//
// h, dh [Q, d] (dh is added to), rows [R, d], coef [E, width] (out: derivatives by the logits, times the weight), loss [E]
// (out: without the weight), all f32, apart in memory; `kind` is a NextItemKind. One warp an example; examples of one output must be
// neighbours: the warp of the first then does all of them in order.
// Grid: ceil(E / 4) blocks of 128, or fewer (they go round); shared memory: none. Bit-reproducible.
// Bytes: E d (12 + 8 width) + 12 E width; operations: 4 E width d.
extern "C" __global__ void __launch_bounds__(128, 8)
    next_item_loss(const Packed* step, int kind, const float* __restrict__ h, const float* __restrict__ rows, float* __restrict__ dh,
                   float* __restrict__ coef, float* __restrict__ loss, int d) {
    const int lane = lane_index(), warps = warp_count();
    const int width = step->width;
    for (int e = blockIdx.x * warps + warp_index(); e < step->examples; e += gridDim.x * warps) {
        const int q = step->example[e];
        const int client = step->out_client[q];
        const int first = step->client_examples[client], last = step->client_examples[client + 1];
        if (e > first && step->example[e - 1] == q) {
            continue;
        }
        const float share = 1.0f / static_cast<float>(last - first);
        for (int i = e; i < last && step->example[i] == q; i++) {
            const int* cands = step->cands + static_cast<long long>(i) * width;
            float* own = coef + static_cast<long long>(i) * width;
            next_item_logits(cands, width, h + static_cast<long long>(q) * d, rows, own, d);
            const float value = next_item_derivatives(kind, step->gbce_beta, share, width, own);
            if (lane == 0) {
                loss[i] = value;
            }
            next_item_hidden(cands, width, own, rows, dh + static_cast<long long>(q) * d, d);
        }
    }
}
EXPORT_KERNEL(next_item_loss)

// Candidates as entries of a scatter: each adds its example's hidden state times the derivative by its logit.
struct CandidateSource {
    const int* cands;
    const int* example;
    const float* coef;
    int width;
    __device__ int row(int entry) const {
        return cands[entry];
    }
    __device__ int index(int entry) const {
        return example[entry / width];
    }
    __device__ float factor(int entry) const {
        return coef[entry];
    }
};

// row_grad[cands[e][c]] += coef[e][c] * h[example[e]], examples and candidates in order within a row.
//
// h [Q, d], coef [E, width] from `next_item_loss`, row_grad [R, d] f32; E * width is below 2^31.
// Grid: (C, ceil(rows of the largest client / 64)) or fewer in y (they go round), blocks of 128; shared memory:
// SCATTER_SHARED = 6,160 bytes. Bit-reproducible. Bytes: 4 E width d read from the cache, 8 d for each distinct row of a
// client, 12 E width; operations: 2 E width d.
extern "C" __global__ void __launch_bounds__(SCATTER_THREADS)
    next_item_rows(const Packed* step, const float* h, const float* coef, float* row_grad, int d) {
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const CandidateSource source{step->cands, step->example, coef, step->width};
    const int first = step->client_examples[client] * step->width, last = step->client_examples[client + 1] * step->width;
    scatter_client(step, source, first, last, h, row_grad, d);
}
EXPORT_KERNEL(next_item_rows)

__device__ __forceinline__ double loss_mean(const float* values, int first, int last) {
    double sum = 0.0;
    for (int i = first + lane_index(); i < last; i += 32) {
        sum += static_cast<double>(values[i]);
    }
    return warp_sum(sum) / static_cast<double>(last - first);
}

// out[c] += (mean next-item loss, mean contrast without lambda) of client c in this step; nothing where it has no example
// or no group. Zero `out` before a visit, and it holds the sums over the visit's steps.
//
// loss [E], contrast [G] f32 (either may be null: counts as none), out [C, 2] f64. One warp a client: lane l adds numbers
// l, l + 32, ... in double, then lanes in a fixed order.
// Grid: ceil(C / 4) blocks of 128, or fewer (they go round); shared memory: none. Bit-reproducible.
// Bytes: 4 (E + G) + 32 C; operations: E + G in double.
extern "C" __global__ void __launch_bounds__(128) client_losses(const Packed* step, const float* loss, const float* contrast, double* out) {
    const int warps = warp_count();
    for (int client = blockIdx.x * warps + warp_index(); client < step->clients; client += gridDim.x * warps) {
        const bool writes = lane_index() == 0;
        const int examples = step->client_examples[client], examples_end = step->client_examples[client + 1];
        if (loss != nullptr && examples < examples_end) {
            const double mean = loss_mean(loss, examples, examples_end);
            if (writes) {
                out[2 * client] += mean;
            }
        }
        const int groups = step->client_groups[client], groups_end = step->client_groups[client + 1];
        if (contrast != nullptr && groups < groups_end) {
            const double mean = loss_mean(contrast, groups, groups_end);
            if (writes) {
                out[2 * client + 1] += mean;
            }
        }
    }
}
EXPORT_KERNEL(client_losses)
