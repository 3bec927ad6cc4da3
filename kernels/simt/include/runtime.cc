// The scheduler of fibers behind lumos_simt.h.
#include "block.h"
// The standard library says it with underscores.
#undef __noinline__

#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>

namespace simt {
__thread Place here = {{}, {}, {1, 1, 1}, {1, 1, 1}, 0, nullptr};
namespace {

__thread Block* block = nullptr;

unsigned char* stack_of(Block& b, size_t i) { return b.stacks + i * STACK; }
bool can_go_on(const Fiber& f) { return !f.over && !(f.counter && *f.counter == f.seen); }

// The next fiber behind `f`, in turn, that can go on; nothing where none can.
Fiber* next_behind(Block& b, const Fiber* f) {
    Fiber* const first = b.fibers.data();
    Fiber* const end = first + b.fibers.size();
    Fiber* at = first + (f - first);
    for (size_t k = b.fibers.size(); k > 0; k--) {
        if (++at == end) at = first;
        if (can_go_on(*at)) return at;
    }
    return nullptr;
}
void enter_on(Block& b, Fiber* f) {
    b.now = f;
    here.thread = f->thread;
    here.lane = f->lane;
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(b.fake_of_last, stack_of(b, size_t(f - b.fibers.data())), STACK);
#endif
}
// Leaves the running fiber for the next one that can go on, and for the scheduler where there is none.
void pass_on() {
    Block* b = block;
    Fiber* f = b->now;
    Fiber* next = b->failed ? nullptr : next_behind(*b, f);
#if defined(SIMT_ASAN)
    b->fake_of_last = f->over ? nullptr : &f->fake;
#endif
    if (next) {
        enter_on(*b, next);
        next->checked.go();
        jump(f->context, next->context);
    } else {
        b->checked.go();
#if defined(SIMT_ASAN)
        __sanitizer_start_switch_fiber(b->fake_of_last, b->bottom, b->bottom_size);
#endif
        jump(f->context, b->scheduler);
    }
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(f->fake, nullptr, nullptr);
#endif
}
void wait_for(const uint64_t* counter, uint64_t seen, const char* what) {
    Fiber* f = block->now;
    f->counter = counter;
    f->seen = seen;
    f->waits = what;
    pass_on();
}
void leave() {
    Block* b = block;
    Fiber* f = b->now;
    f->over = true;
    f->warp->live &= ~(1u << f->lane);
    // Those who wait no longer wait for this one.
    for (unsigned i = 0; i < f->warp->used; i++) Block::open_if_met(*f->warp, *f->warp->meetings[i]);
    b->live--;
    if (b->live && b->waiting == b->live) b->open_barrier();
    pass_on();
    __builtin_unreachable();
}
void enter() {
    Block* b = block;
#if defined(SIMT_ASAN)
    // The first fiber of a block comes from the scheduler, the others from a fiber.
    const void* bottom;
    size_t bottom_size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bottom_size);
    if (!b->bottom) b->bottom = bottom, b->bottom_size = bottom_size;
#endif
    b->begun.after();
    b->body(b->launch->args);
    b->ended.before();
    leave();
}
#if !defined(LUMOS_SIMT_UCONTEXT)
extern "C" void lumos_simt_start() { enter(); }
#endif

// Blocks between launches. Stacks that have been used cost nothing to use again, fresh ones a fault for each page.
std::mutex idle_lock;
std::vector<std::unique_ptr<Block>> idle;

std::unique_ptr<Block> take_block() {
    std::lock_guard<std::mutex> held(idle_lock);
    if (idle.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> b = std::move(idle.back());
    idle.pop_back();
    return b;
}
void give_back(std::unique_ptr<Block> b) {
    // Fibers of a launch that failed were left in the middle: their stacks are not used again.
    if (b->failed) return;
    std::lock_guard<std::mutex> held(idle_lock);
    idle.push_back(std::move(b));
}

void prepare(Block& b, const Launch& launch, void (*body)(void**)) {
    b.launch = &launch;
    b.body = body;
    b.bottom = nullptr;
    size_t n = size_t(launch.block.x) * launch.block.y * launch.block.z;
    b.fibers.resize(n);
    while (b.warps.size() < (n + 31) / 32) b.warps.emplace_back();
    b.shared.resize(launch.shared + 256);
    if (b.stack_bytes >= n * STACK) return;
    if (b.stacks) munmap(b.stacks, b.stack_bytes);
    b.stack_bytes = n * STACK;
    b.stacks = static_cast<unsigned char*>(mmap(nullptr, b.stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (b.stacks == MAP_FAILED) {
        b.stacks = nullptr;
        std::snprintf(launch.error, 512, "no memory for the stacks of %zu threads", n);
        b.failed = true;
    }
}

void report(Block& b, const Fiber& f, const char* what) {
    if (!b.stop->exchange(true)) {
        const uint3 at = here.block, t = f.thread;
        std::snprintf(b.launch->error, 512, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", b.launch->name, at.x, at.y, at.z,
            t.x, t.y, t.z, what);
    }
    b.failed = true;
}

void run_block(Block& b, uint3 at) {
    const Launch& launch = *b.launch;
    const unsigned n = unsigned(b.fibers.size());
    unsigned char* shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(b.shared.data()) + 127) & ~uintptr_t(127));
    // All ones is a NaN as a float, as a double and as bfloat16, and a wild index as an int.
    std::memset(shared, 0xff, launch.shared);
    std::memset(shared + launch.shared, 0x5c, 64);
    block = &b;
    b.live = n;
    b.waiting = 0;
    b.votes = 0;
    here.block = at;
    here.grid = launch.grid;
    here.dim = launch.block;
    here.shared = shared;
    for (auto& w : b.warps) w.live = w.used = 0;
    const std::vector<unsigned>& turns = b.turns.of(n, launch.number, at.x + launch.grid.x * (at.y + uint64_t(launch.grid.y) * at.z));
    b.begun.before();
    for (unsigned i = 0; i < n; i++) {
        Fiber& f = b.fibers[i];
        const unsigned t = turns[i];
        f.thread = {t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y)};
        f.lane = t & 31;
        f.warp = &b.warps[t / 32];
        f.warp->live |= 1u << f.lane;
        f.over = false;
        f.counter = nullptr;
        f.meeting = nullptr;
        f.copies.waiting.clear();
        f.copies.group = 0;
        f.copies.unshown = false;
        f.products.waiting.clear();
        f.products.group = 0;
        f.checked.make();
        unsigned char* stack = stack_of(b, i);
        std::memcpy(stack, &CANARY, 8);
#if defined(LUMOS_SIMT_UCONTEXT)
        getcontext(&f.context.state);
        f.context.state.uc_stack.ss_sp = stack + 64;
        f.context.state.uc_stack.ss_size = STACK - 64;
        f.context.state.uc_link = nullptr;
        makecontext(&f.context.state, enter, 0);
#else
        uintptr_t top = reinterpret_cast<uintptr_t>(stack + STACK - i % STAGGERED * STAGGER) & ~uintptr_t(15);
#if defined(__x86_64__)
        void** sp = reinterpret_cast<void**>(top - 8);
        *sp = nullptr;
        *--sp = reinterpret_cast<void*>(lumos_simt_start);
        sp -= 6;
        std::memset(sp, 0, 48);
#else
        void** sp = reinterpret_cast<void**>(top - 160);
        std::memset(sp, 0, 160);
        sp[11] = reinterpret_cast<void*>(lumos_simt_start); // x30, where `ret` goes
#endif
        f.context.sp = sp;
#endif
    }
#if defined(SIMT_ASAN)
    b.fake_of_last = &b.fake;
#endif
    // Fibers pass on to each other; they come back here when all are over, when one failed, and when none can go on.
    enter_on(b, &b.fibers[0]);
    b.checked.here();
    b.fibers[0].checked.go();
    jump(b.scheduler, b.fibers[0].context);
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(b.fake, nullptr, nullptr);
#endif
    if (b.live && !b.failed) {
        for (auto& f : b.fibers) {
            if (f.over) continue;
            char what[160];
            std::snprintf(what, sizeof what, "deadlock: it waits at a %s that the others never reach", f.waits);
            report(b, f, what);
            break;
        }
    }
    block = nullptr;
    b.ended.after();
    if (b.failed) return;
    for (unsigned i = 0; i < n; i++) {
        uint64_t canary;
        std::memcpy(&canary, stack_of(b, i), 8);
        if (canary != CANARY) report(b, b.fibers[i], "its stack overflowed");
    }
    for (int i = 0; i < 64; i++) {
        if (shared[launch.shared + i] != 0x5c) {
            report(b, b.fibers[0], "the block wrote past the end of its shared memory");
            break;
        }
    }
}

} // namespace

int barrier(int predicate) {
    Block* b = block;
    const uint64_t number = b->barriers;
    b->barrier[number & 1].before();
    b->votes += predicate;
    if (++b->waiting == b->live) {
        b->open_barrier();
    } else {
        wait_for(&b->barriers, number, "barrier");
    }
    b->barrier[number & 1].after();
    return b->result[number & 1];
}

unsigned char* slot(unsigned mask, size_t size) {
    Fiber* f = block->now;
    if (!(mask >> f->lane & 1)) fail("a lane calls a warp operation with a mask that leaves the lane out");
    if (!f->meeting || f->meeting->mask != mask) f->meeting = &f->warp->meeting(mask);
    Meeting& m = *f->meeting;
    return m.slots[m.done & 1] + size * f->lane;
}

const unsigned char* exchange() {
    Fiber* f = block->now;
    Meeting& m = *f->meeting;
    const uint64_t number = m.done;
    m.arrived |= 1u << f->lane;
    if ((m.mask & f->warp->live) == m.arrived) {
        m.arrived = 0;
        m.done++;
    } else {
        wait_for(&m.done, number, "warp operation");
    }
    return m.slots[number & 1];
}

#if defined(SIMT_TSAN)
void copy_lane(void* to, const void* from, size_t size) {
    // Not memcpy, which the sanitizer sees everywhere.
    for (size_t i = 0; i < size; i++) static_cast<volatile unsigned char*>(to)[i] = static_cast<const volatile unsigned char*>(from)[i];
}
#endif
void sync_lanes(unsigned mask) {
    std::memset(slot(mask, 1), 0, 1);
    Meeting& m = *block->now->meeting;
    Order& order = m.order[m.done & 1];
    order.before();
    exchange();
    order.after();
}

Copies& copies() { return block->now->copies; }
Products& products() { return block->now->products; }

unsigned live_lanes() { return block->now->warp->live; }

void fail(const char* what) {
    report(*block, *block->now, what);
    pass_on();
    __builtin_unreachable();
}

int run(const Launch& asked, void (*body)(void**)) {
    if (const char* wrong = Turns::refused()) {
        std::snprintf(asked.error, 512, "%s", wrong);
        return 1;
    }
    static std::atomic<uint64_t> launches{0};
    Launch launch = asked;
    launch.number = launches++;
    // Launches one after another are ordered, whatever threads of the host they come from.
    static Order queue;
    queue.after();
    const uint64_t total = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    auto work = [&] {
        std::unique_ptr<Block> b = take_block();
        b->stop = &stop;
        prepare(*b, launch, body);
        if (b->failed) {
            stop = true;
            return;
        }
        for (uint64_t i; !stop && (i = next++) < total;) {
            run_block(*b, {unsigned(i % launch.grid.x), unsigned(i / launch.grid.x % launch.grid.y), unsigned(i / (uint64_t(launch.grid.x) * launch.grid.y))});
        }
        give_back(std::move(b));
    };
    std::vector<std::thread> others;
    for (unsigned i = 1; i < launch.threads && i < total; i++) others.emplace_back(work);
    work();
    for (auto& t : others) t.join();
    queue.before();
    return stop ? 1 : 0;
}

} // namespace simt
