// Copies from device memory to shared memory that no register and no thread waits for.
#pragma once

#include "common.cuh"

#ifdef LUMOS_SIMT

// On the CPU a copy is carried out at once or when the thread waits for its group, the first and the last moment that a GPU may choose.
inline void copy_async_or_zero(void* to, const void* from, bool there) {
    if (reinterpret_cast<size_t>(to) % 16 != 0 || reinterpret_cast<size_t>(from) % 16 != 0) {
        simt::fail("an asynchronous copy to or from an address that is no multiple of 16");
    }
    simt::Copy copy{to, there ? from : nullptr, simt::copies().group};
    if (simt::copies_at_once) {
        copy.carry_out();
        copy.to = nullptr;
    }
    simt::copies().waiting.push_back(copy);
}
inline void copy_async(float* to, const float* from) { copy_async_or_zero(to, from, true); }

// Carries out the copies of groups below `group`.
inline void finish_copies(unsigned group) {
    std::vector<simt::Copy>& waiting = simt::copies().waiting;
    size_t done = 0;
    for (; done < waiting.size() && waiting[done].group < group; done++) waiting[done].carry_out();
    waiting.erase(waiting.begin(), waiting.begin() + std::ptrdiff_t(done));
    simt::copies().unshown |= done > 0;
}
inline void close_copies() { simt::copies().group++; }
template <int LATE> inline void wait_for_older_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned closed = simt::copies().group;
    if (!simt::left_out(file, line) && closed > LATE) finish_copies(closed - LATE);
}
inline void wait_for_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!simt::left_out(file, line)) finish_copies(~0u);
}

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
