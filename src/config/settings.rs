//! Every setting, its type, its default and what it means. Defaults are written here and nowhere else.

use super::choices::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the data comes from and how it is prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// Name of the data set, used in tables and folder names.
    pub name: String,
    /// Source format: `recbole`, `csv` or `synthetic`.
    pub format: String,
    /// Interactions file (`recbole`, `csv`). A relative path is looked up from the working folder, then under
    /// `$LUMOS_DATA`, then under `../shared/data`.
    pub inter: Option<PathBuf>,
    /// Catalogue file, optional.
    pub items: Option<PathBuf>,
    /// Folder of the prepared data set. Empty: `data/<name>` under the working folder.
    pub dir: Option<PathBuf>,
    /// Names of the user, item and time columns (`csv`); typed names without the type (`recbole`).
    pub user_column: String,
    /// See `user_column`.
    pub item_column: String,
    /// See `user_column`. Empty: file order.
    pub time_column: String,
    /// Iterated k-core: users and items with fewer interactions are removed until none is left. 0: off.
    pub k_core: u32,
    /// Users with fewer interactions are dropped (after the k-core).
    pub min_length: u32,
    /// Only the last so many interactions of a user are kept; 0: all.
    pub max_length: u32,
    /// Synthetic world: number of users.
    pub synth_users: u32,
    /// Synthetic world: number of items.
    pub synth_items: u32,
    /// Synthetic world: mean interactions of a user.
    pub synth_mean_length: f32,
    /// Synthetic world: seed.
    pub synth_seed: u64,
}

impl Default for DataSettings {
    fn default() -> Self {
        DataSettings {
            name: "synthetic".into(),
            format: "synthetic".into(),
            inter: None,
            items: None,
            dir: None,
            user_column: "user_id".into(),
            item_column: "item_id".into(),
            time_column: "timestamp".into(),
            k_core: 0,
            min_length: 5,
            max_length: 0,
            synth_users: 2000,
            synth_items: 800,
            synth_mean_length: 12.0,
            synth_seed: 1,
        }
    }
}

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
    /// Nearest items kept per item when substitutes are looked for.
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
}

impl Default for ViewSettings {
    fn default() -> Self {
        ViewSettings {
            generator: GeneratorKind::Catalogue,
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
        }
    }
}

/// What a language model is told and how its answer is read, for `views.generator` `llm` and `served`.
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
    /// Numbers that weights are kept in.
    pub dtype: WeightType,
    /// Texts written at once. Never changes a text.
    pub batch: u32,
    /// How lines become items.
    pub grounding: Grounding,
    /// Sampling temperature; 0: the likeliest token every time.
    pub temperature: f32,
    /// Draw from the likeliest so many tokens; 0: all.
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
            batch: 64,
            grounding: Grounding::Constrained,
            temperature: 0.7,
            top_k: 0,
            top_p: 0.95,
            repetition_penalty: 1.0,
        }
    }
}

/// A language model behind an OpenAI-compatible endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServedSettings {
    /// Address up to where `/chat/completions` follows, such as `http://localhost:8000/v1`.
    pub url: Option<String>,
    /// Name of the model at the endpoint.
    pub model: Option<String>,
    /// Environment variable that holds the key; not set: no key is sent. The key itself is never written anywhere.
    pub key_env: Option<String>,
    /// Requests under way at once. Never changes what is asked.
    pub concurrency: u32,
    /// Seconds until a request without a whole answer counts as failed.
    pub timeout_s: f32,
    /// Times that a failed request is sent again.
    pub retries: u32,
    /// Seconds before the first repetition; twice as many before each further one, spread by chance.
    pub backoff_s: f32,
    /// Most requests a minute; 0: no limit.
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
            concurrency: 16,
            timeout_s: 120.0,
            retries: 5,
            backoff_s: 1.0,
            per_minute: 0,
            format: AnswerFormat::JsonSchema,
            temperature: 0.7,
            top_p: 0.95,
        }
    }
}

/// The recommender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Which encoder.
    pub backbone: Backbone,
    /// Width `d` of item rows and hidden states.
    pub dim: u32,
    /// Blocks (SASRec) or layers (GRU4Rec).
    pub blocks: u32,
    /// Attention heads; must divide `dim`.
    pub heads: u32,
    /// Inner width of the feed-forward layer; 0: `dim`.
    pub ffn: u32,
    /// Dropout rate on embeddings, attention outputs and feed-forward layers, in `[0, 1)`.
    pub dropout: f32,
    /// Dropout rate on the item table itself, in `[0, 1)`: one mask a row and step, shared by inputs and candidates.
    pub item_dropout: f32,
    /// Longest input; earlier items are cut.
    pub max_len: u32,
    /// Where learned positions are counted from (SASRec).
    pub positions: Positions,
    /// What residual connections carry (SASRec).
    pub residual: Residual,
    /// Standard deviation of initial weights and rows.
    pub init_std: f32,
    /// How weight matrices start.
    pub init_weights: InitWeights,
    /// Multiply item rows by `sqrt(d)` at the input.
    pub scale_items: bool,
}

impl ModelSettings {
    /// What [`crate::backend::Step::align`] has to be for this model.
    pub fn align(&self) -> u32 {
        if self.positions == Positions::Last { self.max_len } else { 0 }
    }
}

impl Default for ModelSettings {
    fn default() -> Self {
        ModelSettings {
            backbone: Backbone::Sasrec,
            dim: 64,
            blocks: 2,
            heads: 1,
            ffn: 0,
            dropout: 0.0,
            item_dropout: 0.0,
            max_len: 50,
            positions: Positions::First,
            residual: Residual::Input,
            init_std: 0.02,
            init_weights: InitWeights::Normal,
            scale_items: true,
        }
    }
}

/// The objective of one client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSettings {
    /// Next-item loss.
    pub rec: RecLoss,
    /// Sampled negatives per position (ignored by `softmax`).
    pub negatives: u32,
    /// How often negatives are drawn.
    pub resample: Resample,
    /// Calibration `t` of gBCE in `[0, 1]`.
    pub gbce_t: f32,
    /// Form of the contrastive term.
    pub contrast: Contrast,
    /// Weight lambda of the contrastive term.
    pub lambda: f32,
    /// Rounds over which lambda falls linearly to 0, after which no view is trained on; 0: it stays.
    pub lambda_rounds: u32,
    /// Temperature tau.
    pub tau: f32,
    /// Hidden state that stands for the history.
    pub anchor: Anchor,
    /// Use the future view.
    pub future: bool,
    /// Use the paraphrase view.
    pub paraphrase: bool,
    /// Use the counterfactual views.
    pub counterfactual: bool,
}

impl LossSettings {
    /// Weight of the contrastive term in `round` (counted from 1).
    pub fn lambda_at(&self, round: u64) -> f32 {
        match u64::from(self.lambda_rounds) {
            0 => self.lambda,
            n => self.lambda * ((n + 1).saturating_sub(round).min(n) as f32 / n as f32),
        }
    }
}

impl Default for LossSettings {
    fn default() -> Self {
        LossSettings {
            rec: RecLoss::Bce,
            negatives: 1,
            resample: Resample::Epoch,
            gbce_t: 0.75,
            contrast: Contrast::Decoupled,
            lambda: 0.02,
            lambda_rounds: 0,
            tau: 0.5,
            anchor: Anchor::History,
            future: true,
            paraphrase: true,
            counterfactual: true,
        }
    }
}

/// Training on one client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSettings {
    /// Local epochs of a visit.
    pub epochs: u32,
    /// Optimiser.
    pub optimizer: LocalOptimizer,
    /// Learning rate.
    pub lr: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Clip of a step's gradient norm over all of a client's parameters; 0: off.
    pub clip: f32,
    /// Adam's first decay rate.
    pub beta1: f32,
    /// Adam's second decay rate.
    pub beta2: f32,
    /// Adam's epsilon.
    pub eps: f32,
    /// Sequences in a mini-batch where a client holds many.
    pub batch: u32,
}

impl Default for LocalSettings {
    fn default() -> Self {
        LocalSettings {
            epochs: 5,
            optimizer: LocalOptimizer::Adam,
            lr: 1e-2,
            weight_decay: 0.0,
            clip: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            batch: 128,
        }
    }
}

/// Who trains when, and how updates are put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSettings {
    /// Who is a client.
    pub clients: Clients,
    /// Share of the clients drawn for a round, in `(0, 1]`. Used when `cohort` is 0.
    pub fraction: f32,
    /// Number of clients drawn for a round; 0: use `fraction`.
    pub cohort: u32,
    /// Rounds.
    pub rounds: u32,
    /// Denominator of item rows.
    pub average: Average,
    /// Weight of a client.
    pub weights: Weights,
    /// Which rows are uploaded.
    pub upload_rows: UploadRows,
    /// Parameter groups that are averaged; the others stay on the client between rounds.
    pub shared: Vec<Group>,
    /// Share of a cohort that never reports back, in `[0, 1)`.
    pub dropout_rate: f32,
    /// Server optimiser.
    pub server: ServerOptimizer,
    /// Server learning rate.
    pub server_lr: f32,
    /// Momentum of server SGD, or FedAdam's first decay rate.
    pub server_momentum: f32,
    /// FedAdam's second decay rate.
    pub server_beta2: f32,
    /// FedAdam's adaptivity tau.
    pub server_eps: f32,
    /// Megabytes of private client state kept in memory; beyond it the state is kept on disk in the run folder.
    pub private_memory_mb: u32,
}

impl Default for FederationSettings {
    fn default() -> Self {
        FederationSettings {
            clients: Clients::User,
            fraction: 0.1,
            cohort: 0,
            rounds: 100,
            average: Average::PerItem,
            weights: Weights::Equal,
            upload_rows: UploadRows::Trained,
            shared: vec![Group::Items, Group::Encoder],
            dropout_rate: 0.0,
            server: ServerOptimizer::Sgd,
            server_lr: 1.0,
            server_momentum: 0.0,
            server_beta2: 0.99,
            server_eps: 1e-3,
            private_memory_mb: 1024,
        }
    }
}

/// When and how a model is evaluated (always by full ranking).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Evaluate on validation every so many rounds (and after the last).
    pub every: u32,
    /// Cut-offs K.
    pub k: Vec<u32>,
    /// Selection metric on validation, such as `NDCG@20`.
    pub select: String,
    /// Stop after so many evaluations without a better one; 0: never.
    pub patience: u32,
    /// Rank only so many users during training (the first drawn by seed); 0: all. The final test uses all.
    pub users: u32,
}

impl Default for EvalSettings {
    fn default() -> Self {
        EvalSettings { every: 10, k: vec![5, 10, 20], select: "HR@20".into(), patience: 0, users: 0 }
    }
}

/// How a GPU is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuSettings {
    /// Whether a client's visit stays in one multiprocessor.
    pub resident: Resident,
}

impl Default for GpuSettings {
    fn default() -> Self {
        GpuSettings { resident: Resident::Auto }
    }
}

/// Widest item rows of a client that is resident in one block of threads.
pub const RESIDENT_DIM: u32 = 64;
/// Most local epochs of one.
pub const RESIDENT_EPOCHS: u32 = 256;

impl Settings {
    /// Why clients cannot be resident in one block of threads with these settings, whatever the GPU.
    pub fn unfit_to_reside(&self) -> Option<String> {
        let (d, f) = (self.model.dim, if self.model.ffn == 0 { self.model.dim } else { self.model.ffn });
        let wide = || format!("model.dim is {d}, at most {RESIDENT_DIM} is possible");
        let odd = || format!("model.dim is {d} and the feed-forward layer {f} wide, both must be multiples of 4");
        match self {
            s if s.model.backbone != Backbone::Sasrec => Some("model.backbone is not `sasrec`".into()),
            _ if d > RESIDENT_DIM => Some(wide()),
            _ if d % 4 != 0 || f % 4 != 0 => Some(odd()),
            s if s.loss.rec == RecLoss::Softmax => Some("loss.rec is `softmax`, which trains every item row".into()),
            s if s.federation.clients == Clients::One => Some("federation.clients is `one`".into()),
            s if s.local.epochs > RESIDENT_EPOCHS => Some(format!("local.epochs is above {RESIDENT_EPOCHS}")),
            _ => None,
        }
    }
}

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of the method: a preset over the settings below (`lumos methods` lists them).
    pub method: String,
    /// Methods that `lumos run` trains side by side; empty: only `method`.
    pub compare: Vec<String>,
    /// Seed of every draw.
    pub seed: u64,
    /// Threads; 0: all cores. Never changes a result.
    pub threads: u32,
    /// Where clients are trained: `auto`, `cpu`, `cuda`, `cuda:N`.
    pub device: String,
    /// Arithmetic of linear layers on a GPU.
    pub precision: Precision,
    /// See [`GpuSettings`].
    pub gpu: GpuSettings,
    /// See [`DataSettings`].
    pub data: DataSettings,
    /// See [`ViewSettings`].
    pub views: ViewSettings,
    /// See [`ModelSettings`].
    pub model: ModelSettings,
    /// See [`LossSettings`].
    pub loss: LossSettings,
    /// See [`LocalSettings`].
    pub local: LocalSettings,
    /// See [`FederationSettings`].
    pub federation: FederationSettings,
    /// See [`EvalSettings`].
    pub eval: EvalSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            method: "lumos".into(),
            compare: Vec::new(),
            seed: 1,
            threads: 0,
            device: "auto".into(),
            precision: Precision::Fp32,
            gpu: GpuSettings::default(),
            data: DataSettings::default(),
            views: ViewSettings::default(),
            model: ModelSettings::default(),
            loss: LossSettings::default(),
            local: LocalSettings::default(),
            federation: FederationSettings::default(),
            eval: EvalSettings::default(),
        }
    }
}
