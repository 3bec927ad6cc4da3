// Causal self-attention over packed ragged sequences, `H` heads of width `w = d / H`, 1 to 128. Keys and values are tokens
// `[T, d]`; queries are rows of either kind, `rows` of them. Query `r` sees the tokens from the first of its sequence to its own.
//
// A warp owns one query (or one key) and one head. Its lanes hold the columns of that row, so that rows are read in whole
// sectors and need no shared memory. Scores go the other way, a lane a key: 32 keys take one exponential and one maximum.
// Usual sequences have 4 to 9 tokens and at most 50, so that one such tile of 32 keys mostly holds a whole sequence; keys
// and values are read by as many queries as the sequence has tokens, from L1 and L2. Nothing of size length x length is stored:
// the backward pass computes probabilities again from one number a (query, head).
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

// The tokens of queries and the first tokens of their sequences, `[count]` each.
struct Queries {
    int count;
    const int* token; // null where a query is its own token
    const int* start;

    __device__ __forceinline__ Queries(const Packed* step, int kind)
        : count(kind == TOKENS ? step->tokens : step->outputs), token(kind == TOKENS ? nullptr : step->out_token),
          start(kind == TOKENS ? step->start : step->out_start) {}
};

// Row and head of this warp; blocks have 8 warps. Heads of a row lie in neighbouring warps, and so do their columns in memory.
struct Place {
    int row;
    int head;

    __device__ __forceinline__ explicit Place(int heads) {
        const int unit = blockIdx.x * warp_count() + warp_index();
        row = unit / heads;
        head = unit % heads;
    }
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
    const int d = heads.d, w = heads.w, first = queries.start[own.row];
    const int seen = (queries.token ? queries.token[own.row] : own.row) + 1 - first;
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

template <int N>
__device__ void backward_q(const Queries& queries, Place own, const Heads& heads, const float* q, const float* k, const float* v,
                           const float* stats, const float* dy, float* dq, float* scratch) {
    const int d = heads.d, w = heads.w, first = queries.start[own.row];
    const int seen = (queries.token ? queries.token[own.row] : own.row) + 1 - first;
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
    sum.store(dq + heads.at(own.row, own.head), w, heads.scale);
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

template <int N>
__device__ void backward_kv(const Packed* step, const Queries& queries, Place own, const Heads& heads, const float* q, const float* k,
                            const float* v, const float* stats, const float* dy, const float* scratch, float* dk, float* dv) {
    const int d = heads.d, w = heads.w, t = own.row, start = step->start[t], lane = lane_index();
    int first = t, end = queries.count;
    if (queries.token) {
        const int client = step->token_client[t];
        end = step->client_outs[client + 1];
        first = first_output(queries.token, step->client_outs[client], end, t);
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
    sum_k.store(dk + heads.at(t, own.head), w, heads.scale);
    sum_v.store(dv + heads.at(t, own.head), w, 1.0f);
}

} // namespace packed_attention

// `y[r] = softmax(q[r] k^T / sqrt(w)) v` over the tokens that query `r` sees, for each head; `stats [rows, H]` keeps the log of
// the partition sum. float32, `q`, `y` `[rows, d]`, `k`, `v` `[T, d]`.
//
// Launch: grid (ceil(rows H / 8) of the largest step), 256 threads, no shared memory. Bit-reproducible: softmax runs over tiles of
// 32 keys counted from the first token of the sequence. Bytes: 8 rows d + 8 T d + 4 rows H with keys and values from caches;
// operations: 4 d for each pair of a query and a token it sees.
extern "C" __global__ void __launch_bounds__(256) attention_forward(const Packed* step, int kind, int heads, const float* q, const float* k,
                                                                    const float* v, int d, float* y, float* stats) {
    using namespace packed_attention;
    const Queries queries(step, kind);
    const Place own(heads);
    const Heads all(heads, d);
    if (own.row >= queries.count) {
        return;
    }
    if (all.w <= 32) {
        forward<1>(queries, own, all, q, k, v, y, stats);
    } else if (all.w <= 64) {
        forward<2>(queries, own, all, q, k, v, y, stats);
    } else {
        forward<4>(queries, own, all, q, k, v, y, stats);
    }
}
EXPORT_KERNEL(attention_forward)

// Gradient of the queries, written to `dq [rows, d]`: with probabilities p and their gradients dp = v dy,
// `dq = sum p (dp - sum p dp) k / sqrt(w)`. `scratch [rows, H, 2]` gets what attention_backward_kv needs: sum p dp, and one over
// the sum of the probabilities before they are normalised again.
//
// Launch: as attention_forward. Bit-reproducible. Bytes: 12 rows d + 8 T d + 12 rows H; operations: 6 d for each pair of a query
// and a token it sees, 10 d where it sees more than 32.
extern "C" __global__ void __launch_bounds__(256) attention_backward_q(const Packed* step, int kind, int heads, const float* q,
                                                                       const float* k, const float* v, int d, const float* stats,
                                                                       const float* dy, float* dq, float* scratch) {
    using namespace packed_attention;
    const Queries queries(step, kind);
    const Place own(heads);
    const Heads all(heads, d);
    if (own.row >= queries.count) {
        return;
    }
    if (all.w <= 32) {
        backward_q<1>(queries, own, all, q, k, v, stats, dy, dq, scratch);
    } else if (all.w <= 64) {
        backward_q<2>(queries, own, all, q, k, v, stats, dy, dq, scratch);
    } else {
        backward_q<4>(queries, own, all, q, k, v, stats, dy, dq, scratch);
    }
}
EXPORT_KERNEL(attention_backward_q)

// Gradients of keys and values, written to `dk`, `dv` `[T, d]`: `dk = sum p (dp - sum p dp) q / sqrt(w)`, `dv = sum p dy` over the
// queries that see the token, in their order; zeros where none does. After attention_backward_q, whose `scratch` it reads.
// Needs the outputs of a client in ascending order of their tokens.
//
// Launch: grid (ceil(T H / 8) of the largest step), 256 threads, no shared memory. Bit-reproducible: a warp gathers for its token
// instead of queries adding to tokens. Bytes: 16 T d + 8 rows d + 12 rows H, with queries from caches; operations: 8 d for each
// pair of a query and a token it sees.
extern "C" __global__ void __launch_bounds__(256) attention_backward_kv(const Packed* step, int kind, int heads, const float* q,
                                                                        const float* k, const float* v, int d, const float* stats,
                                                                        const float* dy, const float* scratch, float* dk, float* dv) {
    using namespace packed_attention;
    const Queries queries(step, kind);
    const Place own(heads);
    const Heads all(heads, d);
    if (own.row >= step->tokens) {
        return;
    }
    if (all.w <= 32) {
        backward_kv<1>(step, queries, own, all, q, k, v, stats, dy, scratch, dk, dv);
    } else if (all.w <= 64) {
        backward_kv<2>(step, queries, own, all, q, k, v, stats, dy, scratch, dk, dv);
    } else {
        backward_kv<4>(step, queries, own, all, q, k, v, stats, dy, scratch, dk, dv);
    }
}
EXPORT_KERNEL(attention_backward_kv)
