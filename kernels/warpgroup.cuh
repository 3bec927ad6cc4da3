// Products of a warpgroup (four warps) on compute capability 9.0: `C [64, 256] += A [64, 16] B [256, 16]^T` in bfloat16 or float16 with
// float32 sums. A and B are read from shared memory, while the threads go on.
//
// Both lie in lines of 64 halves (128 bytes) along the depth, the first at a multiple of 1024 bytes. The 16 bytes at place `p` of line
// `l` lie at place `p ^ l % 8` of it (the 128-byte swizzle of PTX's matrix descriptors): eight lines at one place fall on different banks.
//
// Warp `w`, lane `4 g + t` holds of C, as (row, column): number `4 j + i` is at (16 w + g + 8 (i / 2), 8 j + 2 t + i % 2).
//
// Order of calls: copies are awaited, shown to the products, and met at a barrier by all threads that copied; then open, add ..., close;
// sums and lines may be touched once the product's group has been awaited. On the CPU a product is carried out when it is awaited, the
// latest moment that a GPU may choose, from whatever the descriptors point at. Whether `open_products` is called is not seen there.
#pragma once

#include "element.cuh"

namespace warpgroup {

constexpr int ROWS = 64, COLUMNS = 256, DEPTH = 16, SUMS = ROWS * COLUMNS / 128;
// Halves of a line, bytes of eight lines.
constexpr int LINE = 64, EIGHT_LINES = 1024;

// Where the halves at a place of 16 bytes of a line are, counted in halves.
__device__ __forceinline__ int at(int line, int place) { return line * LINE + (place ^ (line & 7)) * 8; }

// Lines from shared address `address` on, up to 96 bytes into the first, as PTX describes a matrix: the address in units of 16 bytes (14
// bits), from bit 16 what the swizzle leaves unused, from bit 32 the bytes of eight lines in units of 16, in the highest bits the kind of
// swizzle.
__device__ __forceinline__ unsigned long long matrix(unsigned address) {
    return (address & 0x3ffffu) >> 4 | 1ull << 16 | static_cast<unsigned long long>(EIGHT_LINES / 16) << 32 | 1ull << 62;
}

#ifdef LUMOS_SIMT

// Dynamic shared memory begins behind what the system keeps, at a multiple of 16 bytes and of no more.
constexpr unsigned BEGIN = 1040;
inline unsigned shared_address(const void* p) { return unsigned(static_cast<const unsigned char*>(p) - simt::here.shared) + BEGIN; }

// What the copies brought that the calling thread has awaited may be read by products.
inline void show_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!simt::left_out(file, line)) simt::copies().unshown = false;
}

inline void open_products() {}

// Half `k` of line `line` of a matrix.
template <class E> inline float half_of(unsigned long long matrix, int line, int k) {
    unsigned address = unsigned(matrix & 0x3fffu) << 4;
    address += unsigned(line / 8) * (unsigned(matrix >> 32 & 0x3fffu) << 4) + unsigned(line % 8) * 128 + unsigned(k) * 2;
    address ^= (address >> 7 & 7u) << 4;
    typename E::T half;
    std::memcpy(&half, simt::here.shared + (address - BEGIN), sizeof(half));
    return E::number(half);
}

template <class E> inline void carry_out(float* c, unsigned long long a, unsigned long long b) {
    const int lane = int(simt::here.lane), g = lane / 4, t = lane % 4, warp = int(threadIdx.x) / 32 % 4;
    float row[2][DEPTH], column[DEPTH];
    for (int half = 0; half < 2; half++) {
        for (int k = 0; k < DEPTH; k++) row[half][k] = half_of<E>(a, 16 * warp + g + 8 * half, k);
    }
    for (int n = 0; n < SUMS / 2; n++) {
        for (int k = 0; k < DEPTH; k++) column[k] = half_of<E>(b, 8 * (n / 2) + 2 * t + n % 2, k);
        for (int half = 0; half < 2; half++) {
            float& sum = c[4 * (n / 2) + 2 * half + n % 2];
            for (int k = 0; k < DEPTH; k++) sum += row[half][k] * column[k];
        }
    }
}

template <class E> inline void add_product(float (&c)[SUMS], unsigned long long a, unsigned long long b) {
    if (a >> 62 != 1 || b >> 62 != 1) simt::fail("a matrix of a warpgroup's product without the swizzle of 128 bytes");
    if (simt::copies().unshown) simt::fail("a warpgroup's product of copies that were not shown to it");
    simt::products().waiting.push_back({carry_out<E>, c, a, b, simt::products().group});
}

inline void close_products() { simt::products().group++; }

// All but the `LATE` youngest groups are done.
template <int LATE> inline void await_products(float (&)[SUMS], const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::Products& all = simt::products();
    if (simt::left_out(file, line) || all.group <= LATE) return;
    size_t done = 0;
    for (; done < all.waiting.size() && all.waiting[done].group < all.group - LATE; done++) {
        const simt::Product& product = all.waiting[done];
        product.carry_out(product.c, product.a, product.b);
    }
    all.waiting.erase(all.waiting.begin(), all.waiting.begin() + std::ptrdiff_t(done));
}

#else

__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// What the calling thread's copies brought may be read by products; a barrier then says so to the other threads.
__device__ __forceinline__ void show_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Sums that the threads have written are taken over.
__device__ __forceinline__ void open_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

#define LUMOS_EIGHT_SUMS(c, i)                                                                                                     \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define LUMOS_SUMS(c, i) LUMOS_EIGHT_SUMS(c, i), LUMOS_EIGHT_SUMS(c, i + 8), LUMOS_EIGHT_SUMS(c, i + 16), LUMOS_EIGHT_SUMS(c, i + 24)

// One product of the depth of 16, in the kind of halves that PTX calls `kind`.
#define LUMOS_ADD_PRODUCT(kind)                                                                                                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." kind "." kind " {"                                                 \
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, \n"                                   \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, \n"                         \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, \n"                         \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, \n"                         \
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, \n"                         \
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, \n"                         \
                     "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, \n"             \
                     "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, p, 1, 1, 0, 0;\n"\
                 "}\n"                                                                                                             \
                 : LUMOS_SUMS(c, 0), LUMOS_SUMS(c, 32), LUMOS_SUMS(c, 64), LUMOS_SUMS(c, 96)                                       \
                 : "l"(a), "l"(b))

template <class E> __device__ __forceinline__ void add_product(float (&c)[SUMS], unsigned long long a, unsigned long long b);
template <> __device__ __forceinline__ void add_product<Bfloat16>(float (&c)[SUMS], unsigned long long a, unsigned long long b) {
    LUMOS_ADD_PRODUCT("bf16");
}
template <> __device__ __forceinline__ void add_product<Float16>(float (&c)[SUMS], unsigned long long a, unsigned long long b) {
    LUMOS_ADD_PRODUCT("f16");
}

__device__ __forceinline__ void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// All but the `LATE` youngest groups are done; where that is all of them, no sum is read before.
template <int LATE> __device__ __forceinline__ void await_products(float (&c)[SUMS]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATE) : "memory");
    if (LATE == 0) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(c[i])::"memory");
    }
}

#endif

} // namespace warpgroup
