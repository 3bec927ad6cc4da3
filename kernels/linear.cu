// Grouped linear layers: every client multiplies its own rows by its own weights, `w [in, out]` at `dense + c * stride + w`
// and the bias `[out]` at `dense + c * stride + b`. Activations have the rows of `kind`: `x [rows, in]`, `y [rows, out]`.
//
// Three precisions share the code: float32 (the reference), TF32 and bfloat16 products with float32 sums. Everything in
// device memory is float32; rounding happens between shared memory and the tensor cores.
//
// A block of products owns one tile (up to 32 rows of one client) and 64 columns, so a weight is read once a tile and most
// clients have one. All staged blocks are padded with zeros, which add nothing to any sum, so widths are arbitrary; reads
// and writes are 16 bytes wide where width and address are multiples of 16 bytes.
//
// Every sum runs over its rows or columns in ascending order inside one thread or one tensor-core accumulator: all kernels
// here are bit-reproducible on one architecture, and a client's numbers depend on nothing but the client.
#include "linear.cuh"

// `y = x w + b`; `b` below 0 is no bias.
//
// Launch: grid (tiles of the largest step, ceil(out / 64)), 128 threads, 27,648 bytes of shared memory.
// Bit-reproducible. Bytes: 4 (rows in ceil(out / 64) + in out tiles + rows out); operations: 2 rows in out.
extern "C" __global__ void __launch_bounds__(128, 5) linear_forward(const Packed* step, int kind, const float* x, int in, const float* dense,
                                                                 long long stride, int w, int b, float* y, int out) {
    linear::product<linear::Plain, false>(step, kind, x, in, dense + w, b < 0 ? nullptr : dense + b, stride, y, out, false);
}
EXPORT_KERNEL(linear_forward)

// As linear_forward, products in TF32.
extern "C" __global__ void __launch_bounds__(128, 5) linear_forward_tf32(const Packed* step, int kind, const float* x, int in,
                                                                      const float* dense, long long stride, int w, int b, float* y,
                                                                      int out) {
    linear::product<linear::Cores<Tf32>, false>(step, kind, x, in, dense + w, b < 0 ? nullptr : dense + b, stride, y, out, false);
}
EXPORT_KERNEL(linear_forward_tf32)

// As linear_forward, products in bfloat16.
extern "C" __global__ void __launch_bounds__(128, 5) linear_forward_bf16(const Packed* step, int kind, const float* x, int in,
                                                                      const float* dense, long long stride, int w, int b, float* y,
                                                                      int out) {
    linear::product<linear::Cores<Bf16>, false>(step, kind, x, in, dense + w, b < 0 ? nullptr : dense + b, stride, y, out, false);
}
EXPORT_KERNEL(linear_forward_bf16)

// `dx = dy w^T`, added to `dx` where `add` is not 0.
//
// Launch: grid (tiles of the largest step, ceil(in / 64)), 128 threads, 27,648 bytes of shared memory.
// Bit-reproducible. Bytes: 4 (rows out ceil(in / 64) + in out tiles + rows in (1 + add)); operations: 2 rows in out.
extern "C" __global__ void __launch_bounds__(128, 5) linear_input(const Packed* step, int kind, const float* dy, int out, const float* dense,
                                                               long long stride, int w, float* dx, int in, int add) {
    linear::product<linear::Plain, true>(step, kind, dy, out, dense + w, nullptr, stride, dx, in, add != 0);
}
EXPORT_KERNEL(linear_input)

// As linear_input, products in TF32.
extern "C" __global__ void __launch_bounds__(128, 5) linear_input_tf32(const Packed* step, int kind, const float* dy, int out,
                                                                    const float* dense, long long stride, int w, float* dx, int in,
                                                                    int add) {
    linear::product<linear::Cores<Tf32>, true>(step, kind, dy, out, dense + w, nullptr, stride, dx, in, add != 0);
}
EXPORT_KERNEL(linear_input_tf32)

// As linear_input, products in bfloat16.
extern "C" __global__ void __launch_bounds__(128, 5) linear_input_bf16(const Packed* step, int kind, const float* dy, int out,
                                                                    const float* dense, long long stride, int w, float* dx, int in,
                                                                    int add) {
    linear::product<linear::Cores<Bf16>, true>(step, kind, dy, out, dense + w, nullptr, stride, dx, in, add != 0);
}
EXPORT_KERNEL(linear_input_bf16)

// Gradients of weight and bias over each client's rows, written to `grad + c * stride` at `w` and `b` (none where `b` is
// below 0); a client without rows gets zeros.
//
// Launch: grid (C of the largest step, ceil(in / 64) * ceil(out / 64)), 128 threads, 18,432 bytes of shared memory.
// Bit-reproducible. Bytes: 4 (rows in ceil(out / 64) + rows out ceil(in / 64) + C (in + 1) out); operations: 2 rows (in + 1) out.
extern "C" __global__ void __launch_bounds__(128, 5) linear_weight(const Packed* step, int kind, const float* x, int in, const float* dy,
                                                                int out, float* grad, long long stride, int w, int b) {
    linear::weight_gradient<linear::Plain>(step, kind, x, in, dy, out, grad, stride, w, b);
}
EXPORT_KERNEL(linear_weight)

// As linear_weight, products in TF32; the bias in float32.
extern "C" __global__ void __launch_bounds__(128, 5) linear_weight_tf32(const Packed* step, int kind, const float* x, int in, const float* dy,
                                                                     int out, float* grad, long long stride, int w, int b) {
    linear::weight_gradient<linear::Cores<Tf32>>(step, kind, x, in, dy, out, grad, stride, w, b);
}
EXPORT_KERNEL(linear_weight_tf32)

// As linear_weight, products in bfloat16; the bias in float32.
extern "C" __global__ void __launch_bounds__(128, 5) linear_weight_bf16(const Packed* step, int kind, const float* x, int in, const float* dy,
                                                                     int out, float* grad, long long stride, int w, int b) {
    linear::weight_gradient<linear::Cores<Bf16>>(step, kind, x, in, dy, out, grad, stride, w, b);
}
EXPORT_KERNEL(linear_weight_bf16)

// The same gradients, and the optimiser's step on the weights at once: those of the weight are not stored, those of the bias are in `grad`. Not where a
// clip asks for the norm of all gradients first.
//
// p, m, s `[C, stride]` (m and s may be null for gradient descent), global `[stride]`, where the visit began (read where the step pulls back).
// Launch: as linear_weight. Bit-reproducible, with the bits of linear_weight and adam_dense. Bytes: those that linear_weight reads and, for each weight,
// 24 (weight and moments, read and written; 16 at a visit's first step, 8 for gradient descent); operations: those of both.
extern "C" __global__ void __launch_bounds__(128, 4)
    linear_step(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad, const OptimiserStep* opt, float* p,
                float* m, float* s, const float* global, long long stride, int w, int b) {
    linear::weight_step<linear::Plain>(step, kind, x, in, dy, out, grad, opt, p, m, s, global, stride, w, b);
}
EXPORT_KERNEL(linear_step)

// As linear_step, products in TF32; the bias in float32.
extern "C" __global__ void __launch_bounds__(128, 4)
    linear_step_tf32(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad, const OptimiserStep* opt,
                     float* p, float* m, float* s, const float* global, long long stride, int w, int b) {
    linear::weight_step<linear::Cores<Tf32>>(step, kind, x, in, dy, out, grad, opt, p, m, s, global, stride, w, b);
}
EXPORT_KERNEL(linear_step_tf32)

// As linear_step, products in bfloat16; the bias in float32.
extern "C" __global__ void __launch_bounds__(128, 4)
    linear_step_bf16(const Packed* step, int kind, const float* x, int in, const float* dy, int out, float* grad, const OptimiserStep* opt,
                     float* p, float* m, float* s, const float* global, long long stride, int w, int b) {
    linear::weight_step<linear::Cores<Bf16>>(step, kind, x, in, dy, out, grad, opt, p, m, s, global, stride, w, b);
}
EXPORT_KERNEL(linear_step_bf16)
