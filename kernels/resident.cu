// A whole visit of a client in one block of threads: every local epoch of SASRec, forward, losses, backward, clip and optimiser,
// with the client's weights in shared memory. Global weights are read once, the trained ones written once.
//
// Counted before it was written, at the reference shape: d = 64, 2 blocks, 1 head, f = 64, 20 tokens and 7 outputs a client, Adam,
// 5 steps. Nothing below was measured.
// * Weights: 50,560 floats without the position table, 214,528 bytes with rows padded against bank conflicts. A block of an H100 or
//   H200 has 232,448: they fit once, and 16 KB are left for activations. Both moments, 404 KB more, fit nowhere in one multiprocessor
//   (shared memory 228 KB, registers 256 KB), so they stay in device memory. A cluster of four blocks would hold everything, with a
//   quarter of the clients at work and a barrier of the cluster between phases; it was not built.
// * Activations: 161 KB a client, kept until the weights' gradients are taken; what has no room in shared memory is in the slot, for
//   132 blocks 21 MB of the second-level cache's 50 MB.
// * Bytes of device memory a client-epoch: moments 688 KB (written at the first step, read at the last, both in between), weights in
//   and out 86 KB. At 4.8 TB/s (H200) that is 6.2 million client-epochs/s, at 3.35 TB/s (H100) 4.3 million. Step by step it is
//   2.0 MB and activations.
// * Cycles of one multiprocessor a client-epoch: 4.6 MFLOP of products are 18,000 where every cycle issues 128 multiply-adds; a
//   product waits 64 / 4 times for shared memory, about 1,000 cycles in each of 18 phases; Adam with its exact root and division is
//   37 instructions a weight as compiled (scripts/sass), 16,000; attention, norms, losses and 40 barriers about 20,000. Together 55,000 to
//   75,000: 132 multiprocessors at 1.7 GHz would make 3.0 to 4.0 million client-epochs/s. Two or three times that for what waits is likely.
// So latency and the optimiser limit it, not bandwidth: few phases, products of q, k and v side by side, all gradients in one phase.
#include "resident_update.cuh"

namespace resident {

// Where the activations of a client of `tokens` tokens and `outputs` outputs lie: in shared memory as long as there is room, the
// others in the slot. One thread calls this.
__device__ __noinline__ void place_activations(const Job& job, int tokens, int outputs, float* fast, float* slow, float** acts) {
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

// One block: norm 1; q, k, v; attention; o and residual; norm 2; f1; f2 and residual. Its products are one loop, so that their
// code is there once.
template <class Math> __device__ __noinline__ void block_forward(const Visit& visit, int b) {
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
        const Finish finish{y, m.out, weights() + m.fast_bias(), k == 4, nullptr, drops ? nullptr : residual, nullptr};
        from = Math::template product<false>(from, x, count, m.in, weights() + m.fast, m.ld, m.out, finish);
        if (drops && k >= 3) {
            __syncthreads();
            drop(visit, 1 + 3 * b + k - 3, y, y, count * m.out, nullptr, residual);
        }
    }
    __syncthreads();
}

// Back through a block: f2, f1, norm 2, o, attention, q, norm 1, k and v; again one loop of products.
template <class Math> __device__ __noinline__ void block_backward(const Visit& visit, int b) {
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
        Math::template product<true>(0, dy, count, m.out, weights() + m.fast, m.ld, m.in, finish);
        if (drops && (j == 0 || j == 5)) {
            __syncthreads();
            float* to = j == 0 ? finish.y : b > 0 ? visit.act(b - 1, D_F2) : below;
            const int mask = j == 0 ? site + 1 : b > 0 ? site - 1 : 0;
            drop(visit, mask, finish.y, to, count * m.in, j == 0 ? visit.act(b, INNER) : nullptr, nullptr);
        }
    }
    __syncthreads();
}

template <class Math> __device__ __noinline__ void local_step(Visit& visit) {
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
    if (compares_means(job)) {
        take_means(visit);
    }
    __syncthreads();
    contrasts(visit);
    __syncthreads();
    if (compares_means(job)) {
        give_means(visit);
    }
    if (warp_index() == 0) {
        add_losses(visit);
    }
    const int b = job.blocks - 1;
    normalise_backward(visit, n, visit.tail(LAST), visit.tail(S_LAST), visit.tail(D_HIDDEN), visit.at.outputs, nullptr,
                       visit.act(b, D_OUT));
    __syncthreads();
    if (job.threshold > 0) {
        drop(visit, 3 + 3 * b, visit.act(b, D_OUT), visit.act(b, D_F2), visit.at.outputs * job.dim, nullptr, nullptr);
        __syncthreads();
    }
#pragma unroll 1
    for (int i = b; i >= 0; i--) {
        block_backward<Math>(visit, i);
    }
    optimise<Math>(visit);
}

// What is client `c`'s in `step`; one thread calls this. Everything is read before anything is written, so that reads overlap.
__device__ __noinline__ void enter(Visit& visit, const Packed* step, int c) {
    const int token = step->client_tokens[c], tokens_end = step->client_tokens[c + 1];
    const int output = step->client_outs[c], outputs_end = step->client_outs[c + 1];
    const int example = step->client_examples[c], examples_end = step->client_examples[c + 1];
    const int group = step->client_groups[c], groups_end = step->client_groups[c + 1];
    const int row = step->client_rows[c], rows_end = step->client_rows[c + 1];
    const Reach reach = client_reach(step, c);
    const Job& job = visit.job;
    Client& at = visit.at;
    at.number = c;
    at.token = token;
    at.tokens = tokens_end - token;
    at.output = output;
    at.outputs = outputs_end - output;
    at.example = example;
    at.examples = examples_end - example;
    at.group = group;
    at.groups = groups_end - group;
    at.row = row;
    at.rows = rows_end - row;
    at.items = job.item_threshold > 0 ? visit.slot + job.at_dropped : job.rows + static_cast<long long>(row) * job.dim;
    visit.reach = reach;
}

// The next client of the queue, or number -1; one thread calls this.
__device__ __noinline__ void take_client(Visit& visit) {
    const Job& job = visit.job;
    const int place = atomicAdd(job.next, 1);
    visit.at.number = -1;
    if (place < job.clients) {
        const int c = job.order[place];
        enter(visit, job.steps, c);
        visit.at.placed_tokens = -1;
        job.losses[2 * c] = job.losses[2 * c + 1] = 0.0;
    }
}

// Step `number` of the visit; one thread calls this. Steps mostly share the arrays of the first but for the candidates.
__device__ __noinline__ void begin_step(Visit& visit, int number, float* fast) {
    const Job& job = visit.job;
    Client& at = visit.at;
    at.step = job.steps + number;
    if (number > 0 && at.step->client_tokens != at.step[-1].client_tokens) {
        enter(visit, at.step, at.number);
    }
    plan_update(visit, number);
    if (at.placed_tokens != at.tokens || at.placed_outputs != at.outputs) {
        at.placed_tokens = at.tokens;
        at.placed_outputs = at.outputs;
        place_activations(job, at.tokens, at.outputs, fast, visit.slot + job.at_arena, visit.acts);
    }
}

// Clients from the queue, one after another.
template <class Math> __device__ __forceinline__ void run(const Job& job) {
    LUMOS_SHARED(unsigned char, shared);
    Visit& visit = *reinterpret_cast<Visit*>(shared + job.table_at);
    if (threadIdx.x == 0) {
        visit.job = job;
        visit.slot = job.slots + blockIdx.x * job.slot;
        visit.acts = reinterpret_cast<float**>(shared + job.table_at + VISIT_BYTES);
        visit.scratch = reinterpret_cast<float*>(shared + job.scratch_at);
    }
#pragma unroll 1
    for (;;) {
        if (threadIdx.x == 0) {
            take_client(visit);
        }
        __syncthreads();
        if (visit.at.number < 0) {
            return;
        }
        // What it takes is not read before the barrier behind the first `begin_step`.
        take_weights(visit);
#pragma unroll 1
        for (int i = 0; i < job.step_count; i++) {
            if (threadIdx.x == 0) {
                begin_step(visit, i, reinterpret_cast<float*>(shared + job.fast_at));
            }
            __syncthreads();
            if (visit.at.tokens > 0) {
                local_step<Math>(visit);
            } else if (visit.dense.opt.first != 0 && visit.dense.opt.sgd == 0) {
                clear_moments(visit);
            }
            __syncthreads();
        }
        give_weights(visit);
        __syncthreads();
    }
}

} // namespace resident

// Trains the clients of `job.order`, and writes what `job.dense`, `job.rows` and `job.losses` are to hold; see Job. float32.
//
// Launch: any grid (a block takes clients until there are none, with the slot of its number), 256 or 512 threads, shared memory as
// the host lays it out: weights, Visit, pointers of activations, scratch of warps, activations. `dim` and `inner` are multiples of 4,
// `dim` at most 64. Bit-reproducible: a client's numbers depend on nothing but the client, neither on the grid nor on the threads nor
// on where its activations lie, and are those of the step-by-step kernels. Bytes and operations: above.
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
