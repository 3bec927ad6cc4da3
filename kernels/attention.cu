// Self-attention over packed ragged sequences, `H` heads of width `w = d / H`, 1 to 128. Keys and values are tokens
// `[T, d]`; queries are rows of either kind, `rows` of them. Query `r` sees the tokens from the first of its sequence to its own, or
// all of its sequence (`mask`, a MaskKind).
//
// A warp owns one query (or one key) and one head. Its lanes hold the columns of that row, so that rows are read in whole
// sectors and need no shared memory. Scores go the other way, a lane a key: 32 keys take one exponential and one maximum.
// Usual sequences have 4 to 9 tokens and at most 50, so that one such tile of 32 keys mostly holds a whole sequence; keys
// and values are read by as many queries as the sequence has tokens, from L1 and L2. Nothing of size length x length is stored:
// the backward pass computes probabilities again from one number a (query, head).
#include "attention.cuh"

// `y[r] = softmax(q[r] k^T / sqrt(w)) v` over the tokens that query `r` sees, for each head; `stats [rows, H]` keeps the log of
// the partition sum. float32, `q`, `y` `[rows, d]`, `k`, `v` `[T, d]`.
//
// Launch: grid (ceil(rows H / 8) of the largest step), 256 threads, no shared memory. Bit-reproducible: softmax runs over tiles of
// 32 keys counted from the first token of the sequence. Bytes: 8 rows d + 8 T d + 4 rows H with keys and values from caches;
// operations: 4 d for each pair of a query and a token it sees.
extern "C" __global__ void __launch_bounds__(256) attention_forward(const Packed* step, int kind, int mask, int heads, const float* q, const float* k,
                                                                    const float* v, int d, float* y, float* stats) {
    using namespace packed_attention;
    const Queries queries(step, kind, mask);
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
extern "C" __global__ void __launch_bounds__(256, 4) attention_backward_q(const Packed* step, int kind, int mask, int heads, const float* q,
                                                                       const float* k, const float* v, int d, const float* stats,
                                                                       const float* dy, float* dq, float* scratch) {
    using namespace packed_attention;
    const Queries queries(step, kind, mask);
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
extern "C" __global__ void __launch_bounds__(256, 4) attention_backward_kv(const Packed* step, int kind, int mask, int heads, const float* q,
                                                                        const float* k, const float* v, int d, const float* stats,
                                                                        const float* dy, const float* scratch, float* dk, float* dv) {
    using namespace packed_attention;
    const Queries queries(step, kind, mask);
    const Place own(heads);
    const Heads all(heads, d);
    if (own.row >= step->tokens) {
        return;
    }
    const int start = step->start[own.row];
    int first = mask == MASK_FULL ? start : own.row, end = queries.count;
    if (queries.token) {
        const int client = step->token_client[own.row];
        first = step->client_outs[client];
        end = step->client_outs[client + 1];
    }
    if (all.w <= 32) {
        backward_kv<1>(queries, own, start, first, end, all, q, k, v, stats, dy, scratch, dk, dv);
    } else if (all.w <= 64) {
        backward_kv<2>(queries, own, start, first, end, all, q, k, v, stats, dy, scratch, dk, dv);
    } else {
        backward_kv<4>(queries, own, start, first, end, all, q, k, v, stats, dy, scratch, dk, dv);
    }
}
EXPORT_KERNEL(attention_backward_kv)
