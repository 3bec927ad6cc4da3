//! Settings that choose among names.

use super::names::Names;
use crate::base::names::nearest;
use serde::{Deserialize, Serialize};

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every name that the setting accepts.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as it stands in a configuration file.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    };
}

pub(super) use choice;

/// A choice to which other crates add names (see [`Names`]).
macro_rules! open_choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$cmeta:meta])* $constant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $name(&'static str);

        impl $name {
            $($(#[$cmeta])* pub const $constant: $name = $name($text);)+

            /// The names of LUMOS itself.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            fn known() -> &'static Names {
                static KNOWN: Names = Names::new($name::NAMES);
                &KNOWN
            }

            /// Every name that the setting accepts, those that were registered last.
            pub fn all() -> &'static [&'static str] {
                $name::known().all()
            }

            /// The choice of this name, if it is known.
            pub fn find(name: &str) -> Option<$name> {
                $name::all().iter().copied().find(|known| *known == name).map($name)
            }

            /// The name as it stands in a configuration file.
            pub fn name(self) -> &'static str {
                self.0
            }

            /// Makes a name known in this process, for settings that are read from now on. False where it is known already.
            pub(crate) fn register(name: &'static str) -> bool {
                $name::known().add(name)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<$name, D::Error> {
                $name::known().read(reader).map($name)
            }
        }
    };
}

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
    }
}
/// Who is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// `user`: every user is a client with one sequence.
    User,
    /// `one`: one participant holds every sequence. Centralised training with mini-batches.
    One,
    /// `groups:N`: each of N participants (silos) holds the sequences of its users and trains on them in mini-batches.
    Groups(u32),
    /// `column`: each value of `data.group_column` is a participant that holds the sequences of its users.
    Column,
}

impl std::fmt::Display for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Clients::User => f.write_str("user"),
            Clients::One => f.write_str("one"),
            Clients::Column => f.write_str("column"),
            Clients::Groups(n) => write!(f, "groups:{n}"),
        }
    }
}

impl std::str::FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Clients, String> {
        let groups = || text.strip_prefix("groups:")?.parse().ok().filter(|n| *n > 0).map(Clients::Groups);
        match text {
            "user" => Ok(Clients::User),
            "one" => Ok(Clients::One),
            "column" => Ok(Clients::Column),
            _ => groups().ok_or_else(|| {
                let hint =
                    nearest(text, ["user", "one", "groups:N", "column"]).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
                format!("\"user\", \"one\", \"groups:N\" with N of at least 1, or \"column\"{hint}")
            }),
        }
    }
}

impl Serialize for Clients {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Clients, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
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
        /// Free text, matched to titles by BM25.
        Retrieval = "retrieval",
    }
}
choice! {
    /// Numbers that a local language model is kept in.
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
        /// `response_format` with a JSON schema, a list of so many strings, as OpenAI writes it.
        JsonSchema = "json-schema",
        /// `response_format` of type `json_object` with the schema beside it.
        JsonObjectSchema = "json-object-schema",
        /// `response_format` of JSON without a schema.
        JsonObject = "json-object",
        /// vLLM's `structured_outputs` with the schema, since 0.12 its only field of its own.
        StructuredOutputs = "structured-outputs",
        /// The schema in `guided_json`, for vLLM before 0.12.
        GuidedJson = "guided-json",
        /// llama.cpp's `grammar`: so many lines.
        Grammar = "grammar",
        /// The same grammar in SGLang's `ebnf`.
        Ebnf = "ebnf",
        /// Nothing: plain lines, as the prompt asks.
        Lines = "lines",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_read_and_write() {
        for clients in [Clients::User, Clients::One, Clients::Groups(7), Clients::Column] {
            assert_eq!(clients.to_string().parse(), Ok(clients));
        }
        for (text, meant) in [("grups:4", "groups:N"), ("usr", "user"), ("groups", "groups:N")] {
            let message = text.parse::<Clients>().unwrap_err();
            assert!(message.contains(&format!("did you mean `{meant}`?")), "{text}: {message}");
        }
        for text in ["groups:0", "groups:-1", "groups:x", "groups:4294967296", ""] {
            assert!(text.parse::<Clients>().unwrap_err().contains("N of at least 1"), "{text}");
        }
    }
}
