// What a client resident in one block consists of: the job, where weights and activations lie, products with weights in shared
// memory, and their gradients turned into optimiser steps in registers. The phases are in resident.cu.
//
// Every sum runs in the order of the step-by-step kernels (linear.cu, norm.cu, scatter.cuh, optimiser.cu), so that both ways of
// training give the same bits wherever the compiler contracts the same expressions.
#pragma once

#include "dropout.cuh"
#include "norm.cuh"
#include "optimiser.cuh"

namespace resident {

constexpr int THREADS = 512;     // most threads of a block; 256 where several blocks share a multiprocessor
constexpr int CLIP_THREADS = 256; // threads that sum squares, as in clip_norm
constexpr int COLUMNS = 2;       // of a lane: item rows are at most 64 wide
constexpr int MATRICES = 6;      // of a block: q, k, v, o, f1, f2

// `backend::cuda::resident::Job`, field by field. Pointers are to device memory; `at_*` are floats from the start of a slot, the
// private memory of one block of threads.
struct Job {
    const Packed* steps;           // [step_count]
    const OptimiserStep* optimiser; // [step_count]
    const DropoutClock* clock;     // null without dropout
    const int* order;              // clients [C], those with most tokens first
    int* next;                     // place in `order` of the next client that no block has taken
    const float* global;           // dense weights [P]
    const float* table;            // item rows [I, d]
    const int* items;              // item of each row [R]
    float* dense;                  // out: dense weights after the visit [C, P]
    float* rows;                   // out: item rows after the visit [R, d]
    double* losses;                // out: sums over the visit's steps [C, 2]
    float* slots;                  // [gridDim.x, slot]
    long long slot;
    int clients;
    int step_count;
    int at_first; // dense moments [P] each, then those of item rows [rows of the largest client, d]
    int at_second;
    int at_row_first;
    int at_row_second;
    int at_gradient; // dense [P] and of rows: used where gradients are clipped
    int at_row_gradient;
    int at_dropped;  // item rows under dropout
    int at_coef;     // derivatives by logits
    int at_loss;
    int at_contrast;
    int at_arena;    // activations that do not fit shared memory
    int arena_fast;  // floats of activations in shared memory
    int table_at;    // bytes into shared memory: pointers of activations,
    int scratch_at;  // numbers of warps, [max(3 views warps, 64)] floats,
    int fast_at;     // and activations; the weights come first
    int views;       // most views of a group
    int length;      // P
    int position_rows;
    int block_at;    // where block 0 begins in the slab, and how long a block is
    int block_length;
    int norm_at;     // gain and bias of the last norm in the slab
    int fast_block;  // floats of a block's weights in shared memory
    int dim;
    int inner;
    int heads;
    int blocks;
    int normed;      // the residual carries the norm's output
    float scale;     // of item rows at the input
    int rec;         // NextItemKind
    int contrast;    // ContrastKind, and MEANS where it compares means of hidden states
    float tau;
    float clip;      // 0: none
    unsigned threshold; // of dropout, 0: none
    float keep;
    unsigned item_threshold;
    float item_keep;
};
EXPORT_STRUCT(Job)

constexpr int MEANS = 4;
__device__ __forceinline__ bool compares_means(const Job& job) { return (job.contrast & MEANS) != 0; }

// Rows of a matrix in shared memory lie so far apart that the threads of a product meet no bank twice, along and across.
__device__ __forceinline__ int padded(int width) { return width % 8 == 0 ? width + 4 : width; }

// One weight `[in, out]` and its bias `[out]`, which follows it in both places.
struct Matrix {
    int in;
    int out;
    int ld;   // of the copy in shared memory
    int slab; // where it begins in the slab and in shared memory
    int fast;

    __device__ __forceinline__ int slab_bias() const { return slab + in * out; }
    __device__ __forceinline__ int fast_bias() const { return fast + in * ld; }
};

// Gain `[d]` and bias `[d]` of a norm.
struct Norm {
    int slab;
    int fast;
};

__device__ __forceinline__ Matrix matrix(const Job& job, int block, int k) {
    const int d = job.dim, f = job.inner, square = d * d + d, wide = d * padded(d) + d;
    Matrix m{k == 5 ? f : d, k == 4 ? f : d, padded(k == 4 ? f : d), job.block_at + block * job.block_length, block * job.fast_block};
    // norm 1, q, k, v, o, norm 2, f1, f2
    m.slab += k < 4 ? 2 * d + k * square : 4 * d + 4 * square + (k == 5 ? d * f + f : 0);
    m.fast += k < 4 ? 2 * d + k * wide : 4 * d + 4 * wide + (k == 5 ? d * padded(f) + f : 0);
    return m;
}

// Norm 0 or 1 of a block; the last norm is that of block `blocks`.
__device__ __forceinline__ Norm norm(const Job& job, int block, int k) {
    const int d = job.dim;
    if (block == job.blocks) {
        return Norm{job.norm_at, job.blocks * job.fast_block};
    }
    return Norm{job.block_at + block * job.block_length + k * (2 * d + 4 * (d * d + d)),
                block * job.fast_block + k * (2 * d + 4 * (d * padded(d) + d))};
}

// Activations of a block; `rows` are tokens, in the last block outputs.
enum Act : int {
    X,      // [T, d] its input
    XQ,     // [rows, d] the input on its own rows
    N1,     // [rows, d] normed, and mean and factor of the norm [rows, 2]
    S1,
    Q,      // [rows, d]
    K,      // [T, d]
    V,      // [T, d]
    MIXED,  // [rows, d]
    LSE,    // [rows, H]
    MID,    // [rows, d] after the attention's residual
    N2,     // [rows, d], [rows, 2]
    S2,
    INNER,  // [rows, f]
    D_OUT,  // [rows, d] gradient of its output
    D_F2,   // [rows, d] the same under the output's dropout
    D_F1,   // [rows, f]
    D_N2,   // [rows, d]
    D_MID,  // [rows, d]
    D_O,    // [rows, d] the same under the attention's dropout
    D_MIXED, // [rows, d]
    D_Q,    // [rows, d]
    PAIRS,  // [rows, H, 2] scratch of attention
    D_K,    // [T, d]
    D_V,    // [T, d]
    D_N1,   // [rows, d]
    D_XQ,   // [rows, d]
    ACTS,
};
// Behind the blocks' activations.
enum Tail : int {
    LAST,     // [Q, d] output of the last block, and mean and factor of the last norm [Q, 2]
    S_LAST,
    HIDDEN,   // [Q, d]
    D_HIDDEN, // [Q, d]
    D_TOKENS, // [T, d] gradient of the input
    OUTPUT,   // [T] output of a token, -1 where it is none (int)
    TAILS,
};

// The client's weights, from the start of shared memory. Not a pointer out of memory: the compiler is to see which memory it is.
__device__ __forceinline__ float* weights() {
    LUMOS_SHARED(float, start);
    return start;
}

// `p`, known to the compiler as a pointer to device memory: its loads and stores need not find out which memory it is.
template <class T> __device__ __forceinline__ T* in_device_memory(T* p) {
#ifndef LUMOS_SIMT
    __builtin_assume(__isGlobal(p));
#endif
    return p;
}

// What is a client's in one step, in shared memory, so that threads need no registers for it.
struct Client {
    const Packed* step;
    const float* items; // item rows [rows, d] as the step reads them
    int number;         // in the chunk
    int token, tokens;  // first and count of its tokens, outputs, examples, groups and item rows
    int output, outputs;
    int example, examples;
    int group, groups;
    int row, rows;
    int placed_tokens, placed_outputs; // that activations have their places for
};

// One step of the optimiser for all weights of the client.
struct Update {
    OptimiserStep opt;
    float scale;  // of the gradient
    bool store;   // gradients are stored, for their norm is wanted first
    bool reads;   // moments are read
    bool keeps;   // moments are written
    float* first; // moments and gradients [P], of which one pointer is kept
    int second;   // floats behind `first`
    int gradient;

    // N neighbouring weights at `p`, `at` in the slab, with moments read ahead of their gradients.
    template <int N> __device__ __forceinline__ void load(int at, float* m, float* s) const {
        if (store || !reads) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                m[i] = s[i] = 0.0f;
            }
            return;
        }
        get<N>(in_device_memory(first) + at, m);
        get<N>(in_device_memory(first) + second + at, s);
    }

    template <int N> __device__ __forceinline__ void apply(float* p, int at, float* m, float* s, const float* g) const {
        if (store) {
            put<N>(in_device_memory(first) + gradient + at, g);
            return;
        }
        float w[N];
        get<N>(p, w);
        if (opt.sgd) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                w[i] = adam_value(opt, scale, true, w[i], m[i], s[i], g[i]);
            }
        } else {
            adam_values<N>(opt, scale, w, m, s, g);
        }
        put<N>(p, w);
        if (keeps) {
            put<N>(in_device_memory(first) + at, m);
            put<N>(in_device_memory(first) + second + at, s);
        }
    }

    template <int N> static __device__ __forceinline__ void get(const float* from, float* v) {
        if constexpr (N == 4) {
            const float4 a = *reinterpret_cast<const float4*>(from);
            v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        } else if constexpr (N == 2) {
            const float2 a = *reinterpret_cast<const float2*>(from);
            v[0] = a.x, v[1] = a.y;
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                v[i] = from[i];
            }
        }
    }

    template <int N> static __device__ __forceinline__ void put(float* to, const float* v) {
        if constexpr (N == 4) {
            *reinterpret_cast<float4*>(to) = float4{v[0], v[1], v[2], v[3]};
        } else if constexpr (N == 2) {
            *reinterpret_cast<float2*>(to) = float2{v[0], v[1]};
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                to[i] = v[i];
            }
        }
    }

    // One weight whose gradient is at hand.
    __device__ __forceinline__ void one(float* p, int at, float g) const {
        float m, s;
        load<1>(at, &m, &s);
        apply<1>(p, at, &m, &s, &g);
    }
};

// One client in one step, as the phases take it: in shared memory, so that they are functions of their own, with registers of
// their own, and need no stack.
struct Visit {
    Job job;
    Client at;
    Update dense;   // how dense weights and item rows are updated
    Update items;
    Reach reach;
    float* slot;    // in device memory
    float** acts;   // [blocks * ACTS + TAILS]
    float* scratch; // of warps, in shared memory

    __device__ __forceinline__ float* act(int block, int which) const { return acts[block * ACTS + which]; }
    __device__ __forceinline__ float* tail(int which) const { return acts[job.blocks * ACTS + which]; }
    // What the contrast compares: an array of the last block where that is means, else one of the hidden states.
    __device__ __forceinline__ float* means_or(int mean, int state) const { return compares_means(job) ? act(job.blocks - 1, mean) : tail(state); }
    // The client's slab and item rows in device memory.
    __device__ __forceinline__ float* slab() const { return job.dense + static_cast<long long>(at.number) * job.length; }
    __device__ __forceinline__ float* rows() const { return job.rows + static_cast<long long>(at.row) * job.dim; }
};

constexpr int VISIT_BYTES = 512; // kept for it, before the pointers of activations
static_assert(sizeof(Visit) <= VISIT_BYTES, "a visit has the room that the host keeps for it");

} // namespace resident
