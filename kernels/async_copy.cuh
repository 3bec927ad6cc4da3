// Copies from device memory to shared memory that no register and no thread waits for.
#pragma once

#include "common.cuh"

#ifdef LUMOS_SIMT

inline void copy_async(float* to, const float* from) { std::memcpy(to, from, 16); }
inline void wait_for_copies() {}

#else

// Four floats at multiples of 16 bytes; `to` is in shared memory.
__device__ __forceinline__ void copy_async(float* to, const float* from) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

// The calling thread's copies are done; a barrier then tells the other threads.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
