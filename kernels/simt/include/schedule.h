// The order in which the threads of a block take turns, and the barrier that is taken out: from the environment, read once.
#pragma once
#include "lumos_simt.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace simt {

// LUMOS_SIMT_ORDER: `ascending` (also where it is not set), `descending`, or `random:SEED`, another order for each block and launch.
// Threads that only meet at barriers give the same bits in every order. Under `descending` asynchronous copies are carried out at once, under
// the others as late as their waits allow.
class Turns {
    struct Choice {
        enum { ASCENDING, DESCENDING, RANDOM, UNKNOWN } kind = ASCENDING;
        uint64_t seed = 0;
        std::string wrong;
        Choice() {
            const char* text = std::getenv("LUMOS_SIMT_ORDER");
            const std::string order = text ? text : "";
            if (order.empty() || order == "ascending") return;
            if (order == "descending") {
                kind = DESCENDING;
                return;
            }
            const std::string digits = order.rfind("random:", 0) == 0 ? order.substr(7) : "";
            const bool number = !digits.empty() && digits.size() < 19 && digits.find_first_not_of("0123456789") == std::string::npos;
            kind = number ? RANDOM : UNKNOWN;
            seed = number ? std::strtoull(digits.c_str(), nullptr, 10) : 0;
            if (!number) wrong = "LUMOS_SIMT_ORDER is `" + order.substr(0, 60) + "`; it may be `ascending`, `descending` or `random:SEED`";
        }
    };
    static const Choice& choice() {
        static const Choice c;
        return c;
    }
    std::vector<unsigned> turns;

public:
    // Why no launch is possible, or null.
    static const char* refused() { return choice().kind == Choice::UNKNOWN ? choice().wrong.c_str() : nullptr; }

    static bool copies_at_once() { return choice().kind == Choice::DESCENDING; }

    // The threads 0 to n - 1 in their turns.
    const std::vector<unsigned>& of(unsigned n, uint64_t launch, uint64_t block) {
        const auto kind = choice().kind;
        if (turns.size() == n && kind != Choice::RANDOM) return turns;
        turns.resize(n);
        for (unsigned i = 0; i < n; i++) turns[i] = kind == Choice::DESCENDING ? n - 1 - i : i;
        if (kind == Choice::RANDOM) {
            uint64_t s = (choice().seed * 0x9e3779b97f4a7c15ull) ^ (launch * 0xbf58476d1ce4e5b9ull) ^ ((block + 1) * 0x94d049bb133111ebull);
            for (unsigned i = n; i > 1; i--) {
                s += 0x9e3779b97f4a7c15ull;
                uint64_t z = (s ^ (s >> 30)) * 0xbf58476d1ce4e5b9ull;
                z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
                std::swap(turns[i - 1], turns[(z ^ (z >> 31)) % i]);
            }
        }
        return turns;
    }
};

namespace {
// `FILE:LINE` of LUMOS_SIMT_WITHOUT.
struct LeftOut {
    std::string file;
    int line = 0;
    LeftOut() {
        const char* text = std::getenv("LUMOS_SIMT_WITHOUT");
        const std::string place = text ? text : "";
        const size_t colon = place.rfind(':');
        if (colon == std::string::npos) return;
        file = "/" + place.substr(0, colon);
        line = std::atoi(place.c_str() + colon + 1);
    }
};
const LeftOut& the_left_out() {
    static const LeftOut one;
    return one;
}
} // namespace

const bool copies_at_once = Turns::copies_at_once();
int line_left_out = the_left_out().line;
bool file_left_out(const char* path) {
    const std::string &file = the_left_out().file, all = "/" + std::string(path);
    if (file.size() > all.size() || all.compare(all.size() - file.size(), file.size(), file) != 0) return false;
    // Once, so that a barrier that no test reaches is not taken for one that no test needs.
    static const int said = std::fprintf(stderr, "left out: %s:%d\n", file.c_str() + 1, line_left_out);
    return said != 0;
}

} // namespace simt
