// Gradients of a resident client's weights and the optimiser's steps on them.
#pragma once

#include "resident_phases.cuh"
#include "resident_products.cuh"

namespace resident {

// Gain and bias of a norm over `rows` rows, a thread a column.
__device__ __forceinline__ int norm_weights(const Visit& visit, const Update& update, int from, Norm n, const float* x, const float* stats,
                            const float* dy, int rows) {
    const int d = visit.job.dim;
    for (int k = place_from(from, threadIdx.x, blockDim.x); k < d; k += blockDim.x) {
        float gain = 0.0f, bias = 0.0f;
        for (int part = 0; part < row_norm::GROUPS; part++) {
            float dg, db;
            row_norm::weight_part(x, stats, dy, d, k, part, rows, dg, db);
            gain += dg;
            bias += db;
        }
        update.one(weights() + n.fast + k, n.slab + k, gain);
        update.one(weights() + n.fast + d + k, n.slab + d + k, bias);
    }
    return from + ceil_div(d, 32) * 32;
}

__device__ __forceinline__ int bias_weights(const Update& update, int from, const Matrix& m, const float* dy, int rows) {
    for (int k = place_from(from, threadIdx.x, blockDim.x); k < m.out; k += blockDim.x) {
        float sum = 0.0f;
        for (int r = 0; r < rows; r++) {
            sum += dy[r * m.out + k];
        }
        update.one(weights() + m.fast_bias() + k, m.slab_bias() + k, sum);
    }
    return from + ceil_div(m.out, 32) * 32;
}

// The rows of the position table that the client reaches, a warp a row.
__device__ __noinline__ void positions(const Visit& visit) {
    const Update update = visit.dense;
    const Reach reach = visit.reach;
    const Packed* step = visit.at.step;
    const int d = visit.job.dim, lane = lane_index();
    const int low = step->client_sequences[visit.at.number], high = step->client_sequences[visit.at.number + 1];
    const float* dx = visit.tail(D_TOKENS);
    float* table = visit.slab();
    for (int p = reach.low + warp_index(); p < reach.high; p += warp_count()) {
        float sum[COLUMNS] = {};
        for (int s0 = low; s0 < high; s0 += 32) {
            // A sequence holds consecutive positions: at most one of its tokens is at p.
            int token = -1;
            if (s0 + lane < high) {
                const int first = step->bounds[s0 + lane], last = step->bounds[s0 + lane + 1];
                if (first < last) {
                    const int at = first + p - step->position[first];
                    token = at >= first && at < last ? at - visit.at.token : -1;
                }
            }
            for (unsigned left = __ballot_sync(FULL_WARP, token >= 0); left != 0; left &= left - 1) {
                const float* x = dx + __shfl_sync(FULL_WARP, token, __ffs(left) - 1) * d;
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    sum[c] += 32 * c + lane < d ? x[32 * c + lane] : 0.0f;
                }
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int k = 32 * c + lane;
            if (k < d) {
                update.one(table + p * d + k, p * d + k, sum[c]);
            }
        }
    }
}

// Adds `factor(i) * values[index(i)]` for the entries i of `count` whose row is `row`, in their order; a warp, lanes are columns.
template <class Row, class Index, class Factor>
__device__ __forceinline__ void gather(float sum[COLUMNS], int count, int row, int d, const float* values, const Row& row_of,
                                       const Index& index, const Factor& factor) {
    const int lane = lane_index();
    for (int base = 0; base < count; base += 32) {
        const bool own = base + lane < count && row_of(base + lane) == row;
        for (unsigned left = __ballot_sync(FULL_WARP, own); left != 0; left &= left - 1) {
            const int i = base + __ffs(left) - 1;
            const float f = factor(i);
            const float* value = values + index(i) * d;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int k = 32 * c + lane;
                if (k < d) {
                    sum[c] = fmaf(f, value[k], sum[c]);
                }
            }
        }
    }
}

// The client's item rows, as candidates and then as inputs, a warp a row. `update` holds the rows' own moments.
__device__ __noinline__ void item_rows(const Visit& visit) {
    const Update update = visit.items;
    const Job& job = visit.job;
    const Packed* step = visit.at.step;
    const int d = job.dim, lane = lane_index(), width = step->width;
    const int* cands = step->cands + static_cast<long long>(visit.at.example) * width;
    const float* coef = visit.slot + job.at_coef;
    for (int r = warp_index(); r < visit.at.rows; r += warp_count()) {
        float sum[COLUMNS] = {};
        gather(
            sum, visit.at.examples * width, r, d, visit.tail(HIDDEN), [&](int i) { return cands[i] - visit.at.row; },
            [&](int i) { return step->example[visit.at.example + i / width] - visit.at.output; }, [&](int i) { return coef[i]; });
        gather(
            sum, visit.at.tokens, r, d, visit.tail(D_TOKENS), [&](int t) { return step->row[visit.at.token + t] - visit.at.row; },
            [&](int t) { return t; }, [&](int) { return job.scale; });
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int k = 32 * c + lane, at = r * d + k;
            if (k < d) {
                if (job.item_threshold > 0) {
                    using namespace elementwise;
                    const Mask m = mask(step, job.clock, SITE_ITEMS, visit.at.number, job.item_threshold, job.item_keep);
                    sum[c] = __fmul_rn(sum[c], m.of(static_cast<unsigned>(at)));
                }
                update.one(job.rows + static_cast<long long>(visit.at.row) * d + at, at, sum[c]);
            }
        }
    }
}

// Every weight's gradient, and its step.
template <class Math> __device__ __noinline__ void update_weights(const Visit& visit) {
    const Update dense = visit.dense;
    const Job& job = visit.job;
    int from = 0;
#pragma unroll 1
    for (int i = 0; i < job.blocks * MATRICES; i++) {
        const int b = i / MATRICES, k = i % MATRICES;
        const Matrix m = matrix(job, b, k);
        const float* x = visit.act(b, k == 0 ? N1 : k < 3 ? X : k == 3 ? MIXED : k == 4 ? N2 : INNER);
        const float* dy = visit.act(b, k == 0 ? D_Q : k == 1 ? D_K : k == 2 ? D_V : k == 3 ? D_O : k == 4 ? D_F1 : D_F2);
        const int rows = b + 1 == job.blocks && k != 1 && k != 2 ? visit.at.outputs : visit.at.tokens;
        from = Math::gradient(dense, from, m, x, dy, rows);
        from = bias_weights(dense, from, m, dy, rows);
    }
#pragma unroll 1
    for (int i = 0; i <= 2 * job.blocks; i++) {
        const int b = i / 2;
        const bool end = b == job.blocks, one = i % 2 == 0;
        const int rows = b + 1 >= job.blocks ? visit.at.outputs : visit.at.tokens;
        const float* x = end ? visit.tail(LAST) : visit.act(b, one ? XQ : MID);
        const float* stats = end ? visit.tail(S_LAST) : visit.act(b, one ? S1 : S2);
        const float* dy = end ? visit.tail(D_HIDDEN) : visit.act(b, one ? D_N1 : D_N2);
        from = norm_weights(visit, dense, from, norm(job, b, one ? 0 : 1), x, stats, dy, rows);
    }
}

// The factor by which stored gradients are clipped, as clip_norm finds it.
__device__ __noinline__ float clip_factor(const Visit& visit) {
    const Reach reach = visit.reach;
    const Job& job = visit.job;
    double* scratch = reinterpret_cast<double*>(visit.scratch);
    const float* g = visit.slot + job.at_gradient;
    const float* row_grad = visit.slot + job.at_row_gradient;
    double sum = 0.0;
    if (threadIdx.x < CLIP_THREADS) {
        for (int i = threadIdx.x; i < job.length; i += CLIP_THREADS) {
            const int p = i < job.position_rows * job.dim ? i / job.dim : reach.low;
            const double x = p < reach.low || p >= reach.high ? 0.0 : static_cast<double>(g[i]);
            sum += x * x;
        }
        for (int i = threadIdx.x; i < visit.at.rows * job.dim; i += CLIP_THREADS) {
            const double x = static_cast<double>(row_grad[i]);
            sum += x * x;
        }
    }
    const double norm = sqrt(block_sum(sum, scratch));
    return norm > static_cast<double>(job.clip) ? static_cast<float>(static_cast<double>(job.clip) / norm) : 1.0f;
}

// The optimiser on stored gradients.
__device__ __noinline__ void apply_stored(const Visit& visit) {
    const Update dense = visit.dense, items = visit.items;
    const Reach reach = visit.reach;
    const Job& job = visit.job;
    each_run(job, [&](int slab, int fast, int count) {
        for (int k = lane_index(); k < count; k += 32) {
            dense.one(weights() + fast + k, slab + k, dense.first[dense.gradient + slab + k]);
        }
    });
    float* table = visit.slab();
    for (int i = reach.low * job.dim + threadIdx.x; i < reach.high * job.dim; i += blockDim.x) {
        dense.one(table + i, i, dense.first[dense.gradient + i]);
    }
    for (int i = threadIdx.x; i < visit.at.rows * job.dim; i += blockDim.x) {
        items.one(visit.rows() + i, i, items.first[items.gradient + i]);
    }
}

// How step `number` of the visit updates the client's weights; one thread calls this.
__device__ __noinline__ void plan_update(Visit& visit, int number) {
    const Job& job = visit.job;
    const OptimiserStep opt = job.optimiser[number];
    const bool moments = opt.sgd == 0;
    Update& dense = visit.dense;
    dense.opt = opt;
    dense.scale = 1.0f;
    dense.store = job.clip > 0.0f;
    dense.reads = moments && opt.first == 0;
    dense.keeps = moments && number + 1 < job.step_count;
    dense.first = visit.slot + job.at_first;
    dense.second = job.at_second - job.at_first;
    dense.gradient = job.at_gradient - job.at_first;
    visit.items = dense;
    visit.items.first = visit.slot + job.at_row_first;
    visit.items.second = job.at_row_second - job.at_row_first;
    visit.items.gradient = job.at_row_gradient - job.at_row_first;
}

// Rows of the position table that the client does not reach have no moments yet; a later step may meet them.
__device__ __noinline__ void clear_unreached(const Visit& visit) {
    const Job& job = visit.job;
    const int low = visit.reach.low * job.dim, high = visit.reach.high * job.dim;
    for (int i = threadIdx.x; i < job.position_rows * job.dim; i += blockDim.x) {
        if (i < low || i >= high) {
            visit.dense.first[i] = visit.dense.first[visit.dense.second + i] = 0.0f;
        }
    }
}

// The end of a step: the barrier that follows it is that of `run`.
template <class Math> __device__ __forceinline__ void optimise(Visit& visit) {
    if (visit.dense.opt.first != 0 && visit.dense.opt.sgd == 0) {
        clear_unreached(visit);
    }
    update_weights<Math>(visit);
    positions(visit);
    item_rows(visit);
    if (visit.dense.store) {
        __syncthreads();
        // Behind its last barrier no thread reads what is written here: no barrier is needed before.
        const float scale = clip_factor(visit);
        if (threadIdx.x == 0) {
            visit.dense.scale = visit.items.scale = scale;
            visit.dense.store = visit.items.store = false;
        }
        __syncthreads();
        apply_stored(visit);
    }
}

} // namespace resident
