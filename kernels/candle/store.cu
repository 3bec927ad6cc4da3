// Keys and values of a batch into the cache of the candle engine (src/llm/candle/store.rs). candle compiles it by NVRTC, alone: it includes
// nothing, and is none of the kernels of our own engines.
#if !defined(EXPORT_KERNEL)
#define EXPORT_KERNEL(name)
#endif

// cache[places[r]] = x[r], bit for bit.
//
// x `[rows, width]`, places `[rows]`, cache `[places, width]`. One thread a number; places differ, so that no two threads write one.
// Grid: ceil(rows * width / 1024) blocks of 1024, or any that cover; shared memory: none. Bit-reproducible. Bytes: 2 rows width words.
template <class Word>
__device__ __forceinline__ void store_rows(const Word* x, const unsigned* places, Word* cache, unsigned rows, unsigned width) {
    const unsigned long long i = blockIdx.x * static_cast<unsigned long long>(blockDim.x) + threadIdx.x;
    if (i < static_cast<unsigned long long>(rows) * width) {
        cache[places[i / width] * static_cast<unsigned long long>(width) + i % width] = x[i];
    }
}

// Numbers of 16 bits.
extern "C" __global__ void store_16(const unsigned short* x, const unsigned* places, unsigned short* cache, unsigned rows, unsigned width) {
    store_rows(x, places, cache, rows, width);
}
EXPORT_KERNEL(store_16)

// Numbers of 32 bits.
extern "C" __global__ void store_32(const unsigned* x, const unsigned* places, unsigned* cache, unsigned rows, unsigned width) {
    store_rows(x, places, cache, rows, width);
}
EXPORT_KERNEL(store_32)
