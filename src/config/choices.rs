//! Settings that choose among names.

use super::choice::{choice, open_choice};

choice! {
    /// What becomes of a row with the user, the item and the time of an earlier one.
    Duplicates {
        /// It is dropped and counted.
        Drop = "drop",
        /// It stays.
        Keep = "keep",
        /// It is an error.
        Refuse = "refuse",
    }
}
choice! {
    /// What becomes of an interaction with an item that its user had met before.
    Repeats {
        /// It stays.
        Keep = "keep",
        /// Only a user's first interaction with an item stays.
        First = "first",
        /// It is dropped where the user's last interaction was with the same item.
        Consecutive = "consecutive",
    }
}
choice! {
    /// Which interactions are trained on, validated on and tested on.
    SplitRule {
        /// A user's last item is the test's, the one before it the validation's.
        LeaveOneOut = "leave-one-out",
        /// Two moments for all users: what lies before the first is trained on; a user's first item from then on is the validation's, and the first
        /// one from the second moment on the test's.
        Time = "time",
        /// Shares of each user's sequence: the first item of the validation's share and of the test's are the targets.
        Ratio = "ratio",
    }
}
choice! {
    /// How the clients of a round are drawn.
    CohortSampling {
        /// A fixed number of them, without replacement.
        Fixed = "fixed",
        /// Each by itself, with the probability that makes the fixed number their mean.
        Poisson = "poisson",
    }
}
choice! {
    /// Who adds the noise of user-level privacy.
    NoiseBy {
        /// The server, to the sum that it has seen.
        Server = "server",
        /// Each client a share of it, to what it adds to a secure sum: the server never sees a sum without noise.
        Clients = "clients",
    }
}
choice! {
    /// How often items were met, as far as the method may know it.
    CountsUse {
        /// As it is: data of users, outside any promise of privacy.
        Exact = "exact",
        /// As a sum with normal noise, to which each user adds no more than a clip.
        Noisy = "noisy",
        /// Not at all: every item counts as often as any other.
        None = "none",
    }
}
choice! {
    /// What becomes of a client that diverges.
    OnDivergence {
        /// It is left out of the round and counted, unless `federation.max_diverged` is exceeded.
        Drop = "drop",
        /// The run ends.
        Stop = "stop",
    }
}
choice! {
    /// Where learned positions are counted from.
    Positions {
        /// The first item of the input has position 0.
        First = "first",
        /// The last item of the input has the last position, whatever the input's length: the place where all
        /// recommendations are made is met in every training sequence.
        Last = "last",
    }
}
choice! {
    /// What a block's residual connections carry (SASRec).
    Residual {
        /// The block's input, as in pre-norm transformers.
        Input = "input",
        /// The normed input, as in SASRec's published code.
        Normed = "normed",
    }
}
choice! {
    /// How weight matrices start. Tables always start normal with `model.init_std`, biases at 0, gains at 1.
    InitWeights {
        /// Normal with `model.init_std`.
        Normal = "normal",
        /// Normal with standard deviation `sqrt(2 / (in + out))` (Glorot and Bengio, AISTATS 2010).
        Xavier = "xavier",
    }
}
choice! {
    /// The next-item loss at every training position.
    RecLoss {
        /// Binary cross-entropy with sampled negatives (SASRec).
        Bce = "bce",
        /// Softmax over the positive and the sampled negatives.
        SampledSoftmax = "sampled-softmax",
        /// Generalised BCE (gSASRec, Petrov and Macdonald, RecSys 2023).
        Gbce = "gbce",
        /// Softmax over the whole catalogue.
        Softmax = "softmax",
    }
}
choice! {
    /// What a sequence is trained on.
    Examples {
        /// The next item at every position of its last `model.max_len` items, in one pass (SASRec).
        Positions = "positions",
        /// Each item from its second on is the target of one example, whose input is the items before it, as a sequence of its own (RecBole, GRU4Rec). A history
        /// of n items is about n / 2 times as much work.
        Prefixes = "prefixes",
    }
}
choice! {
    /// The contrast between a history and its views.
    Contrast {
        /// No contrastive term.
        None = "none",
        /// One partition function over all views: the literal reading of the paper's summary.
        Joint = "joint",
        /// Each positive against the counterfactuals alone.
        Decoupled = "decoupled",
    }
}
choice! {
    /// How often a client draws its negatives.
    Resample {
        /// Once a visit for each position: the same negatives in every local epoch.
        Visit = "visit",
        /// Once a visit for all positions together: few item rows go down and up.
        Shared = "shared",
        /// Anew in every local epoch.
        Epoch = "epoch",
    }
}
choice! {
    /// Which hidden state stands for the history in the contrast (ours; the paper is silent).
    Anchor {
        /// The whole training sequence is encoded, its last item included. No next item is known there: with `model.positions = "last"` the
        /// position of all recommendations is then trained by the contrast alone.
        History = "history",
        /// Only the inputs of next-item training: all but the last item.
        Input = "input",
    }
}
choice! {
    /// The client's optimiser; its state is fresh at every visit.
    LocalOptimizer {
        /// Adam (Kingma and Ba, ICLR 2015); weight decay is added to the gradient.
        Adam = "adam",
        /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).
        Adamw = "adamw",
        /// Plain gradient descent.
        Sgd = "sgd",
        /// Gradient descent with momentum `local.beta1`, which begins at zero.
        Momentum = "momentum",
        /// Adagrad (Duchi et al., JMLR 2011) with `local.eps` beside the root. A position row counts the steps that did not reach it as if they had
        /// been as large as the others on average.
        Adagrad = "adagrad",
        /// Gradient descent whose rate for each weight is divided by the root of the server's second moment, as the round begins with it, plus
        /// `local.eps`. The server sends its second moments down beside the weights. In the manner of FedAdamW (arXiv 2510.27486), without moments of
        /// the client's own. Needs a server that keeps second moments.
        Preconditioned = "preconditioned",
    }
}
choice! {
    /// The denominator of an item row's average.
    Average {
        /// The clients of the cohort that trained the row.
        PerItem = "per-item",
        /// The whole cohort: the literal mean.
        Cohort = "cohort",
    }
}
choice! {
    /// What the server's epsilon is held against.
    EpsUnit {
        /// The averaged change.
        Mean = "mean",
        /// The change of one client: epsilon is divided by what the clients of the round weigh together, which is what one of them adds to a mean over
        /// the cohort. The same value then means the same for any size of the cohort.
        Client = "client",
    }
}
choice! {
    /// The weight of a client in the average.
    ClientWeighting {
        /// One client, one vote.
        Equal = "equal",
        /// By the number of training positions.
        Examples = "examples",
    }
}
choice! {
    /// Which item rows a client uploads.
    UploadRows {
        /// Rows of the history, its targets and the sampled negatives; rows met only in a view stay.
        Trained = "trained",
        /// Every row that changed.
        Touched = "touched",
    }
}
choice! {
    /// What the server does with the averaged change.
    ServerOptimizer {
        /// Adds it, scaled by `federation.server_lr`, with momentum (FedAvg, FedAvgM).
        Sgd = "sgd",
        /// FedAdam (Reddi et al., ICLR 2021).
        Fedadam = "fedadam",
        /// FedAdagrad (the same): second moments are sums and never forget.
        Fedadagrad = "fedadagrad",
        /// FedYogi (the same): second moments fall as slowly as they rise.
        Fedyogi = "fedyogi",
    }
}
impl ServerOptimizer {
    /// Whether it keeps second moments.
    pub fn adapts(self) -> bool {
        self != ServerOptimizer::Sgd
    }

    /// Whether they forget: those of FedAdagrad are sums.
    pub fn forgets(self) -> bool {
        self.adapts() && self != ServerOptimizer::Fedadagrad
    }
}
choice! {
    /// A group of parameters that can be shared or private.
    Group {
        /// The item embedding table.
        Items = "items",
        /// Positions, blocks and the final norm.
        Encoder = "encoder",
    }
}
choice! {
    /// Arithmetic of linear layers on a GPU. The CPU computes in float32 whatever is chosen.
    Precision {
        /// float32.
        Fp32 = "fp32",
        /// Tensor cores on inputs rounded to TF32, sums in float32.
        Tf32 = "tf32",
        /// Tensor cores on inputs rounded to bfloat16, sums in float32.
        Bf16 = "bf16",
    }
}
choice! {
    /// How a GPU trains clients. The same arithmetic in the same order: a choice of speed.
    Resident {
        /// Resident wherever the model's weights fit a block's shared memory.
        Auto = "auto",
        /// A whole visit in one block of threads, weights in its shared memory; refused where they do not fit.
        On = "on",
        /// Step by step: each operation a launch for all clients.
        Off = "off",
    }
}
choice! {
    /// What is left out of every ranking and every list of recommendations.
    Mask {
        /// The user's history: an item that the user has met is never recommended, and a target that is one counts as a miss.
        History = "history",
        /// Nothing: for data in which users come back to items.
        None = "none",
    }
}
open_choice! {
    /// Where views come from. Others are made known by [`crate::views::register_generator`].
    GeneratorKind {
        /// No views.
        NONE = "none",
        /// The embedded catalogue generator.
        CATALOGUE = "catalogue",
        /// Uniform random items in all three views: an ablation.
        RANDOM = "random",
        /// Catalogue views with uniform random items as the counterfactual: an ablation.
        RANDOM_COUNTERFACTUAL = "random-counterfactual",
        /// Catalogue views with the history in a random order as the counterfactual: an ablation.
        HISTORY_COUNTERFACTUAL = "history-counterfactual",
        /// Catalogue views with a counterfactual out of a public pool that all clients share.
        POOL = "pool",
        /// Views from counted pairs of items, summed over all training histories: what follows an item, goes with the same items, or goes with none.
        TRANSITIONS = "transitions",
        /// Nearest items under noisy vectors of their texts as the paraphrase, random items as the counterfactual (FELLAS).
        CODEBOOK = "codebook",
        /// A language model in a local folder, `views.llm`.
        LLM = "llm",
        /// A language model behind an OpenAI-compatible endpoint, `views.served`.
        SERVED = "served",
    }
}
open_choice! {
    /// The sequence encoder. Others are made known by [`crate::model::register_backbone`].
    Backbone {
        /// Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), pre-norm blocks.
        SASREC = "sasrec",
        /// Gated recurrent units (Hidasi et al., ICLR 2016), one layer per block.
        GRU4REC = "gru4rec",
        /// Bidirectional self-attention trained on masked items (Sun et al., CIKM 2019), norms behind the residuals.
        BERT4REC = "bert4rec",
    }
}
choice! {
    /// What stands for the views of a user for whom a language model gave none.
    Fallback {
        /// The embedded catalogue generator's views.
        Catalogue = "catalogue",
        /// No view at all: the user trains without the contrast.
        None = "none",
    }
}
choice! {
    /// How items without a title take part in prompts and answers.
    Untitled {
        /// By their categories; an answer that names these means one of such items.
        Category = "category",
        /// Not at all.
        Omit = "omit",
    }
}
choice! {
    /// How a model's lines become items of the catalogue.
    Grounding {
        /// The model can write nothing but lines of the catalogue.
        Constrained = "constrained",
        /// The same, and lines are chosen by how much likelier the user makes them than the prompt without a user does.
        Calibrated = "calibrated",
        /// Free text, matched to titles by BM25.
        Retrieval = "retrieval",
    }
}
choice! {
    /// Numbers that the weights of a local language model are stored in.
    WeightType {
        /// As stored.
        Auto = "auto",
        /// float32.
        F32 = "f32",
        /// float16, on a GPU.
        F16 = "f16",
        /// bfloat16; on the CPU weights alone are rounded, arithmetic is float32.
        Bf16 = "bf16",
    }
}
choice! {
    /// What an endpoint is asked to hold the answer to. Which server knows which: `docs/views.md`.
    AnswerFormat {
        /// `response_format` with a JSON schema, a list with one string a line asked for, as OpenAI writes it.
        JsonSchema = "json-schema",
        /// `response_format` of type `json_object` with the schema beside it.
        JsonObjectSchema = "json-object-schema",
        /// `response_format` of JSON without a schema.
        JsonObject = "json-object",
        /// vLLM's `structured_outputs` with the schema, since 0.12 its only field of its own.
        StructuredOutputs = "structured-outputs",
        /// The schema in `guided_json`, for vLLM before 0.12.
        GuidedJson = "guided-json",
        /// llama.cpp's `grammar` (GBNF), which fixes the number of lines.
        Grammar = "grammar",
        /// The same grammar in SGLang's `ebnf`.
        Ebnf = "ebnf",
        /// Nothing: plain lines, as the prompt asks.
        Lines = "lines",
    }
}
