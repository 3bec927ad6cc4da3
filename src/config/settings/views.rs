//! How views are made, and by which language model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::choices::*;

/// How views are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewSettings {
    /// Which generator.
    pub generator: GeneratorKind,
    /// Fewest items that a future appends (second-hand: 3).
    pub future_min: u32,
    /// Most items that a future appends (second-hand: 5).
    pub future_max: u32,
    /// Counterfactual sequences per user.
    pub counterfactuals: u32,
    /// Share of a paraphrase's items replaced by near substitutes.
    pub substitute: f32,
    /// Share of neighbouring pairs swapped in a paraphrase.
    pub reorder: f32,
    /// Nearest items of each item that are considered when substitutes are looked for.
    pub neighbours: u32,
    /// Seed of the generator's draws.
    pub seed: u64,
    /// What stands for the views of a user for whom a language model gave none.
    pub fallback: Fallback,
    /// Largest share of users that may fall back after they were asked; with more the build ends with an error and no views.
    pub max_failed: f32,
    /// See [`TextSettings`].
    pub text: TextSettings,
    /// See [`LlmSettings`].
    pub llm: LlmSettings,
    /// See [`ServedSettings`].
    pub served: ServedSettings,
    /// `eval.mask`, put here when settings are read: what a future may not come back to. No setting of its own.
    #[serde(skip, default = "history")]
    pub mask: Mask,
}

fn history() -> Mask {
    Mask::History
}

impl Default for ViewSettings {
    fn default() -> Self {
        ViewSettings {
            generator: GeneratorKind::CATALOGUE,
            future_min: 3,
            future_max: 5,
            counterfactuals: 1,
            substitute: 0.5,
            reorder: 0.2,
            neighbours: 20,
            seed: 1,
            fallback: Fallback::Catalogue,
            max_failed: 0.1,
            text: TextSettings::default(),
            llm: LlmSettings::default(),
            served: ServedSettings::default(),
            mask: history(),
        }
    }
}

/// The prompt of a language model and how its answer is read, for `views.generator` `llm` and `served`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSettings {
    /// Folder with `future.toml`, `paraphrase.toml` and `counterfactual.toml` in the form of `configs/prompts/`. Not set: those.
    pub prompts: Option<PathBuf>,
    /// Latest items of the history that a prompt shows.
    pub history: u32,
    /// Narrowest categories shown with a title.
    pub categories: u32,
    /// Characters of a title or a category path that are shown.
    pub title_chars: u32,
    /// How items without a title take part.
    pub untitled: Untitled,
    /// Most items that one answer names; a longer counterfactual is cut there.
    pub most_items: u32,
    /// Most tokens of a line of the answer.
    pub line_tokens: u32,
    /// Retrieval: least likeness of a line and a title, from 0 to 1 (equal words).
    pub threshold: f32,
    /// Folder of a sentence encoder (BERT: all-MiniLM, gte, bge, e5): lines go to the title nearest in meaning. Not set: by words.
    pub embedder: Option<PathBuf>,
    /// Least cosine of a line and a title where there is an encoder.
    pub embed_threshold: f32,
    /// What stands before every line and title, such as `query: ` for e5.
    pub embed_prefix: String,
}

impl TextSettings {
    /// The folder of the sentence encoder, if there is to be one.
    pub fn encoder(&self) -> Option<&std::path::Path> {
        self.embedder.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

impl Default for TextSettings {
    fn default() -> Self {
        TextSettings {
            prompts: None,
            history: 20,
            categories: 2,
            title_chars: 120,
            untitled: Untitled::Category,
            most_items: 50,
            line_tokens: 48,
            threshold: 0.5,
            embedder: None,
            embed_threshold: 0.75,
            embed_prefix: String::new(),
        }
    }
}

/// A language model in a local folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LlmSettings {
    /// Folder in the form of the Hugging Face hub (or a `.gguf` file in one).
    pub model: Option<PathBuf>,
    /// Where it computes: `auto` (the first GPU that can be used, else the CPU), `cpu`, `cuda`, `cuda:N`, or `candle` (the first GPU by
    /// candle's kernels, where built for it). The manifest says where views were made; another device does not make them anew.
    pub device: String,
    /// Numbers that weights are stored in.
    pub dtype: WeightType,
    /// Texts written at once; 0: 64, on a GPU by our own kernels up to 256 as memory allows. Never changes a text.
    pub batch: u32,
    /// How lines become items.
    pub grounding: Grounding,
    /// Begin every line of the catalogue with the mark `-` of a list (`constrained`, `calibrated`). The model has no choice about it.
    pub list_mark: bool,
    /// Sampling temperature; 0: the likeliest token every time.
    pub temperature: f32,
    /// Number of the likeliest tokens to draw from (top-k); 0: all.
    pub top_k: u32,
    /// Draw from the likeliest tokens that hold this probability; 1: all.
    pub top_p: f32,
    /// Penalty on tokens that were there already; 1: none.
    pub repetition_penalty: f32,
}

impl Default for LlmSettings {
    fn default() -> Self {
        LlmSettings {
            model: None,
            device: "auto".into(),
            dtype: WeightType::Auto,
            batch: 0,
            grounding: Grounding::Constrained,
            list_mark: true,
            temperature: 0.7,
            top_k: 0,
            top_p: 0.95,
            repetition_penalty: 1.0,
        }
    }
}

/// A language model behind an OpenAI-compatible endpoint. Whoever runs it sees the titles of every user's training history: see `docs/privacy.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServedSettings {
    /// Address up to where `/chat/completions` follows, such as `http://localhost:8000/v1`. Several, with commas between them, share the
    /// questions: a server that does not answer is left out, and its work goes to the others.
    pub url: Option<String>,
    /// Name of the model at the endpoint.
    pub model: Option<String>,
    /// Environment variable that holds the key; not set: no key is sent. The key itself is never written anywhere.
    pub key_env: Option<String>,
    /// File of certificates (PEM) of those who may vouch for an `https` endpoint, such as a cluster's own authority. Not set: Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// Requests under way at once, in each process. Never changes what is asked.
    pub concurrency: u32,
    /// Seconds until a request without a whole answer counts as failed.
    pub timeout_s: f32,
    /// Times that a failed request is sent again.
    pub retries: u32,
    /// Seconds before the first repetition; twice as many before each further one, spread by chance.
    pub backoff_s: f32,
    /// Seconds for which an endpoint may put off a build (`Retry-After`) without an answer to anybody; asked for more, the build ends.
    pub longest_wait_s: f32,
    /// Most requests a minute to one address, from each process; 0: no limit.
    pub per_minute: u32,
    /// What the endpoint is asked to hold the answer to.
    pub format: AnswerFormat,
    /// Sampling temperature.
    pub temperature: f32,
    /// Draw from the likeliest tokens that hold this probability; 1: all.
    pub top_p: f32,
}

impl Default for ServedSettings {
    fn default() -> Self {
        ServedSettings {
            url: None,
            model: None,
            key_env: None,
            ca_file: None,
            concurrency: 16,
            timeout_s: 120.0,
            retries: 5,
            backoff_s: 1.0,
            longest_wait_s: 600.0,
            per_minute: 0,
            format: AnswerFormat::JsonSchema,
            temperature: 0.7,
            top_p: 0.95,
        }
    }
}
