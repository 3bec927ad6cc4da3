// Adding rows to rows of a table, each target row in the order of its entries, without float atomics.
//
// A block owns SCATTER_ROWS rows of one client and reads all of the client's entries, SCATTER_LIST at a time. Those that name
// one of its rows go to a list in shared memory, in order; then each warp adds the entries of its own rows. Every target row
// is thus added to by one warp, entry by entry, whatever the launch looks like: results are bit-reproducible and do not
// depend on which clients share the launch.
//
// The cost of looking is entries x rows / SCATTER_ROWS comparisons a client: nothing for a client of a few dozen tokens,
// and still little for one participant that holds the whole catalogue.
#pragma once

#include "packed.cuh"

constexpr int SCATTER_THREADS = 128;
constexpr int SCATTER_WARPS = SCATTER_THREADS / 32;
constexpr int SCATTER_ROWS = 64; // rows that a block owns
constexpr int SCATTER_EACH = 4;  // entries that a thread reads between two barriers
constexpr int SCATTER_LIST = SCATTER_THREADS * SCATTER_EACH;
constexpr int SCATTER_SHARED = (3 * SCATTER_LIST + SCATTER_WARPS) * 4; // bytes of shared memory

// Adds entries first..last to the rows row_first..row_last of `table [R, d]`. A Source says of an entry: `row(entry)`, the
// row it is added to; `index(entry)`, the row of `values [n, d]` that is added; `factor(entry)`, its factor.
// All threads of a block of SCATTER_THREADS call this together; a barrier comes before other use of its shared memory.
template <class Source>
__device__ void scatter_rows(const Source& source, int first, int last, int row_first, int row_last, const float* values, float* table,
                             int d) {
    constexpr int COLUMNS = 4; // of a lane at a time, 32 apart
    LUMOS_SHARED(int, shared);
    int* list_row = shared;
    int* list_index = list_row + SCATTER_LIST;
    float* list_factor = reinterpret_cast<float*>(list_index + SCATTER_LIST);
    int* found = list_index + 2 * SCATTER_LIST; // [warps]
    const int lane = lane_index(), warp = warp_index();
    for (int base = first; base < last; base += SCATTER_LIST) {
        // A warp reads 128 entries in a row, so that the list keeps their order.
        const int mine = base + warp * 32 * SCATTER_EACH + lane;
        int row[SCATTER_EACH];
        unsigned votes[SCATTER_EACH];
        int sum = 0;
#pragma unroll
        for (int j = 0; j < SCATTER_EACH; j++) {
            const int entry = mine + 32 * j;
            row[j] = entry < last ? source.row(entry) : -1;
            votes[j] = __ballot_sync(FULL_WARP, row[j] >= row_first && row[j] < row_last);
            sum += __popc(votes[j]);
        }
        if (lane == 0) {
            found[warp] = sum;
        }
        __syncthreads();
        int at = 0, total = 0;
        for (int w = 0; w < SCATTER_WARPS; w++) {
            at += w < warp ? found[w] : 0;
            total += found[w];
        }
#pragma unroll
        for (int j = 0; j < SCATTER_EACH; j++) {
            if (votes[j] >> lane & 1u) {
                const int slot = at + __popc(votes[j] & ((1u << lane) - 1));
                list_row[slot] = row[j];
                list_index[slot] = source.index(mine + 32 * j);
                list_factor[slot] = source.factor(mine + 32 * j);
            }
            at += __popc(votes[j]);
        }
        __syncthreads();
        for (int i = 0; i < total; i += 32) {
            const int held = i + lane < total ? list_row[i + lane] : -1;
            unsigned left = __ballot_sync(FULL_WARP, held >= 0 && (held - row_first) % SCATTER_WARPS == warp);
            while (left != 0) {
                // All entries of the first row that is left, then the next row.
                const int target = __shfl_sync(FULL_WARP, held, __ffs(left) - 1);
                const unsigned same = __ballot_sync(FULL_WARP, held == target);
                float* out = table + static_cast<long long>(target) * d;
                for (int k0 = 0; k0 < d; k0 += 32 * COLUMNS) {
                    float sum_of[COLUMNS];
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) {
                        const int k = k0 + 32 * c + lane;
                        sum_of[c] = k < d ? out[k] : 0.0f;
                    }
                    for (unsigned rest = same; rest != 0; rest &= rest - 1) {
                        const int slot = i + __ffs(rest) - 1;
                        const float factor = list_factor[slot];
                        const float* value = values + static_cast<long long>(list_index[slot]) * d;
#pragma unroll
                        for (int c = 0; c < COLUMNS; c++) {
                            const int k = k0 + 32 * c + lane;
                            if (k < d) {
                                sum_of[c] = fmaf(factor, value[k], sum_of[c]);
                            }
                        }
                    }
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) {
                        const int k = k0 + 32 * c + lane;
                        if (k < d) {
                            out[k] = sum_of[c];
                        }
                    }
                }
                left &= ~same;
            }
        }
        // No barrier: the next turn writes the list behind its first one, and `found` is read before the second.
    }
}

// The rows of client `blockIdx.x`, SCATTER_ROWS at a time, in turn over `gridDim.y` blocks.
template <class Source>
__device__ void scatter_client(const Packed* step, const Source& source, int first, int last, const float* values, float* table, int d) {
    const int rows_end = step->client_rows[blockIdx.x + 1];
    for (int row = step->client_rows[blockIdx.x] + blockIdx.y * SCATTER_ROWS; row < rows_end; row += gridDim.y * SCATTER_ROWS) {
        scatter_rows(source, first, last, row, min(row + SCATTER_ROWS, rows_end), values, table, d);
    }
}
