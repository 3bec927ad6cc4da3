// The next token from logits, a block a text: greedy, or drawn with temperature from the k likeliest that hold `top_p`.
//
// The order of candidates is that of their logits, of equals the lower token first: a 64-bit key, the logit's bits made to ascend with
// it above the complement of the token, so no two are equal. A candidate's probability is counted in units of 2^-43 of the likeliest
// one's, so sums are of integers and have no order: the result is that of `llm::sample` on the host up to the last bit of `exp`.
//
// Nothing is sorted. A pass finds the likeliest; a second one counts candidates, or their probabilities, in bins of the distance to it;
// a third one lists those down to the bin where a sum is reached (the k-th, the last one within `top_p`), and the rest is done among
// them. Where they are more than the list holds, the bin itself is listed; where it alone holds too many (equal logits, a high
// temperature), it is split by the digits of their keys.
//
// Bytes: 4 candidates for each pass; a greedy choice takes one, a drawn one three where the list holds what `top_k` or `top_p` leaves.
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
constexpr int THREADS = 512, BINS = 2048, LIST = 1024, CHUNK = BINS / (THREADS / 32), PIECE = 4;

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
    Key list[LIST], weights[LIST];
    Key chunks[32];
    Key found, before, reached;
    double temperature;
    float top, scale; // the greatest logit, and bins for each unit of the distance to it
    // A bin's candidates, and the low and the high half of the sum of their probabilities.
    unsigned counts[BINS], low[BINS], high[BINS];
    int bin, count, listed, pad;
};

struct Candidates {
    float* own;      // logits of the candidates, or of all tokens
    const int* list; // their tokens; null: all
    int n;
    bool narrow;

    __device__ __forceinline__ int token(int i) const { return list ? list[i] : i; }
    __device__ __forceinline__ float& logit(int i) const { return own[narrow ? i : token(i)]; }
    // `work(key)` for every candidate whose logit is a number. Loads do not wait for each other.
    template <class F> __device__ __forceinline__ void each(F work) const {
        for (int first = threadIdx.x; first < n; first += PIECE * THREADS) {
            float v[PIECE];
#pragma unroll
            for (int j = 0; j < PIECE; j++) v[j] = first + j * THREADS < n ? logit(first + j * THREADS) : __uint_as_float(0x7fffffffu);
#pragma unroll
            for (int j = 0; j < PIECE; j++) {
                if (v[j] == v[j]) work(key_of(v[j], token(first + j * THREADS)));
            }
        }
    }
};

// The bin of a logit's distance to the greatest one: the first has the greatest, the last all that are too far to have a probability.
// The rounding of either operation keeps their order.
__device__ __forceinline__ int distance(Key key, const Shared* s) {
    const float at = (s->top - logit_of(key)) * s->scale;
    return at < BINS - 1 ? static_cast<int>(at) : BINS - 1;
}

// The probability of a logit, in units: nothing below one. A call, for its code is long and its places many.
__device__ __noinline__ Key units(double x) { return x < -30.0 ? Key(0) : static_cast<Key>(exp(x) * 8796093022208.0); }
__device__ __forceinline__ Key probability(Key key, const Shared* s) {
    return units((static_cast<double>(logit_of(key)) - static_cast<double>(s->top)) / s->temperature);
}

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
    if (lane_index() == 0) s->chunks[warp_index()] = v;
    __syncthreads();
    Key total = 0;
    for (int w = 0; w < THREADS / 32; w++) total += s->chunks[w];
    __syncthreads();
    return total;
}

__device__ inline Key block_most(Key v, Shared* s) {
    for (int o = 16; o > 0; o >>= 1) {
        const Key other = __shfl_xor_sync(FULL_WARP, v, o);
        v = other > v ? other : v;
    }
    if (lane_index() == 0) s->chunks[warp_index()] = v;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) v = s->chunks[w] > v ? s->chunks[w] : v;
    __syncthreads();
    return v;
}

// Counts the candidates of `bin_of(key)`, or adds their probabilities up; keys in -1 are left out.
template <bool MASS, class B> __device__ void fill(const Candidates& all, B bin_of, Shared* s) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) s->counts[i] = 0, s->low[i] = 0, s->high[i] = 0;
    __syncthreads();
    all.each([&](Key key) {
        const int bin = bin_of(key);
        if (bin >= 0) {
            atomicAdd(&s->counts[bin], 1u);
            if (MASS) {
                const Key w = probability(key, s);
                const unsigned low = static_cast<unsigned>(w);
                const unsigned carry = atomicAdd(&s->low[bin], low) + low < low;
                const unsigned high = static_cast<unsigned>(w >> 32) + carry;
                if (high != 0) atomicAdd(&s->high[bin], high);
            }
        }
    });
    __syncthreads();
}

template <bool MASS> __device__ __forceinline__ Key sum_of(const Shared* s, int bin) {
    return MASS ? static_cast<Key>(s->high[bin]) << 32 | s->low[bin] : s->counts[bin];
}

// The first bin at which `before` and the sums of the bins reach `target`, and what comes before it: in `s`.
template <bool MASS> __device__ __forceinline__ void locate(Key before, Key target, Shared* s) {
    const int warp = warp_index(), lane = lane_index();
    Key part = 0;
    for (int i = lane; i < CHUNK; i += 32) part += sum_of<MASS>(s, warp * CHUNK + i);
    part = warp_sum(part);
    if (lane == 0) s->chunks[warp] = part;
    __syncthreads();
    if (warp == 0) {
        int chunk = 0;
        while (chunk + 1 < THREADS / 32 && before + s->chunks[chunk] < target) before += s->chunks[chunk++];
        constexpr int OWN = CHUNK / 32;
        int bin = chunk * CHUNK + lane * OWN;
        Key own = 0;
        for (int i = 0; i < OWN; i++) own += sum_of<MASS>(s, bin + i);
        Key upto = own;
        for (int o = 1; o < 32; o <<= 1) {
            const Key other = __shfl_up_sync(FULL_WARP, upto, o);
            upto += lane >= o ? other : 0;
        }
        const unsigned there = __ballot_sync(FULL_WARP, before + upto >= target);
        if (there != 0 && lane == __ffs(there) - 1) {
            before += upto - own;
            const int last = bin + OWN - 1;
            while (bin < last && before + sum_of<MASS>(s, bin) < target) before += sum_of<MASS>(s, bin++);
            s->bin = bin, s->before = before, s->count = static_cast<int>(s->counts[bin]);
        }
    }
    __syncthreads();
}

// What is known of the candidates from choice to choice.
struct Known {
    bool closed; // the list has all that can still be chosen
    bool filled; // bins hold probabilities by distance
    int n;       // keys listed
};

// The first key, in descending order from the greatest, at which the sum of probabilities (of ones without MASS) reaches `target`;
// there must be one, and later targets lie no further. `s->reached` is that sum.
template <bool MASS> __device__ Key select(const Candidates& all, Key target, Known* known, Shared* s) {
    Key before = 0;
    if (!known->closed) {
        if (!known->filled) fill<MASS>(all, [&](Key key) { return distance(key, s); }, s);
        known->filled = MASS;
        locate<MASS>(0, target, s);
        const int bin = s->bin;
        int count = s->count, upto = 0;
        before = s->before;
        for (int i = threadIdx.x; i <= bin; i += THREADS) upto += static_cast<int>(s->counts[i]);
        upto = static_cast<int>(block_sum_of(static_cast<Key>(upto), s));
        known->closed = upto <= LIST;
        if (known->closed) before = 0, count = upto;
        // Eleven bits a digit, the last has nine.
        Key prefix = 0, mask = 0;
        for (int shift = 53; count > LIST; shift = shift > 11 ? shift - 11 : 0) {
            const Key ones = (Key(1) << (shift == 0 ? 9 : 11)) - 1;
            auto digit = [&](Key key) {
                const bool in = distance(key, s) == bin && (key & mask) == prefix;
                return in ? static_cast<int>(ones - (key >> shift & ones)) : -1;
            };
            fill<MASS>(all, digit, s);
            locate<MASS>(before, target, s);
            before = s->before, count = s->count;
            prefix |= (ones - s->bin) << shift;
            mask |= ones << shift;
            known->filled = false;
        }
        known->n = count;
        const int least = known->closed ? 0 : bin;
        all.each([&](Key key) {
            const int own = distance(key, s);
            if (own >= least && own <= bin && (key & mask) == prefix) s->list[atomicAdd(&s->listed, 1)] = key;
        });
        __syncthreads();
    }
    for (int i = threadIdx.x; i < known->n; i += THREADS) s->weights[i] = MASS ? probability(s->list[i], s) : Key(1);
    if (threadIdx.x == 0) s->listed = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < known->n; i += THREADS) {
        const Key own = s->list[i];
        Key above = before;
        for (int j = 0; j < known->n; j++) above += s->list[j] > own ? s->weights[j] : 0;
        if (above < target && target <= above + s->weights[i]) s->found = own, s->reached = above + s->weights[i];
    }
    __syncthreads();
    return s->found;
}

} // namespace choice

// `tokens [asks]`, -1 where there is no candidate or no logit is a number. `logits [., vocab]`, `some [.]`; both are changed (cap,
// biases and penalty are applied in place). Launch: grid asks, 512 threads, 41,272 bytes of shared memory.
extern "C" __global__ void __launch_bounds__(512) decoder_choose(int* tokens, float* logits, float* some, const TokenAsk* asks,
                                                                 const int* allowed, const int* seen, const float* biases, int vocab,
                                                                 float cap) {
    using namespace choice;
    LUMOS_SHARED(Shared, s);
    const TokenAsk ask = asks[blockIdx.x];
    if (threadIdx.x == 0) s->listed = 0;
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
    if (threadIdx.x == 0) {
        s->top = logit_of(most), s->temperature = ask.temperature;
        s->scale = fminf((BINS - 1) / (30.0f * ask.temperature), 1e30f);
    }
    count = block_sum_of(count, s);
    const float top = logit_of(most);
    Key chosen = most;
    if (count > 0 && ask.temperature != 0.0f && top - top == 0.0f) {
        Known known = {false, false, 0};
        Key least = 0, mass = 0;
        if (ask.top_k != 0 && ask.top_k < count) least = select<false>(all, ask.top_k, &known, s);
        if (known.closed) {
            for (int i = threadIdx.x; i < known.n; i += THREADS) mass += s->list[i] >= least ? probability(s->list[i], s) : 0;
        } else if (least != 0) {
            all.each([&](Key key) { mass += key >= least ? probability(key, s) : 0; });
        } else {
            fill<true>(all, [&](Key key) { return distance(key, s); }, s);
            known.filled = true;
            for (int i = threadIdx.x; i < BINS; i += THREADS) mass += sum_of<true>(s, i);
        }
        Key held = block_sum_of(mass, s);
        // First the last one within `top_p`, then the one drawn.
        for (int drawn = ask.top_p < 1.0f ? 0 : 1; drawn < 2; drawn++) {
            const double share = drawn ? ask.unit * static_cast<double>(held) : ceil(static_cast<double>(ask.top_p) * static_cast<double>(held));
            const Key upto = static_cast<Key>(share) + drawn;
            chosen = select<true>(all, upto < 1 ? 1 : upto < held ? upto : held, &known, s);
            held = s->reached;
        }
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = count > 0 ? token_of(chosen) : -1;
    }
}
EXPORT_KERNEL(decoder_choose)
