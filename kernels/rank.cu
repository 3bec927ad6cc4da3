// Full ranking by counting: the rank of a user's target is the number of items that do not score below it, the user's masked items
// left out and the target itself counted. A target that is masked cannot be recommended and has the rank RANK_MISS. Ties, and NaN on
// either side, count against the model. The [U, I] scores are never stored.
//
// Every score is the sum over k = 0 .. d - 1, in this order, of fused multiply-adds from zero, in all three kernels: two
// scores are equal in one exactly where they are equal in another.
#include "packed.cuh"

constexpr int RANK_MISS = -1;                // eval::MISS, the largest unsigned number
constexpr int RANK_THREADS = 256;
constexpr int RANK_USERS = 128;              // users of a tile
constexpr int RANK_ITEMS = 128;              // items of a tile
constexpr int RANK_K = 32;                   // columns staged at a time
constexpr int RANK_PITCH = RANK_USERS + 4;   // keeps the staged columns aligned to 16 bytes and off one bank

__device__ __forceinline__ float rank_score(const float* user, const float* item, int d) {
    float sum = 0.0f;
    for (int k = 0; k < d; k++) {
        sum = fmaf(user[k], item[k], sum);
    }
    return sum;
}

// threshold[u] = score of the user's target; count[u] = 0. A negative target means none.
//
// h [U, d], table [I, d], threshold [U] f32, target, count [U] i32. Grid: ceil(U / 128) blocks of 128, a thread a user;
// shared memory: none. Bit-reproducible. Bytes: 8 U d; operations: 2 U d.
extern "C" __global__ void __launch_bounds__(128)
    rank_targets(const float* h, const float* table, const int* target, float* threshold, int* count, int users, int d) {
    const int u = blockIdx.x * blockDim.x + threadIdx.x;
    if (u >= users) {
        return;
    }
    const int item = target[u];
    threshold[u] = item < 0 ? 0.0f : rank_score(h + static_cast<long long>(u) * d, table + static_cast<long long>(item) * d, d);
    count[u] = 0;
}
EXPORT_KERNEL(rank_targets)

// Columns k0 .. k0 + 31 of rows first .. first + 127 of `matrix [rows, d]` to `stage [32, RANK_PITCH]`, transposed; zeros
// beyond the matrix.
__device__ __forceinline__ void rank_stage(const float* matrix, int first, int rows, int k0, int d, bool fours, float* stage) {
#pragma unroll
    for (int j = 0; j < RANK_USERS * RANK_K / 4 / RANK_THREADS; j++) {
        const int unit = threadIdx.x + j * RANK_THREADS;
        const int r = unit / (RANK_K / 4), i = unit % (RANK_K / 4) * 4, k = k0 + i;
        float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (first + r < rows) {
            const float* p = matrix + static_cast<long long>(first + r) * d + k;
            if (fours) {
                if (k < d) {
                    x = *reinterpret_cast<const float4*>(p);
                }
            } else {
                x.x = k < d ? p[0] : 0.0f;
                x.y = k + 1 < d ? p[1] : 0.0f;
                x.z = k + 2 < d ? p[2] : 0.0f;
                x.w = k + 3 < d ? p[3] : 0.0f;
            }
        }
        stage[(i + 0) * RANK_PITCH + r] = x.x;
        stage[(i + 1) * RANK_PITCH + r] = x.y;
        stage[(i + 2) * RANK_PITCH + r] = x.z;
        stage[(i + 3) * RANK_PITCH + r] = x.w;
    }
}

// count[u] += number of items whose score is not below threshold[u].
//
// h [U, d], table [I, d], threshold [U] f32, count [U] i32. A block takes 128 users against 128 items at a time, a thread
// 8 x 8 of the scores in registers. Grid: (ceil(U / 128), y): block y takes item tiles y, y + gridDim.y, ...; any y up to
// ceil(I / 128) is right, enough to fill the card is fast. Blocks of 256; shared memory: 8 RANK_K RANK_PITCH = 33,792 bytes.
// Bit-reproducible (integer atomics). Bytes: 4 d (U I / 64) from the cache; operations: 2 U I d.
extern "C" __global__ void __launch_bounds__(RANK_THREADS, 2)
    rank_count(const float* h, const float* table, const float* threshold, int* count, int users, int items, int d) {
    LUMOS_SHARED(float, shared);
    float* user_stage = shared;                       // [32, 128]
    float* item_stage = shared + RANK_K * RANK_PITCH; // [32, 128]
    const unsigned long long bases = reinterpret_cast<unsigned long long>(h) | reinterpret_cast<unsigned long long>(table);
    const bool fours = d % 4 == 0 && (bases & 15) == 0;
    // A warp covers 8 x 4 threads: few distinct addresses for each read of shared memory, and sums over few lanes.
    const int lane = lane_index(), warp = warp_index();
    const int row = (warp >> 1) * 4 + (lane >> 3); // 0..15
    const int col = (warp & 1) * 8 + (lane & 7);   // 0..15
    const int user0 = blockIdx.x * RANK_USERS;
    // Users 4 row .. + 3 and 64 + 4 row .. + 3, items alike: reads of four are then free of bank conflicts.
    int above[8] = {};
    for (int item0 = blockIdx.y * RANK_ITEMS; item0 < items; item0 += gridDim.y * RANK_ITEMS) {
        float sums[8][8] = {};
        for (int k0 = 0; k0 < d; k0 += RANK_K) {
            __syncthreads();
            rank_stage(h, user0, users, k0, d, fours, user_stage);
            rank_stage(table, item0, items, k0, d, fours, item_stage);
            __syncthreads();
            const int columns = min(RANK_K, d - k0);
#pragma unroll 4
            for (int i = 0; i < columns; i++) {
                const float4 x0 = *reinterpret_cast<const float4*>(user_stage + i * RANK_PITCH + 4 * row);
                const float4 x1 = *reinterpret_cast<const float4*>(user_stage + i * RANK_PITCH + 64 + 4 * row);
                const float4 y0 = *reinterpret_cast<const float4*>(item_stage + i * RANK_PITCH + 4 * col);
                const float4 y1 = *reinterpret_cast<const float4*>(item_stage + i * RANK_PITCH + 64 + 4 * col);
                const float xs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
                const float ys[8] = {y0.x, y0.y, y0.z, y0.w, y1.x, y1.y, y1.z, y1.w};
#pragma unroll
                for (int a = 0; a < 8; a++) {
#pragma unroll
                    for (int b = 0; b < 8; b++) {
                        sums[a][b] = fmaf(xs[a], ys[b], sums[a][b]);
                    }
                }
            }
        }
#pragma unroll
        for (int a = 0; a < 8; a++) {
            const float limit = threshold[min(user0 + (a >> 2) * 64 + 4 * row + (a & 3), users - 1)];
#pragma unroll
            for (int b = 0; b < 8; b++) {
                above[a] += item0 + (b >> 2) * 64 + 4 * col + (b & 3) < items && !(sums[a][b] < limit);
            }
        }
    }
#pragma unroll
    for (int a = 0; a < 8; a++) {
        int sum = above[a];
#pragma unroll
        for (int o = 4; o > 0; o >>= 1) {
            sum += __shfl_xor_sync(FULL_WARP, sum, o);
        }
        const int u = user0 + (a >> 2) * 64 + 4 * row + (a & 3);
        if ((lane & 7) == 0 && u < users && sum != 0) {
            atomicAdd(count + u, sum);
        }
    }
}
EXPORT_KERNEL(rank_count)

// Takes the user's masked items out of the count: count[u] -= number of distinct masked items of u whose score is not below
// threshold[u]. What is then in `count` is the rank, from 1; RANK_MISS where the target is masked; 0 for a user without a target.
//
// h [U, d], table [I, d], threshold [U] f32, target [U], bounds [U + 1], masked [bounds[U]] (items, any order, repeats
// allowed), count [U] i32. One warp a user. Grid: ceil(U / 4) blocks of 128; shared memory: none. Bit-reproducible.
// Bytes: 4 d a masked item; operations: 2 d a masked item, and a comparison a pair of them.
extern "C" __global__ void __launch_bounds__(128)
    rank_masked(const float* h, const float* table, const int* target, const float* threshold, const int* bounds, const int* masked,
                int* count, int users, int d) {
    const int u = blockIdx.x * warp_count() + warp_index(), lane = threadIdx.x & 31;
    if (u >= users) {
        return;
    }
    const int own = target[u];
    if (own < 0) {
        if (lane == 0) {
            count[u] = 0;
        }
        return;
    }
    const int first = bounds[u], last = bounds[u + 1];
    int out = 0;
    bool miss = false;
    for (int j = first + lane; j < last; j += 32) {
        const int item = masked[j];
        miss |= item == own;
        bool counts = true;
        for (int i = first; i < j && counts; i++) {
            counts = masked[i] != item;
        }
        if (counts) {
            const float score = rank_score(h + static_cast<long long>(u) * d, table + static_cast<long long>(item) * d, d);
            out += !(score < threshold[u]);
        }
    }
    out = warp_sum(out);
    miss = __any_sync(FULL_WARP, miss);
    if (lane == 0) {
        count[u] = miss ? RANK_MISS : count[u] - out;
    }
}
EXPORT_KERNEL(rank_masked)
