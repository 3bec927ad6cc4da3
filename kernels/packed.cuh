// The packed step as kernels see it: the arrays of `backend::Step` for C clients, without padding, in device memory.
//
// A kernel takes a pointer to the step and reads every count from it, so that one captured graph serves all steps of one
// launch shape: grids are sized for the shape's largest step, and blocks beyond the counts return at once.
//
// All indices count from the start of the launch, not of the client: token `t`, output `q`, row `r` of the item table are
// unique over clients. The weights of client `c` are `dense + c * P`; its item rows are rows `client_rows[c]` to
// `client_rows[c + 1]` of one table `[R, d]`.
#pragma once

#include "common.cuh"

// Rows of an activation: `backend::Rows`.
enum RowKind : int {
    TOKENS = 0,  // every packed token, T
    OUTPUTS = 1, // the tokens whose hidden state is used, Q
};

// A tile of up to TILE_ROWS rows that belong to one client, the unit of work of grouped linear layers.
constexpr int TILE_ROWS = 32;
struct Tile {
    int client;
    int first; // first row; the last is bounded by the client's end
};

struct Packed {
    // Counts.
    int clients;       // C
    int tokens;        // T
    int sequences;     // S
    int outputs;       // Q
    int examples;      // E
    int groups;        // G
    int rows;          // R
    int width;         // candidates of an example, the positive first
    int longest;       // tokens of the longest sequence
    int token_tiles;   // tiles over tokens
    int output_tiles;  // tiles over outputs
    int position_low;  // first position that a sequence of the step may have ...
    int position_high; // ... and the one after the last
    int number;        // number of the step within the visit, from 1
    float positive_weight;   // gBCE's power on the positive's probability, or what label smoothing leaves it; 1 otherwise
    float lambda;      // weight of the contrast in this round
    int pairs;         // N
    int special;       // rows at the end of a client's table that are no items, where the table is the whole catalogue

    // Bounds of clients [C + 1] in tokens, sequences, outputs, examples, groups, pairs, item rows.
    const int* client_tokens;
    const int* client_sequences;
    const int* client_outs;
    const int* client_examples;
    const int* client_groups;
    const int* client_pairs;
    const int* client_rows;
    // The client's number in the population [C]: what its random streams are keyed by.
    const unsigned* client_id;
    // Items of the item rows [R].
    const int* row_item;

    // Tokens [T]: row of the item table, position inside the sequence, first token of the sequence, owner.
    const int* row;
    const int* position;
    const int* start;
    const int* token_client;
    // Token bounds of sequences [S + 1].
    const int* bounds;

    // Outputs [Q]: token, first token of its sequence, owner.
    const int* out_token;
    const int* out_start;
    const int* out_client;

    // Examples [E]: output; candidate rows [E, width].
    const int* example;
    const int* cands;

    // Contrast groups: members (outputs: anchor, positives, counterfactuals), bounds [G + 1], number of positives [G].
    const int* group;
    const int* group_bounds;
    const int* positives;

    // Outputs of two copies of one sequence [N, 2]; no output is in two pairs.
    const int* pair;

    // Tiles over tokens and over outputs.
    const Tile* tiles_tokens;
    const Tile* tiles_outputs;

    // What the loss of each example is multiplied by [E]; null: 1 / examples of its client.
    const float* share;
    // What is taken off each candidate's score [E, width]; null: nothing.
    const float* offset;
};
EXPORT_STRUCT(Packed)

// What differs between the two kinds of rows.
struct RowSet {
    int count;           // rows
    int tiles;           // tiles
    const int* bounds;   // of clients [C + 1]
    const int* client;   // owner of a row [count]
    const Tile* tile;    // [tiles]
};

__device__ __forceinline__ RowSet row_set(const Packed* step, int kind) {
    if (kind == TOKENS) {
        return RowSet{step->tokens, step->token_tiles, step->client_tokens, step->token_client, step->tiles_tokens};
    }
    return RowSet{step->outputs, step->output_tiles, step->client_outs, step->out_client, step->tiles_outputs};
}

// One step of the local optimiser: the coefficients of `backend::LocalStep`, computed on the host.
struct OptimiserStep {
    float beta1;
    float beta2;
    float rate;       // lr / (1 - beta1^t); lr for SGD
    float correction; // 1 / sqrt(1 - beta2^t)
    float eps;
    float l2;         // weight decay added to the gradient (Adam, SGD)
    float shrink;     // 1 - lr * weight_decay (AdamW); 1 otherwise
    float pull;       // share of the way back to the weights that the visit began with; 0: none
    int first;        // 1 at the first step of a visit: moments are taken as zero and not read
    int sgd;          // 1 for SGD: no moments
};
EXPORT_STRUCT(OptimiserStep)

// Where dropout draws from: the key of `rng::Stream` for the seed and purpose, and the round. The counter of an element is
// [index / 8, number << 8 | site, round, client] with the step's number and the client's own, index counted from the
// client's first element; see elementwise.cu for the bits. In device memory, because a captured graph serves every round.
//
// Where `own` is 1, a clock for each client of the launch lies behind this one: parts of a mini-batch of one participant, each with
// draws of its own.
struct DropoutClock {
    unsigned key_low;
    unsigned key_high;
    unsigned round;
    unsigned own;
};
EXPORT_STRUCT(DropoutClock)
