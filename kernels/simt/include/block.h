// A block of threads as the scheduler has it: fibers, warps, shared memory.
#pragma once
#include "lumos_simt.h"
#include "sanitizers.h"
#include "schedule.h"
#include "switch.h"

#include <atomic>
#include <deque>
#include <sys/mman.h>
#include <vector>

namespace simt {
namespace {

constexpr size_t STACK = 128 * 1024;
// Stacks begin at places of their own within a page: threads that take turns would otherwise all use the same lines of the caches.
constexpr size_t STAGGER = 384, STAGGERED = 64;
constexpr uint64_t CANARY = 0x4c554d4f535f5349ull;

// Lanes that meet under one mask. Two sets of slots: a lane that runs ahead cannot reach the first again before all have
// read it.
struct Meeting {
    unsigned mask = 0;
    unsigned arrived = 0;
    uint64_t done = 0;
    alignas(16) unsigned char slots[2][32 * 64];
    Order order[2];
};
struct Warp {
    unsigned live = 0;
    unsigned used = 0;
    std::vector<Meeting*> meetings;
    Meeting& meeting(unsigned mask) {
        for (unsigned i = 0; i < used; i++) {
            if (meetings[i]->mask == mask) return *meetings[i];
        }
        if (used == meetings.size()) meetings.push_back(new Meeting);
        Meeting& m = *meetings[used++];
        m.mask = mask;
        m.arrived = 0;
        return m;
    }
    ~Warp() {
        for (auto m : meetings) delete m;
    }
};
struct Fiber {
    Context context;
    uint3 thread;
    unsigned lane;
    Warp* warp;
    Meeting* meeting; // of the latest warp operation
    Copies copies;
    Products products;
    ThreadFiber checked;
    bool over;
    // Where it waits: until `*counter` is no longer `seen`.
    const uint64_t* counter;
    uint64_t seen;
    const char* waits; // "barrier" or "warp operation"
    void* fake = nullptr;
};

struct Block {
    const Launch* launch;
    void (*body)(void**);
    std::vector<Fiber> fibers;
    std::deque<Warp> warps; // of the largest launch so far
    unsigned char* stacks = nullptr;
    size_t stack_bytes = 0;
    std::vector<unsigned char> shared;
    Turns turns;
    Context scheduler;
    Fiber* now = nullptr;
    unsigned live = 0, waiting = 0;
    int votes = 0, result[2] = {0, 0};
    uint64_t barriers = 0;
    bool failed = false;
    std::atomic<bool>* stop = nullptr;
    // For the address sanitizer: the scheduler's stack, where it and the fiber that was left last keep what they must find again.
    const void* bottom = nullptr;
    size_t bottom_size = 0;
    void* fake = nullptr;
    void** fake_of_last = nullptr;
    // For the thread sanitizer: what a block begins with is before its threads, and they are before what follows it.
    ThreadFiber checked;
    Order begun, ended, barrier[2];

    ~Block() {
        if (stacks) munmap(stacks, stack_bytes);
    }
    void open_barrier() {
        result[barriers & 1] = votes;
        votes = 0;
        waiting = 0;
        barriers++;
    }
    static void open_if_met(Warp& w, Meeting& m) {
        if (m.arrived && (m.mask & w.live) == (m.arrived & w.live)) {
            m.arrived = 0;
            m.done++;
        }
    }
};

} // namespace
} // namespace simt
