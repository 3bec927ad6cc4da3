// Copies from device memory to shared memory that no register and no thread waits for.
#pragma once

#include "common.cuh"

#ifdef LUMOS_SIMT

inline void copy_async(float* to, const float* from) { std::memcpy(to, from, 16); }
inline void copy_async_or_zero(void* to, const void* from, bool there) {
    if (there) {
        std::memcpy(to, from, 16);
    } else {
        std::memset(to, 0, 16);
    }
}
inline void close_copies() {}
template <int LATE> inline void wait_for_older_copies() {}
inline void wait_for_copies() {}

#else

// Four floats at multiples of 16 bytes; `to` is in shared memory.
__device__ __forceinline__ void copy_async(float* to, const float* from) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

// 16 bytes at multiples of 16 bytes, or zeros where there is nothing to copy; `from` must be an address of device memory even then.
__device__ __forceinline__ void copy_async_or_zero(void* to, const void* from, bool there) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// Makes one group of the thread's copies since the last group.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All but the `LATE` youngest groups of the calling thread are done.
template <int LATE> __device__ __forceinline__ void wait_for_older_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATE) : "memory");
}

// The calling thread's copies are done; a barrier then tells the other threads.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
