// CUDA C++ on the CPU, for tests: one fiber a thread, one block at a time on an OS thread, blocks spread over OS threads.
//
// What it shows: logic, indices, masks, deadlocks, reads of shared memory nobody wrote (it starts as NaNs). A missing barrier shows
// under another order of the threads or under ThreadSanitizer: scripts/race-check. What it cannot show: bank conflicts, speed.
// Force-included before every .cu file.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define LUMOS_SIMT 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simt {

// Where the running thread is. One copy an OS thread, kept by the scheduler. `__thread`: unlike `thread_local` it is read without a call,
// as it needs no constructor.
struct Place {
    uint3 thread, block;
    dim3 dim, grid;
    unsigned lane;
    unsigned char* shared;
};
extern __thread Place here;
// Optimisers may keep the address of a thread-local over a call; a fiber stays on its OS thread, so that is right here.

// Waits for the block; returns how many threads brought a true predicate to this barrier.
int barrier(int predicate);
// Every lane of `mask` brings `size` bytes, 64 at most: first the slot of the calling lane, to be filled, then all 32 slots side by side.
unsigned char* slot(unsigned mask, size_t size);
const unsigned char* exchange();
// Lanes of the warp that have not returned.
unsigned live_lanes();
[[noreturn]] void fail(const char* what);

#if defined(SIMT_TSAN)
// Where the sanitizer does not look: lanes that exchange registers share no memory.
void copy_lane(void* to, const void* from, size_t size);
#else
inline void copy_lane(void* to, const void* from, size_t size) { std::memcpy(to, from, size); }
#endif
// Waits for the lanes of `mask`, and orders what they did to memory; an exchange alone does not.
void sync_lanes(unsigned mask);

template <class T> struct Lanes {
    const unsigned char* slots;
    T get(unsigned lane) const {
        T value;
        copy_lane(&value, slots + sizeof(T) * (lane & 31), sizeof(T));
        return value;
    }
};
template <class T> Lanes<T> share(unsigned mask, const T& value) {
    static_assert(sizeof(T) <= 64 && std::is_trivially_copyable<T>::value, "a lane brings at most 64 plain bytes");
    copy_lane(slot(mask, sizeof(T)), &value, sizeof(T));
    return {exchange()};
}

// The line of the barrier that LUMOS_SIMT_WITHOUT=FILE:LINE takes out, 0 for none: a check of checks.
extern int line_left_out;
bool file_left_out(const char* file);
inline bool left_out(const char* file, int line) { return __builtin_expect(line == line_left_out, 0) && file_left_out(file); }

// Copies of the running thread that it has not waited for. They are carried out as late as it allows, or at once: a GPU may do either.
extern const bool copies_at_once;
struct Copy {
    void* to;         // null where it is done
    const void* from; // zeros where null
    unsigned group;

    void carry_out() const {
        for (int i = 0; to && i < 4; i++) static_cast<unsigned*>(to)[i] = from ? static_cast<const unsigned*>(from)[i] : 0u;
    }
};
struct Copies {
    std::vector<Copy> waiting;
    unsigned group = 0;
    bool unshown = false; // something was copied that products of warpgroups may not read yet
};
Copies& copies();

// Products of warpgroups whose sums `c` the running thread has not waited for; `a` and `b` describe where their factors lie.
struct Product {
    void (*carry_out)(float* c, unsigned long long a, unsigned long long b);
    float* c;
    unsigned long long a, b;
    unsigned group;
};
struct Products {
    std::vector<Product> waiting;
    unsigned group = 0;
};
Products& products();

struct Launch {
    dim3 grid, block;
    size_t shared;
    void** args;
    unsigned threads;
    const char* name;
    char* error; // 512 bytes
    uint64_t number = 0; // of the launches of the process
};
int run(const Launch& launch, void (*body)(void**));

template <class... A, size_t... I> void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<A>>*>(args[I])...);
}
template <class... A> constexpr size_t count_of(void (*)(A...)) { return sizeof...(A); }
template <class... A> size_t size_of(void (*)(A...), size_t index) {
    const size_t sizes[] = {sizeof(A)..., 0};
    return index < sizeof...(A) ? sizes[index] : 0;
}
// `p` a pointer, `i` int, `u` unsigned, `f` float, `l` long long, `s` a struct by value, `?` anything else.
template <class T> constexpr char kind_of() {
    if (std::is_pointer_v<T>) return 'p';
    if (std::is_same_v<T, int>) return 'i';
    if (std::is_same_v<T, unsigned>) return 'u';
    if (std::is_same_v<T, float>) return 'f';
    if (std::is_same_v<T, long long>) return 'l';
    return std::is_class_v<T> ? 's' : '?';
}
template <class... A> char kind_at(void (*)(A...), size_t index) {
    const char kinds[] = {kind_of<std::remove_cv_t<A>>()..., 0};
    return index < sizeof...(A) ? kinds[index] : 0;
}
template <auto Kernel> struct Entry;
template <class... A, void (*Kernel)(A...)> struct Entry<Kernel> {
    static void body(void** args) { call(Kernel, args, std::index_sequence_for<A...>{}); }
};

} // namespace simt

#define threadIdx (simt::here.thread)
#define blockIdx (simt::here.block)
#define blockDim (simt::here.dim)
#define gridDim (simt::here.grid)
constexpr int warpSize = 32;

// Rust finds `lumos_simt_NAME` (run) and `lumos_simt_sizes_NAME` (sizes and kinds of the parameters).
#define EXPORT_KERNEL(k)                                                                                                          \
    extern "C" int lumos_simt_##k(const unsigned* g, const unsigned* b, size_t shared, void** args, unsigned threads, char* error) { \
        return simt::run({{g[0], g[1], g[2]}, {b[0], b[1], b[2]}, shared, args, threads, #k, error}, simt::Entry<&k>::body);        \
    }                                                                                                                             \
    extern "C" size_t lumos_simt_sizes_##k(size_t index, size_t* size, char* kind) {                                              \
        *size = simt::size_of(&k, index);                                                                                         \
        *kind = simt::kind_at(&k, index);                                                                                         \
        return simt::count_of(&k);                                                                                                \
    }
// `LUMOS_LAYOUT_NAME` comes from the build script, which reads the names of the fields; the compiler says where they lie.
#if defined(LUMOS_SIMT_KERNELS_ALONE)
#define EXPORT_STRUCT(name)
#else
#define EXPORT_STRUCT(name) LUMOS_LAYOUT_##name
#endif
#define LUMOS_SHARED(T, name) T* const name = reinterpret_cast<T*>(simt::here.shared)

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!simt::left_out(file, line)) simt::barrier(0);
}
inline int __syncthreads_count(int p) { return simt::barrier(p != 0); }
inline int __syncthreads_or(int p) { return simt::barrier(p != 0) != 0; }
inline int __syncthreads_and(int p) { return simt::barrier(p == 0) == 0; }
inline void __syncwarp(unsigned mask = ~0u, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!simt::left_out(file, line)) simt::sync_lanes(mask);
}

template <class T> T __shfl_sync(unsigned mask, T v, int src, int width = 32) {
    unsigned lane = simt::here.lane;
    return simt::share(mask, v).get((lane & ~unsigned(width - 1)) | (unsigned(src) & unsigned(width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
    unsigned lane = simt::here.lane, from = lane ^ unsigned(bits), group = ~unsigned(width - 1);
    auto all = simt::share(mask, v);
    return (from & group) == (lane & group) ? all.get(from) : v;
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    unsigned lane = simt::here.lane;
    auto all = simt::share(mask, v);
    return (lane & unsigned(width - 1)) >= by ? all.get(lane - by) : v;
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    unsigned lane = simt::here.lane;
    auto all = simt::share(mask, v);
    return (lane & unsigned(width - 1)) + by < unsigned(width) ? all.get(lane + by) : v;
}
inline unsigned __ballot_sync(unsigned mask, int p) {
    unsigned live = mask & simt::live_lanes(), votes = 0;
    auto all = simt::share(mask, int(p != 0));
    for (unsigned l = 0; l < 32; l++) {
        if ((live >> l & 1) && all.get(l)) votes |= 1u << l;
    }
    return votes;
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
template <class T> T __reduce_add_sync(unsigned mask, T v) {
    unsigned live = mask & simt::live_lanes();
    auto all = simt::share(mask, v);
    T sum = 0;
    for (unsigned l = 0; l < 32; l++) sum += (live >> l & 1) ? all.get(l) : T(0);
    return sum;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline float __uint_as_float(unsigned x) { float f; std::memcpy(&f, &x, 4); return f; }
inline float __int_as_float(int x) { float f; std::memcpy(&f, &x, 4); return f; }
inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
inline int __float_as_int(float x) { int i; std::memcpy(&i, &x, 4); return i; }
inline long long __double_as_longlong(double x) { long long i; std::memcpy(&i, &x, 8); return i; }
inline double __longlong_as_double(long long x) { double d; std::memcpy(&d, &x, 8); return d; }
inline long long __double2ll_rn(double x) { return std::isnan(x) ? (long long)0x8000000000000000ull : llrint(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcg(T* p, T v) { *p = v; }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

namespace simt {
template <class T, class F> T update(T* p, F&& f) {
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    T next = f(old);
    while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) next = f(old);
    return old;
}
template <class T> using Same = std::common_type_t<T>; // not deduced: the pointer decides
} // namespace simt
template <class T> T atomicAdd(T* p, simt::Same<T> v) { return simt::update(p, [&](T o) { return T(o + v); }); }
template <class T> T atomicMin(T* p, simt::Same<T> v) { return simt::update(p, [&](T o) { return v < o ? v : o; }); }
template <class T> T atomicMax(T* p, simt::Same<T> v) { return simt::update(p, [&](T o) { return v > o ? v : o; }); }
template <class T> T atomicOr(T* p, simt::Same<T> v) { return simt::update(p, [&](T o) { return T(o | v); }); }
template <class T> T atomicExch(T* p, simt::Same<T> v) { return simt::update(p, [&](T) { return v; }); }
template <class T> T atomicCAS(T* p, simt::Same<T> expected, simt::Same<T> v) {
    return simt::update(p, [&](T o) { return o == expected ? v : o; });
}

// bfloat16: the upper half of a float, rounded to nearest even.
struct __nv_bfloat16 {
    unsigned short bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    unsigned u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<unsigned short>((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(unsigned(h.bits) << 16); }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }
