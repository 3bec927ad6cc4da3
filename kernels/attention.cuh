// Attention of one query, or for one key, of one head: see attention.cu, whose kernels launch a warp for each.
#pragma once

#include "packed.cuh"
#include "warp_sums.cuh"

namespace packed_attention {

constexpr int TILE = 32; // keys (or queries) whose scores the lanes of a warp hold

// One head of a row `[d]`, spread over the lanes of a warp: lane `l` has the columns l, l + 32, and so on, zero beyond the
// head's width.
template <int N> struct Columns {
    float at[N];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < N; i++) {
            at[i] = 0.0f;
        }
    }

    __device__ __forceinline__ void load(const float* row, int w) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int k = lane_index() + 32 * i;
            at[i] = k < w ? row[k] : 0.0f;
        }
    }

    __device__ __forceinline__ void store(float* row, int w, float factor) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int k = lane_index() + 32 * i;
            if (k < w) {
                row[k] = at[i] * factor;
            }
        }
    }

    // This lane's part of the inner product with a row.
    __device__ __forceinline__ float part(const float* row, int w) const {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int k = lane_index() + 32 * i;
            sum += k < w ? at[i] * row[k] : 0.0f;
        }
        return sum;
    }

    // Inner products with `count <= TILE` rows `[count, d]`: lane `j` gets that of row `j`, lanes beyond get 0.
    __device__ __forceinline__ float products(const float* rows, int count, int d, int w) const {
        float mine = 0.0f;
        for (int j = 0; j < count; j += 4) {
            float four[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                four[i] = j + i < count ? part(rows + static_cast<long long>(j + i) * d, w) : 0.0f;
            }
            const float sum = warp_sum_four(four[0], four[1], four[2], four[3]);
            mine = lane_index() / 4 == j / 4 ? sum : mine;
        }
        return mine;
    }

    // Adds `factor[j]` times row `j` for `count <= TILE` rows, in order; lane `j` holds `factor[j]`.
    __device__ __forceinline__ void add(float factor, const float* rows, int count, int d, int w) {
#pragma unroll 4
        for (int j = 0; j < count; j++) {
            const float f = __shfl_sync(FULL_WARP, factor, j);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int k = lane_index() + 32 * i;
                at[i] += k < w ? f * rows[static_cast<long long>(j) * d + k] : 0.0f;
            }
        }
    }
};

// `backend::Mask`: what a query sees of its sequence.
enum MaskKind : int {
    MASK_CAUSAL = 0, // the tokens up to its own
    MASK_FULL = 1,   // every token
};

// The tokens of queries and the first tokens of their sequences, `[count]` each. Tokens and rows of keys and values count from
// token `origin` of the step.
struct Queries {
    int count;
    const int* token; // null where a query is its own token
    const int* start;
    int origin;
    // First token of each token's sequence, where a query sees its whole sequence; null under a causal mask.
    const int* whole;
    int tokens;

    __device__ __forceinline__ Queries(const Packed* step, int kind, int mask)
        : count(kind == TOKENS ? step->tokens : step->outputs), token(kind == TOKENS ? nullptr : step->out_token),
          start(kind == TOKENS ? step->start : step->out_start), origin(0), whole(mask == MASK_FULL ? step->start : nullptr),
          tokens(step->tokens) {}

    __device__ __forceinline__ Queries(int rows, const int* tokens, const int* starts, int from)
        : count(rows), token(tokens), start(starts), origin(from), whole(nullptr), tokens(0) {}

    __device__ __forceinline__ int first(int row) const { return start[row] - origin; }
    __device__ __forceinline__ int last(int row) const { return token ? token[row] - origin : row; }

    // Tokens that the query sees, from `first` on, its sequence's first; the whole warp asks together.
    __device__ __forceinline__ int seen(int row, int first) const {
        if (whole == nullptr) {
            return last(row) + 1 - first;
        }
        // Tokens of a sequence are neighbours, so that those of the next come last.
        int length = 0;
        for (int found = 32; found == 32; length += found) {
            const int t = first + length + lane_index();
            found = __popc(__ballot_sync(FULL_WARP, t < tokens && whole[t] == first));
        }
        return length;
    }
};

// Row and head of this warp; blocks have 8 warps. Heads of a row lie in neighbouring warps, and so do their columns in memory.
struct Place {
    int row;
    int head;

    __device__ __forceinline__ Place(int unit, int heads) : row(unit / heads), head(unit % heads) {}
    __device__ __forceinline__ explicit Place(int heads) : Place(blockIdx.x * warp_count() + warp_index(), heads) {}
};

// What the passes share: the rows of one head, and its scale.
struct Heads {
    int count;
    int d;
    int w;
    float scale;

    __device__ __forceinline__ Heads(int heads, int columns)
        : count(heads), d(columns), w(columns / heads), scale(1.0f / sqrtf(static_cast<float>(columns / heads))) {}

    // Where head `h` of row `r` begins in an activation `[., d]`.
    __device__ __forceinline__ long long at(int r, int h) const { return static_cast<long long>(r) * d + h * w; }
};

template <int N>
__device__ void forward(const Queries& queries, Place own, const Heads& heads, const float* q, const float* k, const float* v, float* y,
                        float* stats) {
    const int d = heads.d, w = heads.w, first = queries.first(own.row);
    const int seen = queries.seen(own.row, first);
    Columns<N> query, sum;
    query.load(q + heads.at(own.row, own.head), w);
    sum.clear();
    float top = -INFINITY, total = 0.0f;
    for (int j = 0; j < seen; j += TILE) {
        const int count = min(TILE, seen - j);
        const long long tile = heads.at(first + j, own.head);
        const float product = query.products(k + tile, count, d, w);
        const float score = lane_index() < count ? product * heads.scale : -INFINITY;
        const float peak = fmaxf(top, warp_max(score));
        const float kept = expf(top - peak), p = expf(score - peak);
        total = total * kept + warp_sum(p);
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum.at[i] *= kept;
        }
        sum.add(p, v + tile, count, d, w);
        top = peak;
    }
    sum.store(y + heads.at(own.row, own.head), w, 1.0f / total);
    if (lane_index() == 0) {
        stats[static_cast<long long>(own.row) * heads.count + own.head] = top + logf(total);
    }
}

// `dq` may be null: then it is not wanted.
template <int N>
__device__ void backward_q(const Queries& queries, Place own, const Heads& heads, const float* q, const float* k, const float* v,
                           const float* stats, const float* dy, float* dq, float* scratch) {
    const int d = heads.d, w = heads.w, first = queries.first(own.row);
    const int seen = queries.seen(own.row, first);
    const long long unit = static_cast<long long>(own.row) * heads.count + own.head;
    Columns<N> query, slope, sum;
    query.load(q + heads.at(own.row, own.head), w);
    slope.load(dy + heads.at(own.row, own.head), w);
    const float lse = stats[unit];
    // Probability and its gradient of key `j + lane`, the probabilities not yet normalised again.
    float p = 0.0f, dp = 0.0f;
    const auto weigh = [&](int j, int count) {
        const long long tile = heads.at(first + j, own.head);
        const float product = query.products(k + tile, count, d, w);
        dp = slope.products(v + tile, count, d, w);
        p = lane_index() < count ? expf(product * heads.scale - lse) : 0.0f;
    };
    // Large scores leave few digits to `lse`, so that the probabilities do not quite sum to one: they are normalised again, or
    // that error would enter every gradient.
    float total = 0.0f, mean = 0.0f;
    for (int j = 0; j < seen; j += TILE) {
        weigh(j, min(TILE, seen - j));
        total += p;
        mean += p * dp;
    }
    const float inverse = 1.0f / warp_sum(total);
    mean = warp_sum(mean) * inverse;
    sum.clear();
    for (int j = 0; j < seen; j += TILE) {
        const int count = min(TILE, seen - j);
        // A sequence of one tile still has its numbers in the lanes.
        if (seen > TILE) {
            weigh(j, count);
        }
        sum.add(p * inverse * (dp - mean), k + heads.at(first + j, own.head), count, d, w);
    }
    if (dq != nullptr) {
        sum.store(dq + heads.at(own.row, own.head), w, heads.scale);
    }
    if (lane_index() == 0) {
        scratch[2 * unit] = mean;
        scratch[2 * unit + 1] = inverse;
    }
}

// The first of the outputs `low..high`, ascending by token, whose token is not before `t`; `high` where there is none. The
// warp probes 32 places at a time: a usual client takes one round, thousands of outputs take three.
__device__ __forceinline__ int first_output(const int* out_token, int low, int high, int t) {
    while (low < high) {
        const int stride = ceil_div(high - low, 32), probe = low + lane_index() * stride;
        const int before = __popc(__ballot_sync(FULL_WARP, probe < high && out_token[probe] < t));
        // The answer lies after the last probe that is before `t`, and no later than the next.
        high = before == 0 ? low : min(high, low + before * stride);
        low += before == 0 ? 0 : (before - 1) * stride + 1;
    }
    return low;
}

// `start` is the first token of the token's sequence as `queries.start` has it; the queries that see the token are among
// `first..end`, neighbours from the first one on that is not before it. `dk` may be null: then it is not wanted.
template <int N>
__device__ void backward_kv(const Queries& queries, Place own, int start, int first, int end, const Heads& heads, const float* q,
                            const float* k, const float* v, const float* stats, const float* dy, const float* scratch, float* dk,
                            float* dv) {
    const int d = heads.d, w = heads.w, t = own.row, lane = lane_index();
    if (queries.token) {
        first = first_output(queries.token, first, end, (queries.whole ? start : t) + queries.origin);
    }
    Columns<N> key, value, sum_k, sum_v;
    key.load(k + heads.at(t, own.head), w);
    value.load(v + heads.at(t, own.head), w);
    sum_k.clear();
    sum_v.clear();
    for (int count = TILE; count == TILE; first += TILE) {
        // Queries of the sequence are neighbours, so that those of other sequences come last.
        const bool sees = first + lane < end && queries.start[first + lane] == start;
        count = __popc(__ballot_sync(FULL_WARP, sees));
        if (count == 0) {
            break;
        }
        const long long tile = heads.at(first, own.head);
        const float product = key.products(q + tile, count, d, w), dp = value.products(dy + tile, count, d, w);
        float p = 0.0f, ds = 0.0f;
        if (sees) {
            const long long unit = static_cast<long long>(first + lane) * heads.count + own.head;
            p = expf(product * heads.scale - stats[unit]) * scratch[2 * unit + 1];
            ds = p * (dp - scratch[2 * unit]);
        }
        sum_k.add(ds, q + tile, count, d, w);
        sum_v.add(p, dy + tile, count, d, w);
    }
    if (dk != nullptr) {
        sum_k.store(dk + heads.at(t, own.head), w, heads.scale);
    }
    sum_v.store(dv + heads.at(t, own.head), w, 1.0f);
}

} // namespace packed_attention
