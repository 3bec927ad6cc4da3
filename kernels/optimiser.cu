// The local optimiser over the slab `[C, P]` and the clients' item rows `[R, d]`: clip by norm, then Adam, AdamW or gradient
// descent, with the operation order of `backend::cpu::optim`, so that both agree to the last bits.
#include "optimiser.cuh"

// One step on the dense weights of every client with tokens in this step. Position rows that none of the client's sequences
// reaches are left alone; because they are met or not from step to step, their moments are set to zero at the first step and
// always read. A client without tokens is left alone, its moments set to zero at the first step.
//
// p, m, s, g `[C, stride]` f32 (m and s may be null for gradient descent), `length` weights of each are used, global `[length]` f32, where the
// visit began (read where the step pulls back); the position
// table of `position_rows` rows of d starts at `position_at` (-1: none). scale `[C]` f32 or null: factor on the gradient. places `[count]` i32: the
// weights that are stepped on, or null for the first `count`; the others were stepped on by linear_step.
// Grid: (C, blocks) blocks of 256: block y takes elements y, y + gridDim.y, ... of the client, in steps of 256; shared
// memory: none. Bit-reproducible. Bytes: 28 C count (16 C count at a visit's first step); operations: about 14 C count.
extern "C" __global__ void __launch_bounds__(256)
    adam_dense(const Packed* step, const OptimiserStep* opt, const float* scale, float* p, float* m, float* s, const float* g, const float* global,
               const int* places, int count, long long stride, int length, int position_at, int position_rows, int d) {
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const OptimiserStep o = *opt;
    const bool trains = client_trains(step, client), keeps = o.sgd != 0;
    if (!trains && (keeps || !o.first)) {
        return;
    }
    const float factor = scale == nullptr ? 1.0f : scale[client];
    const long long base = client * stride;
    const int table = position_at < 0 ? length : position_at, table_end = position_at < 0 ? length : position_at + position_rows * d;
    const Reach reach = client_reach(step, client);
    const int reached = table + reach.low * d, reached_end = table + reach.high * d;
    for (int j = blockIdx.y * blockDim.x + threadIdx.x; j < count; j += gridDim.y * blockDim.x) {
        const int i = places == nullptr ? j : places[j];
        const bool position = i >= table && i < table_end;
        float* mi = keeps ? nullptr : m + base + i;
        float* si = keeps ? nullptr : s + base + i;
        if (!trains || (position && !(i >= reached && i < reached_end))) {
            if (o.first && !keeps) {
                *mi = 0.0f;
                *si = 0.0f;
            }
            continue;
        }
        adam_one(o, factor, o.first != 0, p + base + i, mi, si, g[base + i]);
        pull_back(o, p + base + i, global + i);
    }
}
EXPORT_KERNEL(adam_dense)

// One step on the item rows of every client with tokens in this step; others as in adam_dense.
//
// p, m, s, g `[R, d]` f32, table `[I, d]` f32: where the visit began. Grid: (C, blocks) blocks of 256; shared memory: none.
// Bit-reproducible. Bytes: 28 R d;
// operations: about 14 R d.
extern "C" __global__ void __launch_bounds__(256)
    adam_rows(const Packed* step, const OptimiserStep* opt, const float* scale, float* p, float* m, float* s, const float* g, const float* table,
              int d) {
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    const OptimiserStep o = *opt;
    const bool trains = client_trains(step, client), keeps = o.sgd != 0;
    if (!trains && (keeps || !o.first)) {
        return;
    }
    const float factor = scale == nullptr ? 1.0f : scale[client];
    const long long first = static_cast<long long>(step->client_rows[client]) * d, last = static_cast<long long>(step->client_rows[client + 1]) * d;
    for (long long i = first + blockIdx.y * blockDim.x + threadIdx.x; i < last; i += gridDim.y * blockDim.x) {
        if (!trains) {
            m[i] = 0.0f;
            s[i] = 0.0f;
            continue;
        }
        adam_one(o, factor, o.first != 0, p + i, keeps ? nullptr : m + i, keeps ? nullptr : s + i, g[i]);
        if (o.pull > 0.0f) {
            pull_back(o, p + i, table + static_cast<long long>(step->row_item[i / d]) * d + i % d);
        }
    }
}
EXPORT_KERNEL(adam_rows)

// scale[c] = min(1, clip / norm of client c's gradient): dense weights (of the position table only the rows that the client
// reaches) and item rows. The norm is a sum of squares in double: thread t adds elements t, t + 256, ... of the dense slab,
// then of the rows, then threads in a fixed order.
//
// g `[C, stride]`, row_grad `[R, d]`, scale `[C]` f32. Grid: C blocks of 256; shared memory: 256 bytes (32 doubles).
// Bit-reproducible. Bytes: 4 (C P + R d); operations: 2 (C P + R d) in double.
extern "C" __global__ void __launch_bounds__(256)
    clip_norm(const Packed* step, const float* g, const float* row_grad, long long stride, int length, int position_at, int position_rows,
              int d, float clip, float* scale) {
    LUMOS_SHARED(double, scratch);
    const int client = blockIdx.x;
    if (client >= step->clients) {
        return;
    }
    double sum = 0.0;
    const int table = position_at < 0 ? length : position_at, table_end = position_at < 0 ? length : position_at + position_rows * d;
    const Reach reach = client_reach(step, client);
    const int reached = table + reach.low * d, reached_end = table + reach.high * d;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        const bool outside = i >= table && i < table_end && !(i >= reached && i < reached_end);
        const double x = outside ? 0.0 : static_cast<double>(g[client * stride + i]);
        sum += x * x;
    }
    const long long first = static_cast<long long>(step->client_rows[client]) * d, last = static_cast<long long>(step->client_rows[client + 1]) * d;
    for (long long i = first + threadIdx.x; i < last; i += blockDim.x) {
        const double x = static_cast<double>(row_grad[i]);
        sum += x * x;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        const double norm = sqrt(sum);
        scale[client] = norm > static_cast<double>(clip) ? static_cast<float>(static_cast<double>(clip) / norm) : 1.0f;
    }
}
EXPORT_KERNEL(clip_norm)

// Every client starts from the global dense weights: slab[c] = global.
//
// global `[length]`, slab `[C, stride]` f32. Grid: (clients, blocks) blocks of 256; shared memory: none. Bit-reproducible.
// Bytes: 4 C P written, 4 P read; no operations.
extern "C" __global__ void __launch_bounds__(256) broadcast(const float* global, float* slab, int clients, long long stride, int length) {
    const int client = blockIdx.x;
    if (client >= clients) {
        return;
    }
    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < length; i += gridDim.y * blockDim.x) {
        slab[client * stride + i] = global[i];
    }
}
EXPORT_KERNEL(broadcast)
