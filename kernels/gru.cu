// The recurrence of a gated recurrent unit over packed ragged sequences (Cho et al., EMNLP 2014), with each client's own
// recurrent weight `wh [d, 3d]` and bias `bh [3d]`, gates in the order reset, update, new:
// `r = sig(x_r + h_r)`, `z = sig(x_z + h_z)`, `n = tanh(x_n + r h_n)`, `h' = (1 - z) n + z h`, where `x = xw [T, 3d]` holds the
// input product and `h_* = h wh + bh`.
//
// A block owns one sequence and takes its steps in order, the state in shared memory. The weight, 48 KiB at 64 wide, is read anew
// each step from L1 or L2, where it stays: sequences of one client run in neighbouring blocks. Products of few rows are bound by
// those reads, so that tensor cores would not help; tens of thousands of sequences run at once and hide what one waits for.
#include "packed.cuh"
#include "warp_sums.cuh"

namespace recurrence {

constexpr int THREADS = 128;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// How a block divides the product `h wh`: a thread takes the three gates of unit `k` (of units k, k + units, ... where there
// are more than threads) over one of `parts` spans of the state.
struct Division {
    int units;
    int parts;

    __device__ __forceinline__ explicit Division(int d) {
        units = min(THREADS, ceil_div(d, 32) * 32);
        parts = THREADS / units;
    }
};

// The client's parameter at `at`, for the sequence that begins with token `t`.
__device__ __forceinline__ const float* parameter(const Packed* step, const float* dense, long long stride, int t, int at) {
    return dense + step->token_client[t] * stride + at;
}

} // namespace recurrence

// Writes `h [T, d]`, `gates [T, 4d]` (r, z, n, h_n) and `previous [T, d]`, the state before each token; the first is zero.
// float32.
//
// Launch: grid (S of the largest step), 128 threads, `8 d + 12 max(d, 128)` bytes of shared memory: the state, the input of the
// gate `n`, and sums of three gates for each part of the product (parts x d <= max(d, 128)). Bit-reproducible: parts are added in
// their order, which depends on d alone. Bytes: 36 T d, and 12 d^2 + 12 d a client from memory, 12 d^2 a token from L1 or L2;
// operations: 6 T d^2 + about 50 T d.
extern "C" __global__ void __launch_bounds__(128) gru_forward(const Packed* step, const float* xw, const float* dense, long long stride,
                                                              int w, int b, float* h, float* gates, float* previous, int d) {
    if (static_cast<int>(blockIdx.x) >= step->sequences) {
        return;
    }
    const int first = step->bounds[blockIdx.x], end = step->bounds[blockIdx.x + 1];
    if (first >= end) {
        return;
    }
    LUMOS_SHARED(float, state); // [d]
    float* const input = state + d; // [d]
    float* const sums = input + d; // [parts, 3, d]
    const float* const weight = recurrence::parameter(step, dense, stride, first, w);
    const float* const bias = recurrence::parameter(step, dense, stride, first, b);
    const recurrence::Division by(d);
    const int part = threadIdx.x / by.units, span = ceil_div(d, by.parts);
    const int low = part * span, high = min(d, low + span);
    for (int k = threadIdx.x; k < d; k += recurrence::THREADS) {
        state[k] = 0.0f;
    }
    __syncthreads();
    for (int t = first; t < end; t++) {
        if (part < by.parts) {
            for (int k = threadIdx.x % by.units; k < d; k += by.units) {
                float r = 0.0f, z = 0.0f, n = 0.0f, x = 0.0f;
                // The input is read along with the weights, not after them, so that the step waits once.
                if (part == 0) {
                    const float* row = xw + static_cast<long long>(t) * 3 * d + k;
                    r = bias[k] + row[0];
                    z = bias[d + k] + row[d];
                    n = bias[2 * d + k];
                    x = row[2 * d];
                }
                const float* at = weight + static_cast<long long>(low) * 3 * d + k;
#pragma unroll 4
                for (int i = low; i < high; i++, at += 3 * d) {
                    const float s = state[i];
                    r += s * at[0];
                    z += s * at[d];
                    n += s * at[2 * d];
                }
                float* own = sums + part * 3 * d + k;
                own[0] = r;
                own[d] = z;
                own[2 * d] = n;
                if (part == 0) {
                    input[k] = x;
                }
            }
        }
        __syncthreads();
        for (int k = threadIdx.x; k < d; k += recurrence::THREADS) {
            float r = sums[k], z = sums[d + k], hn = sums[2 * d + k];
            for (int p = 1; p < by.parts; p++) {
                r += sums[3 * p * d + k];
                z += sums[3 * p * d + d + k];
                hn += sums[3 * p * d + 2 * d + k];
            }
            r = recurrence::sigmoid(r);
            z = recurrence::sigmoid(z);
            const float n = tanhf(input[k] + r * hn), before = state[k], after = (1.0f - z) * n + z * before;
            const long long at = static_cast<long long>(t) * d + k;
            float* kept = gates + static_cast<long long>(t) * 4 * d + k;
            kept[0] = r;
            kept[d] = z;
            kept[2 * d] = n;
            kept[3 * d] = hn;
            previous[at] = before;
            h[at] = after;
            state[k] = after;
        }
        __syncthreads();
    }
}
EXPORT_KERNEL(gru_forward)

// From the gradient `dh [T, d]` of the states, which stays as it is, to the gradients of the two products: `dxw [T, 3d]` and
// `dhw [T, 3d]`. The gradients of weight and bias are sums over `previous` and `dhw`, taken by the kernels of linear layers.
// float32.
//
// A warp takes four rows of the weight at a time, its lanes the columns, so that the weight is read as it lies, `wh [d, 3d]`, and
// needs no transposed copy.
//
// Launch: grid (S of the largest step), 128 threads, `16 d` bytes of shared memory: the gradient that a step passes to the one
// before it, and dhw of the step. Bit-reproducible. Bytes: 48 T d, and 12 d^2 a client from memory, 12 d^2 a token from L1 or L2;
// operations: 6 T d^2 + about 20 T d.
extern "C" __global__ void __launch_bounds__(128) gru_backward(const Packed* step, const float* dense, long long stride, int w,
                                                               const float* gates, const float* previous, float* dh, float* dxw,
                                                               float* dhw, int d) {
    if (static_cast<int>(blockIdx.x) >= step->sequences) {
        return;
    }
    const int first = step->bounds[blockIdx.x], end = step->bounds[blockIdx.x + 1];
    if (first >= end) {
        return;
    }
    LUMOS_SHARED(float, passed); // [d]
    float* const product = passed + d; // [3d]
    const float* const weight = recurrence::parameter(step, dense, stride, first, w);
    const int lane = lane_index(), warps = recurrence::THREADS / 32;
    for (int k = threadIdx.x; k < d; k += recurrence::THREADS) {
        passed[k] = 0.0f;
    }
    // Threads read first what they wrote themselves: no barrier is needed here.
    for (int t = end - 1; t >= first; t--) {
        for (int k = threadIdx.x; k < d; k += recurrence::THREADS) {
            const long long at = static_cast<long long>(t) * d + k, wide = static_cast<long long>(t) * 3 * d + k;
            const float* kept = gates + static_cast<long long>(t) * 4 * d + k;
            const float r = kept[0], z = kept[d], n = kept[2 * d], hn = kept[3 * d];
            const float up = dh[at] + passed[k];
            const float dz = up * (previous[at] - n) * z * (1.0f - z);
            const float dn = up * (1.0f - z) * (1.0f - n * n);
            const float dr = dn * hn * r * (1.0f - r);
            dxw[wide] = dhw[wide] = product[k] = dr;
            dxw[wide + d] = dhw[wide + d] = product[d + k] = dz;
            dxw[wide + 2 * d] = dn;
            dhw[wide + 2 * d] = product[2 * d + k] = dn * r;
            passed[k] = up * z;
        }
        if (t == first) {
            return;
        }
        __syncthreads();
        for (int j = 4 * warp_index(); j < d; j += 4 * warps) {
            const int rows = min(4, d - j);
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
            for (int k = lane; k < 3 * d; k += 32) {
                const float slope = product[k];
                const float* at = weight + static_cast<long long>(j) * 3 * d + k;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    sum[i] += i < rows ? slope * at[3 * i * d] : 0.0f;
                }
            }
            const float total = warp_sum_four(sum[0], sum[1], sum[2], sum[3]);
            if (lane < rows) {
                passed[j + lane] += total;
            }
        }
        __syncthreads();
    }
}
EXPORT_KERNEL(gru_backward)
