// The next token from logits, a block a text: greedy, or drawn with temperature from the k likeliest that hold `top_p`.
//
// The order of candidates is that of their logits, of equals the lower token first: a 64-bit key, the logit's bits made to ascend with
// it above the complement of the token, so no two are equal. Nothing is sorted: the k-th key, the last one within `top_p` and the one
// drawn are each found digit by digit from a histogram. A candidate's probability is counted in units of 2^-43 of the likeliest one's,
// so sums are of integers and have no order: the result is that of `llm::sample` on the host up to the last bit of `exp`.
//
// Bytes: 4 candidates for each pass; a greedy choice takes one, a drawn one about three for each of the keys to be found.
#include "common.cuh"

// What one text asks for. Lists are slices of `allowed`, `seen` and `biases`.
struct TokenAsk {
    double unit; // the draw, in [0, 1)
    float temperature, top_p, penalty;
    unsigned top_k;
    int row;                // of `logits`; -1: the logits of the allowed tokens stand one by one in `some`
    int allowed, allowed_n; // from, and how many; -1: any token
    int seen, seen_n;
    int biases; // what is added to the logits of the allowed tokens, from; -1: nothing
};
EXPORT_STRUCT(TokenAsk)

namespace choice {

typedef unsigned long long Key;
constexpr int THREADS = 512, DIGITS = 2048, CHUNK = DIGITS / (THREADS / 32);

__device__ __forceinline__ Key key_of(float logit, int token) {
    const unsigned u = __float_as_uint(logit);
    const unsigned up = u & 0x80000000u ? ~u : u | 0x80000000u;
    return static_cast<Key>(up) << 32 | ~static_cast<unsigned>(token);
}

__device__ __forceinline__ float logit_of(Key key) {
    const unsigned up = static_cast<unsigned>(key >> 32), u = up & 0x80000000u ? up & 0x7fffffffu : ~up;
    return __uint_as_float(u);
}

__device__ __forceinline__ int token_of(Key key) { return static_cast<int>(~static_cast<unsigned>(key)); }

struct Shared {
    Key sums[DIGITS];
    Key chunks[32];
    Key found, before;
    int counts[DIGITS];
    int digit, count;
};

struct Candidates {
    float* own;      // logits of the candidates, or of all tokens
    const int* list; // their tokens; null: all
    int n;
    bool narrow;

    __device__ __forceinline__ int token(int i) const { return list ? list[i] : i; }
    __device__ __forceinline__ float& logit(int i) const { return own[narrow ? i : token(i)]; }
    // `work(key)` for every candidate whose logit is a number.
    template <class F> __device__ __forceinline__ void each(F work) const {
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const float v = logit(i);
            if (v == v) work(key_of(v, token(i)));
        }
    }
};

__device__ inline bool holds(const int* sorted, int n, int value) {
    int low = 0, high = n;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (sorted[middle] < value) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && sorted[low] == value;
}

__device__ __forceinline__ float penalised(float v, float penalty) { return v > 0.0f ? v / penalty : v * penalty; }

__device__ inline Key block_sum_of(Key v, Shared* s) {
    v = warp_sum(v);
    __syncthreads();
    if (lane_index() == 0) s->chunks[warp_index()] = v;
    __syncthreads();
    Key total = 0;
    for (int w = 0; w < THREADS / 32; w++) total += s->chunks[w];
    return total;
}

// The first use of `s->chunks` by a block: no barrier has to come before it.
__device__ inline Key block_most(Key v, Shared* s) {
    for (int o = 16; o > 0; o >>= 1) {
        const Key other = __shfl_xor_sync(FULL_WARP, v, o);
        v = other > v ? other : v;
    }
    if (lane_index() == 0) s->chunks[warp_index()] = v;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) v = s->chunks[w] > v ? s->chunks[w] : v;
    return v;
}

// The first key, in descending order from the greatest, at which the sum of `weight(key)` over keys of at least `least` reaches
// `target`; there must be one. `reached` is that sum.
template <class W>
__device__ Key select(const Candidates& all, Key least, Key target, W weight, Key* reached, Shared* s) {
    Key prefix = 0, mask = 0, before = 0;
    for (int shift = 53;; shift = shift > 11 ? shift - 11 : 0) {
        // Eleven bits a digit, the last has nine.
        const int bits = shift == 0 ? 9 : 11;
        const Key ones = (Key(1) << bits) - 1;
        __syncthreads();
        for (int i = threadIdx.x; i < DIGITS; i += THREADS) s->sums[i] = 0, s->counts[i] = 0;
        __syncthreads();
        all.each([&](Key key) {
            if (key >= least && (key & mask) == prefix) {
                const int digit = static_cast<int>(key >> shift & ones);
                atomicAdd(&s->sums[digit], weight(key));
                atomicAdd(&s->counts[digit], 1);
            }
        });
        __syncthreads();
        const int warp = warp_index(), lane = lane_index();
        Key part = 0;
        for (int i = lane; i < CHUNK; i += 32) part += s->sums[DIGITS - 1 - warp * CHUNK - i];
        part = warp_sum(part);
        if (lane == 0) s->chunks[warp] = part;
        __syncthreads();
        if (warp == 0) {
            int chunk = 0;
            while (chunk + 1 < THREADS / 32 && before + s->chunks[chunk] < target) before += s->chunks[chunk++];
            constexpr int OWN = CHUNK / 32;
            const int top = DIGITS - 1 - chunk * CHUNK - lane * OWN;
            Key own = 0;
            for (int i = 0; i < OWN; i++) own += s->sums[top - i];
            Key upto = own;
            for (int o = 1; o < 32; o <<= 1) {
                const Key other = __shfl_up_sync(FULL_WARP, upto, o);
                upto += lane >= o ? other : 0;
            }
            const unsigned there = __ballot_sync(FULL_WARP, before + upto >= target);
            if (there != 0 && lane == __ffs(there) - 1) {
                before += upto - own;
                int digit = top;
                while (digit > top - OWN + 1 && before + s->sums[digit] < target) before += s->sums[digit--];
                s->digit = digit, s->before = before, s->count = s->counts[digit];
            }
        }
        __syncthreads();
        const int digit = s->digit;
        before = s->before;
        *reached = before + s->sums[digit];
        prefix |= static_cast<Key>(digit) << shift;
        mask |= ones << shift;
        if (shift == 0) {
            return prefix;
        }
        if (s->count == 1) {
            all.each([&](Key key) {
                if (key >= least && (key & mask) == prefix) s->found = key;
            });
            __syncthreads();
            return s->found;
        }
    }
}

} // namespace choice

// `tokens [asks]`, -1 where there is no candidate or no logit is a number. `logits [., vocab]`, `some [.]`; both are changed (cap,
// biases and penalty are applied in place). Launch: grid asks, 512 threads, 24,856 bytes of shared memory.
extern "C" __global__ void __launch_bounds__(512) decoder_choose(int* tokens, float* logits, float* some, const TokenAsk* asks,
                                                                 const int* allowed, const int* seen, const float* biases, int vocab,
                                                                 float cap) {
    using namespace choice;
    LUMOS_SHARED(Shared, s);
    const TokenAsk ask = asks[blockIdx.x];
    const bool narrow = ask.row < 0, any = ask.allowed_n < 0;
    Candidates all;
    all.own = narrow ? some + ask.allowed : logits + static_cast<long long>(ask.row) * vocab;
    all.list = any ? nullptr : allowed + ask.allowed;
    all.n = any ? vocab : ask.allowed_n;
    all.narrow = narrow;
    if (cap != 0.0f) {
        for (int i = threadIdx.x; i < all.n; i += THREADS) all.logit(i) = cap * tanhf(all.logit(i) / cap);
        __syncthreads();
    }
    if (ask.biases >= 0) {
        for (int i = threadIdx.x; i < all.n; i += THREADS) all.logit(i) += biases[ask.biases + i];
        __syncthreads();
    }
    if (ask.seen_n > 0) {
        const int* list = seen + ask.seen;
        if (narrow) {
            for (int i = threadIdx.x; i < all.n; i += THREADS) {
                if (holds(list, ask.seen_n, all.token(i))) all.logit(i) = penalised(all.logit(i), ask.penalty);
            }
        } else {
            for (int i = threadIdx.x; i < ask.seen_n; i += THREADS) all.own[list[i]] = penalised(all.own[list[i]], ask.penalty);
        }
        __syncthreads();
    }

    Key most = 0, count = 0;
    all.each([&](Key key) {
        most = key > most ? key : most;
        count++;
    });
    most = block_most(most, s);
    count = block_sum_of(count, s);
    const double top = logit_of(most);
    Key chosen = most;
    if (count > 0 && ask.temperature != 0.0f && top - top == 0.0) {
        Key least = 0, held = 0;
        if (ask.top_k != 0 && ask.top_k < count) {
            least = select(all, 0, ask.top_k, [](Key) { return Key(1); }, &held, s);
        }
        const double temperature = ask.temperature;
        auto weight = [&](Key key) {
            const double x = (static_cast<double>(logit_of(key)) - top) / temperature;
            // Below one unit.
            return x < -30.0 ? Key(0) : static_cast<Key>(exp(x) * 8796093022208.0);
        };
        Key mass = 0;
        all.each([&](Key key) { mass += key >= least ? weight(key) : 0; });
        held = block_sum_of(mass, s);
        if (ask.top_p < 1.0f) {
            const double share = ceil(static_cast<double>(ask.top_p) * static_cast<double>(held));
            const Key target = share < 1.0 ? 1 : static_cast<Key>(share);
            select(all, least, target < held ? target : held, weight, &held, s);
        }
        const Key drawn = static_cast<Key>(ask.unit * static_cast<double>(held));
        Key reached;
        chosen = select(all, least, (drawn < held ? drawn : held - 1) + 1, weight, &reached, s);
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = count > 0 ? token_of(chosen) : -1;
    }
}
EXPORT_KERNEL(decoder_choose)
