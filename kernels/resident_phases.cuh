// The phases of a resident client's step but for products and updates: weights in and out, embedding, norms, dropout, attention,
// losses. Barriers of the block lie between phases: what one writes the next may read. Rows go round the warps.
#pragma once

#include "async_copy.cuh"
#include "attention.cuh"
#include "contrast.cuh"
#include "next_item.cuh"
#include "resident.cuh"

namespace resident {

constexpr int HELD = 2; // columns of a head that a lane has: heads are at most 64 wide

// Calls `f(place in the slab, place in shared memory, count)` for every run of weights that is contiguous in both, a warp a run.
template <class F> __device__ void each_run(const Job& job, const F& f) {
    const int d = job.dim, per_block = 2 + 5 * (d + 1) + job.inner + 1, total = job.blocks * per_block + 1;
    for (int u = warp_index(); u < total; u += warp_count()) {
        const int block = u / per_block, run = u % per_block;
        if (block == job.blocks || run < 2) {
            const Norm n = norm(job, block, run);
            f(n.slab, n.fast, 2 * d);
            continue;
        }
        const int k = min((run - 2) / (d + 1), 5), row = run - 2 - k * (d + 1);
        const Matrix m = matrix(job, block, k);
        f(m.slab + row * m.out, m.fast + row * m.ld, m.out);
    }
}

// The client's own copy of the global weights and item rows.
__device__ __noinline__ void take_weights(const Visit& visit) {
    const Job& job = visit.job;
    const float* global = job.global;
    each_run(job, [&](int slab, int fast, int count) {
        for (int k = 4 * lane_index(); k < count; k += 128) {
            copy_async(weights() + fast + k, global + slab + k);
        }
    });
    float* dense = visit.slab();
    for (int i = threadIdx.x; i < job.position_rows * job.dim; i += blockDim.x) {
        dense[i] = job.global[i];
    }
    for (int r = warp_index(); r < visit.at.rows; r += warp_count()) {
        const float* from = job.table + static_cast<long long>(job.items[visit.at.row + r]) * job.dim;
        for (int k = lane_index(); k < job.dim; k += 32) {
            job.rows[static_cast<long long>(visit.at.row + r) * job.dim + k] = from[k];
        }
    }
    wait_for_copies();
}

__device__ __noinline__ void give_weights(const Visit& visit) {
    float* dense = visit.slab();
    each_run(visit.job, [&](int slab, int fast, int count) {
        for (int k = lane_index(); k < count; k += 32) {
            dense[slab + k] = weights()[fast + k];
        }
    });
}

__device__ __noinline__ void clear_moments(const Visit& visit) {
    const Job& job = visit.job;
    for (int i = threadIdx.x; i < job.length; i += blockDim.x) {
        visit.slot[job.at_first + i] = visit.slot[job.at_second + i] = 0.0f;
    }
    for (int i = threadIdx.x; i < visit.at.rows * job.dim; i += blockDim.x) {
        visit.slot[job.at_row_first + i] = visit.slot[job.at_row_second + i] = 0.0f;
    }
}

// `y = x` under the mask of a dropout site, zero where `gate` is not positive, plus `add`: activations `[rows, width]`.
__device__ __noinline__ void drop(const Visit& visit, int site, const float* x, float* y, int n, const float* gate, const float* add) {
    const Job& job = visit.job;
    const elementwise::Mask m = elementwise::mask(visit.at.step, job.clock, site, visit.at.number, job.threshold, job.keep);
#pragma unroll 1
    for (int i = threadIdx.x; 8 * i < n; i += blockDim.x) {
        const Philox p = m.block(static_cast<unsigned>(i));
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int at = 8 * i + k;
            if (at < n) {
                float v = __fmul_rn(x[at], m.scale(p, k));
                v = gate && !(gate[at] > 0.0f) ? 0.0f : v;
                y[at] = add ? __fadd_rn(v, add[at]) : v;
            }
        }
    }
}

// Item rows under their dropout, and which output a token is.
__device__ __noinline__ void prepare(const Visit& visit) {
    const Job& job = visit.job;
    int* output = reinterpret_cast<int*>(visit.tail(OUTPUT));
    for (int t = threadIdx.x; t < visit.at.tokens; t += blockDim.x) {
        output[t] = -1;
    }
    if (job.item_threshold > 0) {
        using namespace elementwise;
        const Mask m = mask(visit.at.step, job.clock, SITE_ITEMS, visit.at.number, job.item_threshold, job.item_keep);
        const float* rows = visit.rows();
        float* dropped = visit.slot + job.at_dropped;
        const int n = visit.at.rows * job.dim;
        for (int i = threadIdx.x; 8 * i < n; i += blockDim.x) {
            drop_eight(m, static_cast<unsigned>(i), rows + 8 * i, dropped + 8 * i, 0, min(8, n - 8 * i));
        }
    }
}

__device__ __noinline__ void embed(const Visit& visit) {
    const Job& job = visit.job;
    const int d = job.dim;
    const float* places = visit.slab();
    float* x = visit.act(0, X);
    for (int t = warp_index(); t < visit.at.tokens; t += warp_count()) {
        const float* item = visit.at.items + (visit.at.step->row[visit.at.token + t] - visit.at.row) * d;
        const float* place = places + visit.at.step->position[visit.at.token + t] * d;
        for (int k = lane_index(); k < d; k += 32) {
            x[t * d + k] = item[k] * job.scale + place[k];
        }
    }
    int* output = reinterpret_cast<int*>(visit.tail(OUTPUT));
    for (int q = threadIdx.x; q < visit.at.outputs; q += blockDim.x) {
        output[visit.at.step->out_token[visit.at.output + q] - visit.at.token] = q;
    }
}

// `y = LN(x)`, with `x` the rows of `from`, or those of the client's outputs among tokens, which are then copied to `picked`.
__device__ __noinline__ void normalise(const Visit& visit, Norm n, const float* from, float* picked, int rows, float* y, float* stats) {
    const int d = visit.job.dim;
    for (int r = warp_index(); r < rows; r += warp_count()) {
        const float* x = from + (picked ? visit.at.step->out_token[visit.at.output + r] - visit.at.token : r) * d;
        row_norm::normalise(x, d, weights() + n.fast, weights() + n.fast + d, y + r * d, stats + 2 * r);
        if (picked) {
            for (int k = lane_index(); k < d; k += 32) {
                picked[r * d + k] = x[k];
            }
        }
    }
}

// `dx = base + gradient of x`; no base counts as zeros.
__device__ __noinline__ void normalise_backward(const Visit& visit, Norm n, const float* x, const float* stats, const float* dy, int rows,
                                   const float* base, float* dx) {
    const int d = visit.job.dim;
    for (int r = warp_index(); r < rows; r += warp_count()) {
        row_norm::slope_of_input(x + r * d, stats + 2 * r, d, weights() + n.fast, dy + r * d, [&](int k, float slope) {
            const int at = r * d + k;
            float v = base ? base[at] : 0.0f;
            v += slope;
            dx[at] = v;
        });
    }
}

// Queries of a block: all tokens, in the last block the outputs.
__device__ __forceinline__ packed_attention::Queries queries(const Visit& visit, bool last) {
    using packed_attention::Queries;
    const Client& at = visit.at;
    return last ? Queries(at.outputs, at.step->out_token + at.output, at.step->out_start + at.output, at.token)
                : Queries(at.tokens, nullptr, at.step->start + at.token, at.token);
}

__device__ __noinline__ void attend(const Visit& visit, int b, bool last) {
    using namespace packed_attention;
    const Queries all = queries(visit, last);
    const Heads heads(visit.job.heads, visit.job.dim);
    for (int u = warp_index(); u < all.count * heads.count; u += warp_count()) {
        forward<HELD>(all, Place(u, heads.count), heads, visit.act(b, Q), visit.act(b, K), visit.act(b, V), visit.act(b, MIXED),
                   visit.act(b, LSE));
    }
}

__device__ __noinline__ void attend_backward_q(const Visit& visit, int b, bool last) {
    using namespace packed_attention;
    const Queries all = queries(visit, last);
    const Heads heads(visit.job.heads, visit.job.dim);
    for (int u = warp_index(); u < all.count * heads.count; u += warp_count()) {
        backward_q<HELD>(all, Place(u, heads.count), heads, visit.act(b, Q), visit.act(b, K), visit.act(b, V), visit.act(b, LSE),
                      visit.act(b, D_MIXED), visit.act(b, D_Q), visit.act(b, PAIRS));
    }
}

__device__ __noinline__ void attend_backward_kv(const Visit& visit, int b, bool last) {
    using namespace packed_attention;
    const Queries all = queries(visit, last);
    const Heads heads(visit.job.heads, visit.job.dim);
    for (int u = warp_index(); u < visit.at.tokens * heads.count; u += warp_count()) {
        const Place own(u, heads.count);
        const int start = visit.at.step->start[visit.at.token + own.row];
        backward_kv<HELD>(all, own, start, last ? 0 : own.row, all.count, heads, visit.act(b, Q), visit.act(b, K), visit.act(b, V),
                       visit.act(b, LSE), visit.act(b, D_MIXED), visit.act(b, PAIRS), visit.act(b, D_K), visit.act(b, D_V));
    }
}

// Next-item losses and their gradient by hidden states, which begins at zero.
__device__ __noinline__ void next_items(const Visit& visit) {
    const Job& job = visit.job;
    const Packed* step = visit.at.step;
    const int width = step->width, d = job.dim, end = visit.at.example + visit.at.examples;
    for (int e = visit.at.example + warp_index(); e < end; e += warp_count()) {
        const int q = step->example[e];
        // The warp of an output's first example does all of them.
        if (e > visit.at.example && step->example[e - 1] == q) {
            continue;
        }
        const int own = (q - visit.at.output) * d;
        for (int i = e; i < end && step->example[i] == q; i++) {
            const long long candidate = static_cast<long long>(i) * width;
            const int* cands = step->cands + candidate;
            float* coef = visit.slot + job.at_coef + (i - visit.at.example) * width;
            next_item_logits(cands, example_offset(step, candidate), width, visit.at.row, visit.tail(HIDDEN) + own, visit.at.items, coef, d);
            const float value = next_item_derivatives(job.rec, step->positive_weight, example_share(step, i, visit.at.examples), width, coef);
            if (lane_index() == 0) {
                visit.slot[job.at_loss + i - visit.at.example] = example_loss(step, i, visit.at.examples, value);
            }
            next_item_hidden(cands, width, visit.at.row, coef, visit.at.items, visit.tail(D_HIDDEN) + own, d);
        }
    }
}

// Contrasts of the groups, by their hidden states or by means of them; a warp a group: a client has no more groups than a block has warps
// (`Resident::holds`), so that a warp's scratch is used once.
__device__ __noinline__ void contrasts(const Visit& visit) {
    const Job& job = visit.job;
    const Packed* step = visit.at.step;
    const float weight = step->lambda / static_cast<float>(visit.at.groups) / job.tau;
    const int kind = job.contrast & (MEANS - 1);
    if (const int g = warp_index(); g < visit.at.groups) {
        const int* members = step->group + step->group_bounds[visit.at.group + g];
        const int n = step->group_bounds[visit.at.group + g + 1] - step->group_bounds[visit.at.group + g] - 1;
        const int positives = step->positives[visit.at.group + g];
        float loss = 0.0f;
        if (n > 0 && positives > 0 && kind != CONTRAST_NONE) {
            loss = info_nce_group(kind, job.tau, weight, members, n, positives, visit.at.output, visit.means_or(D_MIXED, HIDDEN),
                                  visit.means_or(D_Q, D_HIDDEN), visit.scratch + 3 * job.views * warp_index(), job.views, job.dim);
        }
        if (lane_index() == 0) {
            visit.slot[job.at_contrast + g] = loss;
        }
    }
}

// The contrast of means compares, for each output, the mean of the hidden states of its sequence up to its own token, all of which are
// outputs. As step by step, a mean is attention by one head whose scores are all 0. Its arrays are those that the backward pass of the last
// block writes later.
struct Means {
    packed_attention::Queries all;
    packed_attention::Heads heads;
    float* zeros;    // [T, d] queries and keys
    float* states;   // [T, d] hidden states of tokens, and their gradient
    float* d_states;
    float* means;    // [outputs, d], and their gradient
    float* d_means;
    float* stats;    // [outputs]
    float* pairs;    // [outputs, 2]

    __device__ __forceinline__ explicit Means(const Visit& visit) : all(queries(visit, true)), heads(1, visit.job.dim) {
        const int b = visit.job.blocks - 1;
        zeros = visit.act(b, D_K), states = visit.act(b, D_V), d_states = visit.tail(D_TOKENS);
        means = visit.means_or(D_MIXED, HIDDEN), d_means = visit.means_or(D_Q, D_HIDDEN);
        stats = visit.act(b, D_N2), pairs = visit.act(b, PAIRS);
    }
};

// Before the contrast; without a barrier at the end.
__device__ __noinline__ void take_means(const Visit& visit) {
    const Means m(visit);
    const int d = visit.job.dim;
    const int* output = reinterpret_cast<const int*>(visit.tail(OUTPUT));
    for (int i = threadIdx.x; i < visit.at.tokens * d; i += blockDim.x) {
        const int q = output[i / d];
        m.zeros[i] = 0.0f;
        m.states[i] = q < 0 ? 0.0f : 0.0f + visit.tail(HIDDEN)[q * d + i % d];
    }
    for (int i = threadIdx.x; i < visit.at.outputs * d; i += blockDim.x) {
        m.d_means[i] = 0.0f;
    }
    __syncthreads();
    for (int q = warp_index(); q < m.all.count; q += warp_count()) {
        packed_attention::forward<HELD>(m.all, packed_attention::Place(q, 1), m.heads, m.zeros, m.zeros, m.states, m.means, m.stats);
    }
}

// Behind it, with a barrier at the end: adds the gradient of the states to that of the hidden states.
__device__ __noinline__ void give_means(const Visit& visit) {
    const Means m(visit);
    for (int q = warp_index(); q < m.all.count; q += warp_count()) {
        packed_attention::backward_q<HELD>(m.all, packed_attention::Place(q, 1), m.heads, m.zeros, m.zeros, m.states, m.stats, m.d_means,
                                           nullptr, m.pairs);
    }
    __syncthreads();
    for (int t = warp_index(); t < visit.at.tokens; t += warp_count()) {
        packed_attention::backward_kv<HELD>(m.all, packed_attention::Place(t, 1), visit.at.step->start[visit.at.token + t], 0, m.all.count,
                                            m.heads, m.zeros, m.zeros, m.states, m.stats, m.d_means, m.pairs, nullptr, m.d_states);
    }
    __syncthreads();
    const int d = visit.job.dim;
    const int* token = visit.at.step->out_token + visit.at.output;
    for (int i = threadIdx.x; i < visit.at.outputs * d; i += blockDim.x) {
        visit.tail(D_HIDDEN)[i] += m.d_states[(token[i / d] - visit.at.token) * d + i % d];
    }
    __syncthreads();
}

// Adds the step's mean losses to the client's; one warp.
__device__ __noinline__ void add_losses(const Visit& visit) {
    double* out = visit.job.losses + 2 * visit.at.number;
    if (visit.at.examples > 0) {
        const double mean = loss_mean(visit.slot + visit.job.at_loss, 0, visit.at.examples);
        if (lane_index() == 0) {
            out[0] += mean;
        }
    }
    if (visit.at.groups > 0) {
        const double mean = loss_mean(visit.slot + visit.job.at_contrast, 0, visit.at.groups);
        if (lane_index() == 0) {
            out[1] += mean;
        }
    }
}

} // namespace resident
