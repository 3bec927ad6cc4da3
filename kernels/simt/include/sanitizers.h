// What the runtime says to the address and the thread sanitizer; nothing where it is built with neither.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#endif

#if defined(SIMT_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

namespace simt {

// An order between fibers: what one did to memory before `before` comes before what another does after `after`.
struct Order {
#if defined(SIMT_TSAN)
    char place = 0;
    void before() { __tsan_release(&place); }
    void after() { __tsan_acquire(&place); }
#else
    void before() {}
    void after() {}
#endif
};

// A fiber as the thread sanitizer knows it: a thread of its own.
struct ThreadFiber {
#if defined(SIMT_TSAN)
    void* fiber = nullptr;
    bool own = false;
    ThreadFiber() = default;
    // Fibers are moved when a larger block is prepared.
    ThreadFiber(ThreadFiber&& other) : fiber(other.fiber), own(other.own) { other.own = false; }
    ~ThreadFiber() {
        if (own) __tsan_destroy_fiber(fiber);
    }
    // Once: to make one is slow, and the blocks that it runs are ordered anyway by what they begin and end with.
    void make() {
        if (!own) fiber = __tsan_create_fiber(0), own = true;
    }
    void here() { fiber = __tsan_get_current_fiber(); }
    // 1: without an order between the two.
    void go() { __tsan_switch_to_fiber(fiber, 1); }
#else
    void make() {}
    void here() {}
    void go() {}
#endif
};

} // namespace simt
