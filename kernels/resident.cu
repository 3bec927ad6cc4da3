// A whole visit of a client in one block of threads: every local epoch of SASRec, forward, losses, backward, clip and optimiser,
// with the client's weights in shared memory. Global weights are read once, the trained ones written once.
//
// COUNT
#include "attention.cuh"
#include "contrast.cuh"
#include "next_item.cuh"
#include "resident.cuh"

namespace resident {

constexpr int HELD = 2; // columns of a head that a lane has: heads are at most 64 wide

// The phases below are separated by barriers of the block: what one writes the next may read. Rows go round the warps.

// Where the activations of a client of `tokens` tokens and `outputs` outputs lie: in shared memory as long as there is room, the
// others in the slot. One thread calls this.
__device__ void place_activations(const Job& job, int tokens, int outputs, float* fast, float* slow, float** acts) {
    int left = job.arena_fast;
    const auto take = [&](int floats) {
        const int need = ceil_div(floats, 8) * 8;
        float* at = need <= left ? fast : slow;
        (need <= left ? fast : slow) += need;
        left -= need <= left ? need : 0;
        return at;
    };
    const bool drops = job.threshold > 0;
    for (int b = 0; b < job.blocks; b++) {
        float** own = acts + b * ACTS;
        const bool last = b + 1 == job.blocks;
        const int rows = last ? outputs : tokens, d = job.dim;
        own[X] = take(tokens * d);
        own[XQ] = last ? take(rows * d) : own[X];
        own[N1] = take(rows * d);
        own[S1] = take(2 * rows);
        own[Q] = take(rows * d);
        own[K] = take(tokens * d);
        own[V] = take(tokens * d);
        own[MIXED] = take(rows * d);
        own[LSE] = take(rows * job.heads);
        own[MID] = take(rows * d);
        own[N2] = take(rows * d);
        own[S2] = take(2 * rows);
        own[INNER] = take(rows * job.inner);
        own[D_OUT] = take(rows * d);
        own[D_F2] = drops ? take(rows * d) : own[D_OUT];
        own[D_F1] = take(rows * job.inner);
        own[D_N2] = take(rows * d);
        own[D_MID] = take(rows * d);
        own[D_O] = drops ? take(rows * d) : own[D_MID];
        own[D_MIXED] = take(rows * d);
        own[D_Q] = take(rows * d);
        own[PAIRS] = take(2 * rows * job.heads);
        own[D_K] = take(tokens * d);
        own[D_V] = take(tokens * d);
        own[D_N1] = take(rows * d);
        own[D_XQ] = take(rows * d);
    }
    float** tail = acts + job.blocks * ACTS;
    tail[LAST] = take(outputs * job.dim);
    tail[S_LAST] = take(2 * outputs);
    tail[HIDDEN] = take(outputs * job.dim);
    tail[D_HIDDEN] = take(outputs * job.dim);
    tail[D_TOKENS] = take(tokens * job.dim);
    tail[OUTPUT] = take(tokens);
}

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
__device__ void take_weights(const Visit& visit) {
    const Job& job = visit.job;
    each_run(job, [&](int slab, int fast, int count) {
        for (int k = lane_index(); k < count; k += 32) {
            visit.weights[fast + k] = job.global[slab + k];
        }
    });
    float* dense = visit.dense();
    for (int i = threadIdx.x; i < job.position_rows * job.dim; i += blockDim.x) {
        dense[i] = job.global[i];
    }
    for (int r = warp_index(); r < visit.at.rows; r += warp_count()) {
        const float* from = job.table + static_cast<long long>(job.items[visit.at.row + r]) * job.dim;
        for (int k = lane_index(); k < job.dim; k += 32) {
            job.rows[static_cast<long long>(visit.at.row + r) * job.dim + k] = from[k];
        }
    }
}

__device__ void give_weights(const Visit& visit) {
    float* dense = visit.dense();
    each_run(visit.job, [&](int slab, int fast, int count) {
        for (int k = lane_index(); k < count; k += 32) {
            dense[slab + k] = visit.weights[fast + k];
        }
    });
}

__device__ void clear_moments(const Visit& visit) {
    const Job& job = visit.job;
    for (int i = threadIdx.x; i < job.length; i += blockDim.x) {
        visit.slot[job.at_first + i] = visit.slot[job.at_second + i] = 0.0f;
    }
    for (int i = threadIdx.x; i < visit.at.rows * job.dim; i += blockDim.x) {
        visit.slot[job.at_row_first + i] = visit.slot[job.at_row_second + i] = 0.0f;
    }
}

// `y = x` under the mask of a dropout site, zero where `gate` is not positive, plus `add`: activations `[rows, width]`.
__device__ void drop(const Visit& visit, int site, const float* x, float* y, int n, const float* gate, const float* add) {
    const elementwise::Mask m = elementwise::mask(visit.at.step, *visit.job.clock, site, visit.at.number, visit.job.threshold, visit.job.keep);
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
__device__ void prepare(const Visit& visit) {
    const Job& job = visit.job;
    int* output = reinterpret_cast<int*>(visit.tail(OUTPUT));
    for (int t = threadIdx.x; t < visit.at.tokens; t += blockDim.x) {
        output[t] = -1;
    }
    if (job.item_threshold > 0) {
        using namespace elementwise;
        const Mask m = mask(visit.at.step, *job.clock, SITE_ITEMS, visit.at.number, job.item_threshold, job.item_keep);
        const float* rows = visit.rows();
        float* dropped = visit.slot + job.at_dropped;
        const int n = visit.at.rows * job.dim;
        for (int i = threadIdx.x; 8 * i < n; i += blockDim.x) {
            drop_eight(m, static_cast<unsigned>(i), rows + 8 * i, dropped + 8 * i, 0, min(8, n - 8 * i));
        }
    }
}

__device__ void embed(const Visit& visit) {
    const Job& job = visit.job;
    const int d = job.dim;
    const float* places = visit.dense();
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
__device__ void normalise(const Visit& visit, const Norm& n, const float* from, float* picked, int rows, float* y, float* stats) {
    const int d = visit.job.dim;
    for (int r = warp_index(); r < rows; r += warp_count()) {
        const float* x = from + (picked ? visit.at.step->out_token[visit.at.output + r] - visit.at.token : r) * d;
        row_norm::normalise(x, d, visit.weights + n.fast, visit.weights + n.fast + d, y + r * d, stats + 2 * r);
        if (picked) {
            for (int k = lane_index(); k < d; k += 32) {
                picked[r * d + k] = x[k];
            }
        }
    }
}

// `dx = base + gradient of x`; no base counts as zeros.
__device__ void normalise_backward(const Visit& visit, const Norm& n, const float* x, const float* stats, const float* dy, int rows,
                                   const float* base, float* dx) {
    const int d = visit.job.dim;
    for (int r = warp_index(); r < rows; r += warp_count()) {
        row_norm::slope_of_input(x + r * d, stats + 2 * r, d, visit.weights + n.fast, dy + r * d, [&](int k, float slope) {
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
    return last ? Queries(visit.at.outputs, visit.at.step->out_token + visit.at.output, visit.at.step->out_start + visit.at.output, visit.at.token)
                : Queries(visit.at.tokens, nullptr, visit.at.step->start + visit.at.token, visit.at.token);
}

__device__ void attend(const Visit& visit, int b, bool last) {
    using namespace packed_attention;
    const Queries all = queries(visit, last);
    const Heads heads(visit.job.heads, visit.job.dim);
    for (int u = warp_index(); u < all.count * heads.count; u += warp_count()) {
        forward<HELD>(all, Place(u, heads.count), heads, visit.act(b, Q), visit.act(b, K), visit.act(b, V), visit.act(b, MIXED),
                   visit.act(b, LSE));
    }
}

__device__ void attend_backward_q(const Visit& visit, int b, bool last) {
    using namespace packed_attention;
    const Queries all = queries(visit, last);
    const Heads heads(visit.job.heads, visit.job.dim);
    for (int u = warp_index(); u < all.count * heads.count; u += warp_count()) {
        backward_q<HELD>(all, Place(u, heads.count), heads, visit.act(b, Q), visit.act(b, K), visit.act(b, V), visit.act(b, LSE),
                      visit.act(b, D_MIXED), visit.act(b, D_Q), visit.act(b, PAIRS));
    }
}

__device__ void attend_backward_kv(const Visit& visit, int b, bool last) {
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
__device__ void next_items(const Visit& visit) {
    const Job& job = visit.job;
    const Packed* step = visit.at.step;
    const int width = step->width, d = job.dim, end = visit.at.example + visit.at.examples;
    const float share = 1.0f / static_cast<float>(visit.at.examples);
    for (int e = visit.at.example + warp_index(); e < end; e += warp_count()) {
        const int q = step->example[e];
        // The warp of an output's first example does all of them.
        if (e > visit.at.example && step->example[e - 1] == q) {
            continue;
        }
        const int own = (q - visit.at.output) * d;
        for (int i = e; i < end && step->example[i] == q; i++) {
            const int* cands = step->cands + static_cast<long long>(i) * width;
            float* coef = visit.slot + job.at_coef + (i - visit.at.example) * width;
            next_item_logits(cands, width, visit.at.row, visit.tail(HIDDEN) + own, visit.at.items, coef, d);
            const float value = next_item_derivatives(job.rec, step->gbce_beta, share, width, coef);
            if (lane_index() == 0) {
                visit.slot[job.at_loss + i - visit.at.example] = value;
            }
            next_item_hidden(cands, width, visit.at.row, coef, visit.at.items, visit.tail(D_HIDDEN) + own, d);
        }
    }
}

__device__ void contrasts(const Visit& visit) {
    const Job& job = visit.job;
    const Packed* step = visit.at.step;
    const float weight = step->lambda / static_cast<float>(visit.at.groups) / job.tau;
    for (int g = warp_index(); g < visit.at.groups; g += warp_count()) {
        const int* members = step->group + step->group_bounds[visit.at.group + g];
        const int n = step->group_bounds[visit.at.group + g + 1] - step->group_bounds[visit.at.group + g] - 1;
        const int positives = step->positives[visit.at.group + g];
        float loss = 0.0f;
        if (n > 0 && positives > 0 && job.contrast != CONTRAST_NONE) {
            __syncwarp(); // The last group's numbers are no longer read.
            loss = info_nce_group(job.contrast, job.tau, weight, members, n, positives, visit.at.output, visit.tail(HIDDEN),
                                  visit.tail(D_HIDDEN), visit.scratch + 3 * job.views * warp_index(), job.views, job.dim);
        }
        if (lane_index() == 0) {
            visit.slot[job.at_contrast + g] = loss;
        }
    }
}

// Adds the step's mean losses to the client's; one warp.
__device__ void add_losses(const Visit& visit) {
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

// One block: norm 1; q, k, v; attention; o and residual; norm 2; f1; f2 and residual. Its products are one loop, so that their
// code is there once.
template <class Math> __device__ void block_forward(const Visit& visit, int b) {
    const Job& job = visit.job;
    const bool last = b + 1 == job.blocks, drops = job.threshold > 0;
    const int rows = last ? visit.at.outputs : visit.at.tokens;
    int from = 0;
#pragma unroll 1
    for (int k = 0; k < MATRICES; k++) {
        if (k >= 3) {
            __syncthreads();
            from = 0;
        }
        if (k == 3) {
            attend(visit, b, last);
            __syncthreads();
        }
        if (k == 0 || k == 4) {
            const bool one = k == 0;
            normalise(visit, norm(job, b, one ? 0 : 1), visit.act(b, one ? X : MID), one && last ? visit.act(b, XQ) : nullptr, rows,
                      visit.act(b, one ? N1 : N2), visit.act(b, one ? S1 : S2));
            __syncthreads();
        }
        const Matrix m = matrix(job, b, k);
        const float* x = visit.act(b, k == 0 ? N1 : k < 3 ? X : k == 3 ? MIXED : k == 4 ? N2 : INNER);
        float* y = k < 5 ? visit.act(b, k == 0 ? Q : k == 1 ? K : k == 2 ? V : k == 3 ? MID : INNER)
                         : last ? visit.tail(LAST) : visit.act(b + 1, X);
        const float* residual = k == 3 ? visit.act(b, job.normed ? N1 : XQ) : k == 5 ? visit.act(b, job.normed ? N2 : MID) : nullptr;
        const int count = k == 1 || k == 2 ? visit.at.tokens : rows;
        const Finish finish{y, m.out, visit.weights + m.fast_bias(), k == 4, nullptr, drops ? nullptr : residual, nullptr};
        from = Math::template product<false>(from, x, count, m.in, visit.weights + m.fast, m.ld, m.out, finish);
        if (drops && k >= 3) {
            __syncthreads();
            drop(visit, 1 + 3 * b + k - 3, y, y, count * m.out, nullptr, residual);
        }
    }
    __syncthreads();
}

// Back through a block: f2, f1, norm 2, o, attention, q, norm 1, k and v; again one loop of products.
template <class Math> __device__ void block_backward(const Visit& visit, int b) {
    const Job& job = visit.job;
    const bool last = b + 1 == job.blocks, drops = job.threshold > 0;
    const int rows = last ? visit.at.outputs : visit.at.tokens, site = 1 + 3 * b;
    float* below = b > 0 ? visit.act(b - 1, D_OUT) : visit.tail(D_TOKENS);
#pragma unroll 1
    for (int j = 0; j < MATRICES; j++) {
        // Keys and values write the same elements by the same threads: no barrier lies between them.
        if (j > 0 && j < 5) {
            __syncthreads();
        }
        if (j == 2 || j == 4) {
            const bool two = j == 2;
            normalise_backward(visit, norm(job, b, two ? 1 : 0), visit.act(b, two ? MID : XQ), visit.act(b, two ? S2 : S1),
                               visit.act(b, two ? D_N2 : D_N1), rows, job.normed ? nullptr : visit.act(b, two ? D_OUT : D_MID),
                               visit.act(b, two ? D_MID : D_XQ));
            __syncthreads();
            if (two && drops) {
                drop(visit, site, visit.act(b, D_MID), visit.act(b, D_O), rows * job.dim, nullptr, nullptr);
                __syncthreads();
            }
        }
        if (j == 3) {
            attend_backward_q(visit, b, last);
            __syncthreads();
            attend_backward_kv(visit, b, last);
        }
        const Matrix m = matrix(job, b, j < 3 ? 5 - j : j - 3);
        const float* dy = visit.act(b, j == 0 ? D_F2 : j == 1 ? D_F1 : j == 2 ? D_O : j == 3 ? D_Q : j == 4 ? D_K : D_V);
        Finish finish{below, m.in, nullptr, false, nullptr, nullptr, nullptr};
        if (j < 4) {
            finish.y = visit.act(b, j == 0 ? D_F1 : j == 1 ? D_N2 : j == 2 ? D_MIXED : D_N1);
            finish.gate = j == 0 && !drops ? visit.act(b, INNER) : nullptr;
            // Where the residual carries the norm's output, its gradient belongs there.
            finish.add = job.normed && j % 2 == 1 ? visit.act(b, j == 1 ? D_OUT : D_MID) : nullptr;
        } else {
            finish.add = j == 4 ? visit.act(b, D_XQ) : below;
            finish.add_row = j == 4 && last ? reinterpret_cast<const int*>(visit.tail(OUTPUT)) : nullptr;
        }
        const int count = j < 4 ? rows : visit.at.tokens;
        Math::template product<true>(0, dy, count, m.out, visit.weights + m.fast, m.ld, m.in, finish);
        if (drops && (j == 0 || j == 5)) {
            __syncthreads();
            float* to = j == 0 ? finish.y : b > 0 ? visit.act(b - 1, D_F2) : below;
            drop(visit, j == 0 ? site + 1 : b > 0 ? site - 1 : 0, finish.y, to, count * m.in, j == 0 ? visit.act(b, INNER) : nullptr, nullptr);
        }
    }
    __syncthreads();
}

// Gain and bias of a norm over `rows` rows, a thread a column.
__device__ int norm_weights(const Visit& visit, const Update& update, int from, const Norm& n, const float* x, const float* stats,
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
        update.one(visit.weights + n.fast + k, n.slab + k, gain);
        update.one(visit.weights + n.fast + d + k, n.slab + d + k, bias);
    }
    return from + ceil_div(d, 32) * 32;
}

__device__ int bias_weights(const Visit& visit, const Update& update, int from, const Matrix& m, const float* dy, int rows) {
    for (int k = place_from(from, threadIdx.x, blockDim.x); k < m.out; k += blockDim.x) {
        float sum = 0.0f;
        for (int r = 0; r < rows; r++) {
            sum += dy[r * m.out + k];
        }
        update.one(visit.weights + m.fast_bias() + k, m.slab_bias() + k, sum);
    }
    return from + ceil_div(m.out, 32) * 32;
}

// The rows of the position table that the client reaches, a warp a row.
__device__ void positions(const Visit& visit, const Update& update, const Reach& reach) {
    const Packed* step = visit.at.step;
    const int d = visit.job.dim, lane = lane_index();
    const int low = step->client_sequences[visit.at.number], high = step->client_sequences[visit.at.number + 1];
    const float* dx = visit.tail(D_TOKENS);
    float* table = visit.dense();
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
__device__ void item_rows(const Visit& visit, const Update& update) {
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
                    const Mask m = mask(step, *job.clock, SITE_ITEMS, visit.at.number, job.item_threshold, job.item_keep);
                    sum[c] = __fmul_rn(sum[c], m.of(static_cast<unsigned>(at)));
                }
                update.one(job.rows + static_cast<long long>(visit.at.row) * d + at, at, sum[c]);
            }
        }
    }
}

// Every weight's gradient, and its step.
template <class Math> __device__ void update_weights(const Visit& visit, const Update& dense, const Update& rows_of_items, const Reach& reach) {
    const Job& job = visit.job;
    int from = 0;
#pragma unroll 1
    for (int i = 0; i < job.blocks * MATRICES; i++) {
        const int b = i / MATRICES, k = i % MATRICES;
        const Matrix m = matrix(job, b, k);
        const float* x = visit.act(b, k == 0 ? N1 : k < 3 ? X : k == 3 ? MIXED : k == 4 ? N2 : INNER);
        const float* dy = visit.act(b, k == 0 ? D_Q : k == 1 ? D_K : k == 2 ? D_V : k == 3 ? D_O : k == 4 ? D_F1 : D_F2);
        const int rows = b + 1 == job.blocks && k != 1 && k != 2 ? visit.at.outputs : visit.at.tokens;
        from = Math::gradient(visit.weights, dense, from, m, x, dy, rows);
        from = bias_weights(visit, dense, from, m, dy, rows);
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
    positions(visit, dense, reach);
    item_rows(visit, rows_of_items);
}

// The factor by which stored gradients are clipped, as clip_norm finds it.
__device__ float clip_factor(const Visit& visit, const Reach& reach) {
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
__device__ void apply_stored(const Visit& visit, const Update& dense, const Update& rows_of_items, const Reach& reach) {
    const Job& job = visit.job;
    each_run(job, [&](int slab, int fast, int count) {
        for (int k = lane_index(); k < count; k += 32) {
            dense.one(visit.weights + fast + k, slab + k, dense.gradient[slab + k]);
        }
    });
    float* table = visit.dense();
    for (int i = reach.low * job.dim + threadIdx.x; i < reach.high * job.dim; i += blockDim.x) {
        dense.one(table + i, i, dense.gradient[i]);
    }
    for (int i = threadIdx.x; i < visit.at.rows * job.dim; i += blockDim.x) {
        rows_of_items.one(visit.rows() + i, i, rows_of_items.gradient[i]);
    }
}

template <class Math> __device__ void optimise(const Visit& visit, const OptimiserStep& opt, bool last) {
    const Job& job = visit.job;
    const bool moments = opt.sgd == 0, reads = moments && opt.first == 0, keeps = moments && !last;
    const Reach reach = client_reach(visit.at.step, visit.at.number);
    if (moments && opt.first != 0) {
        // Rows of the position table that a later step may meet.
        for (int i = threadIdx.x; i < job.position_rows * job.dim; i += blockDim.x) {
            if (i < reach.low * job.dim || i >= reach.high * job.dim) {
                visit.slot[job.at_first + i] = visit.slot[job.at_second + i] = 0.0f;
            }
        }
    }
    const bool clips = job.clip > 0.0f;
    Update dense{opt,   1.0f, clips, reads, keeps, visit.slot + job.at_first, visit.slot + job.at_second, visit.slot + job.at_gradient};
    Update rows = dense;
    rows.first = visit.slot + job.at_row_first;
    rows.second = visit.slot + job.at_row_second;
    rows.gradient = visit.slot + job.at_row_gradient;
    update_weights<Math>(visit, dense, rows, reach);
    if (clips) {
        __syncthreads();
        dense.scale = rows.scale = clip_factor(visit, reach);
        dense.store = rows.store = false;
        apply_stored(visit, dense, rows, reach);
    }
    __syncthreads();
}

template <class Math> __device__ void local_step(const Visit& visit, const OptimiserStep& opt, bool last) {
    const Job& job = visit.job;
    prepare(visit);
    __syncthreads();
    embed(visit);
    __syncthreads();
    if (job.threshold > 0) {
        drop(visit, 0, visit.act(0, X), visit.act(0, X), visit.at.tokens * job.dim, nullptr, nullptr);
        __syncthreads();
    }
#pragma unroll 1
    for (int b = 0; b < job.blocks; b++) {
        block_forward<Math>(visit, b);
    }
    const Norm n = norm(job, job.blocks, 0);
    normalise(visit, n, visit.tail(LAST), nullptr, visit.at.outputs, visit.tail(HIDDEN), visit.tail(S_LAST));
    for (int i = threadIdx.x; i < visit.at.outputs * job.dim; i += blockDim.x) {
        visit.tail(D_HIDDEN)[i] = 0.0f;
    }
    __syncthreads();
    next_items(visit);
    __syncthreads();
    contrasts(visit);
    __syncthreads();
    if (warp_index() == 0) {
        add_losses(visit);
    }
    const int b = job.blocks - 1;
    normalise_backward(visit, n, visit.tail(LAST), visit.tail(S_LAST), visit.tail(D_HIDDEN), visit.at.outputs, nullptr, visit.act(b, D_OUT));
    __syncthreads();
    if (job.threshold > 0) {
        drop(visit, 3 + 3 * b, visit.act(b, D_OUT), visit.act(b, D_F2), visit.at.outputs * job.dim, nullptr, nullptr);
        __syncthreads();
    }
#pragma unroll 1
    for (int i = b; i >= 0; i--) {
        block_backward<Math>(visit, i);
    }
    optimise<Math>(visit, opt, last);
}

// What is client `c`'s in `step`; one thread calls this.
__device__ void enter(const Job& job, const Packed* step, int c, const float* slot, Client& at) {
    at.step = step;
    at.number = c;
    at.token = step->client_tokens[c];
    at.tokens = step->client_tokens[c + 1] - at.token;
    at.output = step->client_outs[c];
    at.outputs = step->client_outs[c + 1] - at.output;
    at.example = step->client_examples[c];
    at.examples = step->client_examples[c + 1] - at.example;
    at.group = step->client_groups[c];
    at.groups = step->client_groups[c + 1] - at.group;
    at.row = step->client_rows[c];
    at.rows = step->client_rows[c + 1] - at.row;
    at.items = job.item_threshold > 0 ? slot + job.at_dropped : job.rows + static_cast<long long>(at.row) * job.dim;
}

// Clients from the queue, one after another.
template <class Math> __device__ __forceinline__ void run(const Job& job) {
    LUMOS_SHARED(unsigned char, shared);
    Client& at = *reinterpret_cast<Client*>(shared + job.table_at);
    float** acts = reinterpret_cast<float**>(shared + job.table_at + sizeof(Client));
    float* scratch = reinterpret_cast<float*>(shared + job.scratch_at);
    float* slot = job.slots + blockIdx.x * job.slot;
    const Visit visit{job, at, reinterpret_cast<float*>(shared), slot, acts, scratch};
    for (;;) {
        if (threadIdx.x == 0) {
            const int place = atomicAdd(job.next, 1);
            at.number = -1;
            if (place < job.clients) {
                enter(job, job.steps, job.order[place], slot, at);
            }
        }
        __syncthreads();
        const int number = at.number;
        if (number < 0) {
            return;
        }
        take_weights(visit);
        if (threadIdx.x < 2) {
            job.losses[2 * number + threadIdx.x] = 0.0;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = 0; i < job.step_count; i++) {
            if (threadIdx.x == 0) {
                const int tokens = i == 0 ? -1 : at.tokens, outputs = at.outputs;
                enter(job, job.steps + i, number, slot, at);
                if (tokens != at.tokens || outputs != at.outputs) {
                    place_activations(job, at.tokens, at.outputs, reinterpret_cast<float*>(shared + job.fast_at), slot + job.at_arena, acts);
                }
            }
            __syncthreads();
            const OptimiserStep opt = job.optimiser[i];
            if (at.tokens > 0) {
                local_step<Math>(visit, opt, i + 1 == job.step_count);
            } else if (opt.first != 0 && opt.sgd == 0) {
                clear_moments(visit);
            }
            __syncthreads();
        }
        give_weights(visit);
        __syncthreads();
    }
}

} // namespace resident

// LAUNCH
extern "C" __global__ void __launch_bounds__(resident::THREADS, 1) resident_visits(const LUMOS_GRID_CONSTANT resident::Job job) {
    resident::run<resident::Plain>(job);
}
EXPORT_KERNEL(resident_visits)

// As resident_visits, products in TF32.
extern "C" __global__ void __launch_bounds__(resident::THREADS, 1) resident_visits_tf32(const LUMOS_GRID_CONSTANT resident::Job job) {
    resident::run<resident::Cores<Tf32>>(job);
}
EXPORT_KERNEL(resident_visits_tf32)

// As resident_visits, products in bfloat16.
extern "C" __global__ void __launch_bounds__(resident::THREADS, 1) resident_visits_bf16(const LUMOS_GRID_CONSTANT resident::Job job) {
    resident::run<resident::Cores<Bf16>>(job);
}
EXPORT_KERNEL(resident_visits_bf16)
