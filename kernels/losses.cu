// Next-item losses over candidate rows, and the losses of clients. The softmax over whole catalogues is in full_softmax.cu.
#include "next_item.cuh"
#include "scatter.cuh"

// Next-item losses of all examples and their gradient by the hidden states: BCE, gBCE (the positive's term times the step's
// positive_weight) and the softmax over the candidates, each example weighing its share, where the step has none 1 / (examples of its client).
//
// h, dh [Q, d] (dh is added to), rows [R, d], coef [E, width] (out: derivatives by the logits, times the weight), loss [E]
// (out: without the weight, or times weight and examples of the client where the step has shares), all f32, apart in memory; `kind` is a NextItemKind. One warp an example; examples of one output must be
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
        for (int i = e; i < last && step->example[i] == q; i++) {
            const long long candidate = static_cast<long long>(i) * width;
            const int* cands = step->cands + candidate;
            float* own = coef + candidate;
            next_item_logits(cands, example_offset(step, candidate), width, 0, h + static_cast<long long>(q) * d, rows, own, d);
            const float value = next_item_derivatives(kind, step->positive_weight, example_share(step, i, last - first), width, own);
            if (lane == 0) {
                loss[i] = example_loss(step, i, last - first, value);
            }
            next_item_hidden(cands, width, 0, own, rows, dh + static_cast<long long>(q) * d, d);
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

// out[c] += (mean next-item loss, mean contrast of groups plus that of paired outputs, both without weight) of client c in this step;
// nothing where it has no example, no group or no pair. Zero `out` before a visit, and it holds the sums over the visit's steps.
//
// loss [E], contrast [G], pairs [2 pairs] f32 (each may be null: counts as none), out [C, 2] f64. One warp a client: lane l adds numbers
// l, l + 32, ... in double, then lanes in a fixed order.
// Grid: ceil(C / 4) blocks of 128, or fewer (they go round); shared memory: none. Bit-reproducible.
// Bytes: 4 (E + G + 2 pairs) + 32 C; operations: E + G + 2 pairs in double.
extern "C" __global__ void __launch_bounds__(128) client_losses(const Packed* step, const float* loss, const float* contrast, const float* pairs,
                                                               double* out) {
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
        const int paired = 2 * step->client_pairs[client], paired_end = 2 * step->client_pairs[client + 1];
        if (pairs != nullptr && paired < paired_end) {
            const double mean = loss_mean(pairs, paired, paired_end);
            if (writes) {
                out[2 * client + 1] += mean;
            }
        }
    }
}
EXPORT_KERNEL(client_losses)
