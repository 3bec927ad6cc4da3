// Parameter averaging in 64-bit fixed point, as `federation::fixed`: integers have no order, so the sums have the same bits for
// any cutting into chunks and any order of the atomics. And the server's step from the sums, as `federation::server`.
#include "packed.cuh"

constexpr double FIXED_SCALE = 4294967296.0; // steps in 1.0
constexpr float FIXED_LIMIT = 256.0f;        // largest change of one weight in one visit
constexpr int AHEAD = 4;                     // clients whose weights a thread of average_dense loads before it waits for any

// The change times `factor` in fixed point, rounded to nearest even; `fine` is cleared where it is not finite or too large.
__device__ __forceinline__ long long fixed_change(float before, float after, float factor, bool* fine) {
    const float change = __fmul_rn(__fsub_rn(after, before), factor);
    if (!(fabsf(change) <= FIXED_LIMIT)) {
        *fine = false;
        return 0;
    }
    return __double2ll_rn(static_cast<double>(change) * FIXED_SCALE);
}

__device__ __forceinline__ void add_fixed(long long* sum, long long value) {
    if (value != 0) {
        atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
    }
}

// What a client's change is multiplied by; `factor` is null where no rule looks at updates.
__device__ __forceinline__ float factor_of(const float* factor, int client) {
    return factor == nullptr ? 1.0f : factor[client];
}

// norms[c] = the Euclidean norm of what client c changed: dense weights and the item rows that it uploads, together.
//
// p `[C, stride]`, global `[length]`, rows `[R, d]`, table `[I, d]` f32, item `[R]` i32, uploads `[R]` u8, client_rows `[C + 1]` i32,
// weight `[C]` i64 (0: the client did not train, its norm is 0), norms `[C]` f64. One block of 256 a client, sums in double in a fixed
// order; shared memory: a double a warp. Bit-reproducible. Bytes: 4 C P + 8 R d; operations: 3 C P + 3 R d, two thirds of them in double.
extern "C" __global__ void __launch_bounds__(256)
    update_norms(const float* p, const float* global, long long stride, int length, const float* rows, const float* table, const int* item,
                 const unsigned char* uploads, const int* client_rows, const long long* weight, int clients, int d, double* norms) {
    LUMOS_SHARED(double, scratch);
    const int client = blockIdx.x;
    if (client >= clients) {
        return;
    }
    double sum = 0.0;
    if (weight[client] != 0) {
        for (int i = threadIdx.x; i < length; i += blockDim.x) {
            const double x = static_cast<double>(__fsub_rn(p[client * stride + i], global[i]));
            sum += x * x;
        }
        const long long first = static_cast<long long>(client_rows[client]) * d, last = static_cast<long long>(client_rows[client + 1]) * d;
        for (long long i = first + threadIdx.x; i < last; i += blockDim.x) {
            const long long r = i / d;
            if (uploads[r]) {
                const double x = static_cast<double>(__fsub_rn(rows[i], table[static_cast<long long>(item[r]) * d + i % d]));
                sum += x * x;
            }
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        norms[client] = sqrt(sum);
    }
}
EXPORT_KERNEL(update_norms)

// sums[i] += sum over clients c of weight[c] * factor[c] * (p[c][i] - global[i]). A client whose change is not finite or beyond the limit
// sets failing[c] to 1; the sums are then of no use, and the round is trained again without it.
//
// p `[C, stride]`, global `[length]`, factor `[C]` (or null) f32, weight `[C]` i64 (0: the client did not train), sums `[length]` i64,
// failing `[C]` u32 (zero before). Each thread
// adds its element over a slice of clients in a register, four clients at a time so that their loads overlap, then once atomically. Grid: (ceil(length / 256), slices) blocks of
// 256: block y takes clients y * each to (y + 1) * each; shared memory: none. Bit-reproducible. Bytes: 4 C P + 16 P slices;
// operations: 4 C P, one of them in double.
extern "C" __global__ void __launch_bounds__(256) average_dense(const float* p, const float* global, const long long* weight, const float* factor, int clients,
                                                                int each, long long stride, int length, long long* sums,
                                                                unsigned* failing) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) {
        return;
    }
    const int from = blockIdx.y * each, to = min(clients, from + each);
    const float before = global[i];
    long long sum = 0;
    for (int c0 = from; c0 < to; c0 += AHEAD) {
        // No load waits for another: what a client that did not train holds is loaded too, and not looked at.
        long long w[AHEAD];
        float after[AHEAD], own[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const int c = min(c0 + k, to - 1);
            w[k] = weight[c];
            after[k] = p[c * stride + i];
            own[k] = factor_of(factor, c);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (w[k] != 0 && c0 + k < to) {
                bool fine = true;
                sum += w[k] * fixed_change(before, after[k], own[k], &fine);
                if (!fine) {
                    atomicExch(failing + c0 + k, 1u);
                }
            }
        }
    }
    add_fixed(sums + i, sum);
}
EXPORT_KERNEL(average_dense)

// The item rows of every client that trained: rows that may be uploaded and whose values changed are added to the sums of
// their slot, their client's weight to the slot's weight, one to the client's count of uploaded rows.
//
// rows `[R, d]` after training, table `[I, d]` the global rows, item, slot `[R]` i32 (which row of the table; which of the
// sums), uploads `[R]` u8, client_rows `[C + 1]` i32, weight `[C]` i64, sums `[slots, d]`, slot_weight `[slots]` i64,
// uploaded `[C]` i32, failing `[C]` u32 (zero before). One warp a row. Grid: (C, blocks) blocks of 128: the warps of a client's blocks go round
// its rows; shared memory: none. Bit-reproducible. Bytes: 8 R d read, 16 d atomically for each changed row.
extern "C" __global__ void __launch_bounds__(128)
    average_rows(const float* rows, const float* table, const int* item, const int* slot, const unsigned char* uploads, const int* client_rows,
                 const long long* weight, const float* factor, int clients, int d, long long* sums, long long* slot_weight, int* uploaded,
                 unsigned* failing) {
    const int client = blockIdx.x;
    if (client >= clients || weight[client] == 0) {
        return;
    }
    const int lane = lane_index(), warps = warp_count();
    const long long w = weight[client];
    const float own = factor_of(factor, client);
    for (int r = client_rows[client] + blockIdx.y * warps + warp_index(); r < client_rows[client + 1]; r += gridDim.y * warps) {
        if (!uploads[r]) {
            continue;
        }
        const float* after = rows + static_cast<long long>(r) * d;
        const float* before = table + static_cast<long long>(item[r]) * d;
        bool changed = false;
        for (int k = lane; k < d; k += 32) {
            changed |= !(after[k] == before[k]); // a NaN is a change
        }
        if (!__any_sync(FULL_WARP, changed)) {
            continue;
        }
        long long* to = sums + static_cast<long long>(slot[r]) * d;
        bool fine = true;
        for (int k = lane; k < d; k += 32) {
            add_fixed(to + k, w * fixed_change(before[k], after[k], own, &fine));
        }
        if (!__all_sync(FULL_WARP, fine) && lane == 0) {
            atomicExch(failing + client, 1u);
        }
        if (lane == 0) {
            add_fixed(slot_weight + slot[r], w);
            atomicAdd(uploaded + client, 1);
        }
    }
}
EXPORT_KERNEL(average_rows)

// The server's optimiser: `federation::server`.
struct ServerStep {
    float lr;
    float beta1; // momentum
    float beta2;
    float eps;
    int second;   // 0: gradient descent; 1: FedAdam, 2: FedAdagrad, 3: FedYogi
    int momentum; // 1: gradient descent with momentum
    float first_scale; // bias correction of the moments, 1 without
    float second_scale;
};
EXPORT_STRUCT(ServerStep)

__device__ __forceinline__ void server_one(const ServerStep& o, long long sum, double share, float* first, float* second, float* w) {
    const float change = static_cast<float>((static_cast<double>(sum) / FIXED_SCALE) * share);
    float move;
    if (o.second) {
        const float a = __fadd_rn(__fmul_rn(o.beta1, *first), __fmul_rn(__fsub_rn(1.0f, o.beta1), change));
        const float old = *second, square = __fmul_rn(change, change);
        const float part = __fmul_rn(__fmul_rn(__fsub_rn(1.0f, o.beta2), change), change);
        float b = __fadd_rn(__fmul_rn(o.beta2, old), part);
        if (o.second == 2) {
            b = __fadd_rn(old, square);
        } else if (o.second == 3) {
            b = old > square ? __fsub_rn(old, part) : old < square ? __fadd_rn(old, part) : old;
        }
        *first = a;
        *second = b;
        const float held = __fmul_rn(o.first_scale, a), root = __fsqrt_rn(__fmul_rn(o.second_scale, b));
        move = __fdiv_rn(__fmul_rn(o.lr, held), __fadd_rn(root, o.eps));
    } else if (o.momentum) {
        const float a = __fadd_rn(__fmul_rn(o.beta1, *first), change);
        *first = a;
        move = __fmul_rn(o.lr, a);
    } else {
        move = __fmul_rn(o.lr, change);
    }
    *w = __fadd_rn(*w, move);
}

__device__ __forceinline__ float* server_at(float* moments, long long i) {
    return moments == nullptr ? nullptr : moments + i;
}

// New dense weights from the sums of a round whose clients weigh `weight` together (more than 0).
//
// sums `[length]` i64, w, first, second `[length]` f32 (moments null where the optimiser has none). Grid: ceil(length / 256)
// blocks of 256; shared memory: none. Bit-reproducible. Bytes: 16 P to 32 P.
extern "C" __global__ void __launch_bounds__(256)
    server_dense(ServerStep step, const long long* sums, long long weight, float* w, float* first, float* second, int length) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < length) {
        server_one(step, sums[i], 1.0 / static_cast<double>(weight), server_at(first, i), server_at(second, i), w + i);
    }
}
EXPORT_KERNEL(server_dense)

// New item rows: slot s stands for item[s]. A row is divided by the weight of the clients that uploaded it (weight 0: per
// item) or by `weight`; a slot that no client uploaded is left alone, moments included. Bias corrections of the slot's two moments
// take the place of the step's own where `scales` is not null.
//
// sums `[slots, d]`, slot_weight `[slots]` i64, item `[slots]` i32, table, first, second `[I, d]`, scales `[slots, 2]` f32. Grid:
// ceil(slots * d / 256) blocks of 256; shared memory: none. Bit-reproducible. Bytes: 16 to 32 an element.
extern "C" __global__ void __launch_bounds__(256)
    server_rows(ServerStep step, const long long* sums, const long long* slot_weight, const int* item, long long weight, float* table,
                float* first, float* second, const float* scales, int slots, int d) {
    const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= static_cast<long long>(slots) * d) {
        return;
    }
    const int slot = static_cast<int>(at / d), k = static_cast<int>(at % d);
    const long long own = slot_weight[slot];
    if (own == 0) {
        return;
    }
    if (scales != nullptr) {
        step.first_scale = scales[2 * slot];
        step.second_scale = scales[2 * slot + 1];
    }
    const long long i = static_cast<long long>(item[slot]) * d + k;
    server_one(step, sums[at], 1.0 / static_cast<double>(weight == 0 ? own : weight), server_at(first, i), server_at(second, i), table + i);
}
EXPORT_KERNEL(server_rows)
