//! Every setting, its type, its default and what it means. Defaults are written here and nowhere else.

mod gpu;
mod terms;
mod views;

use super::choices::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use gpu::*;
pub use terms::*;
pub use views::*;

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
    /// Name of the catalogue's column with the titles. Empty: `title`, `movie_title` or `name`.
    pub title_column: String,
    /// Name of the catalogue's column with the categories. Empty: `categories`, `category`, `class`, `genres` or `genre`.
    pub category_column: String,
    /// Name of the catalogue's column with the brand. Empty: `brand`.
    pub brand_column: String,
    /// Name of the catalogue's column with the items often bought together. Empty: `also_bought`.
    pub also_bought_column: String,
    /// Name of a column of the interactions file that says which group (silo, site) a user belongs to, for `federation.clients =
    /// "column"`; a synthetic world has `site`. Empty: no groups are read.
    pub group_column: String,
    /// Rows with the user, the item and the time of an earlier row. Without times there are none.
    pub duplicates: Duplicates,
    /// Items that a user comes back to (after `duplicates`, before the k-core).
    pub repeats: Repeats,
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
            title_column: String::new(),
            category_column: String::new(),
            brand_column: String::new(),
            also_bought_column: String::new(),
            group_column: String::new(),
            duplicates: Duplicates::Drop,
            repeats: Repeats::Keep,
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

/// The recommender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Which encoder.
    pub backbone: Backbone,
    /// Width `d` of item rows and hidden states.
    pub dim: u32,
    /// Blocks (SASRec, BERT4Rec) or layers (GRU4Rec).
    pub blocks: u32,
    /// Attention heads; must divide `dim`.
    pub heads: u32,
    /// Inner width of the feed-forward layer; 0: the backbone's own, `dim` (SASRec) or `4 dim` (BERT4Rec).
    pub ffn: u32,
    /// Dropout rate on embeddings, attention outputs and feed-forward layers, in `[0, 1)`.
    pub dropout: f32,
    /// Dropout rate on the item table itself, in `[0, 1)`: one mask a row and step, shared by inputs and candidates.
    pub item_dropout: f32,
    /// Longest input; earlier items are cut.
    pub max_len: u32,
    /// Where learned positions are counted from (SASRec, BERT4Rec).
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
            backbone: Backbone::SASREC,
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
    /// Rounds over which lambda falls linearly to 0, after which the history is contrasted with no view; 0: it stays.
    pub lambda_rounds: u32,
    /// Temperature tau.
    pub tau: f32,
    /// Hidden state that stands for the history in the contrast and for `future_targets`.
    pub anchor: Anchor,
    /// What stands for the history and for a view in the contrast.
    pub pool: Pool,
    /// Use the future view.
    pub future: bool,
    /// Use the paraphrase view.
    pub paraphrase: bool,
    /// Use the counterfactual views.
    pub counterfactual: bool,
    /// Weight of the next-item loss of the future view's items at the state that `anchor` names, beside the mean over the training
    /// positions; 0: off.
    pub future_targets: f32,
    /// Weight of the next-item loss of the paraphrase with the history's next items as targets; 0: off.
    pub paraphrase_inputs: f32,
    /// Sampled negatives of a position that are drawn from the counterfactual views instead of the catalogue; 0: off.
    pub counterfactual_negatives: u32,
    /// Terms of other crates, by name with options; see [`crate::model::objectives::register`].
    pub terms: Vec<String>,
    /// See [`MaskedSettings`].
    pub masked: MaskedSettings,
    /// See [`InBatchSettings`].
    pub in_batch: InBatchSettings,
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
            pool: Pool::Last,
            future: true,
            paraphrase: true,
            counterfactual: true,
            future_targets: 0.0,
            paraphrase_inputs: 0.0,
            counterfactual_negatives: 0,
            terms: Vec::new(),
            masked: MaskedSettings::default(),
            in_batch: InBatchSettings::default(),
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
    pub weights: ClientWeighting,
    /// Which rows are uploaded.
    pub upload_rows: UploadRows,
    /// Parameter groups that are averaged; the others stay on the client between rounds.
    pub shared: Vec<Group>,
    /// Share of a cohort that never reports back, in `[0, 1)`.
    pub dropout_rate: f32,
    /// What becomes of a client whose change is not finite or larger than 256 in some weight.
    pub on_divergence: OnDivergence,
    /// Share of a cohort that may diverge before the run ends, in `[0, 1)`. Used where `on_divergence` is `drop`.
    pub max_diverged: f32,
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
    /// How clients and server learn together: a name with options, such as `averaging`. See [`crate::federation::protocol`].
    pub protocol: String,
    /// What happens to updates, in the order in which a client applies it and backwards on the server: names with options, such as
    /// `["sign-flip share=0.1", "norm-bound bound=0.5", "median"]`. See [`crate::federation::rules`].
    pub rules: Vec<String>,
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
            weights: ClientWeighting::Equal,
            upload_rows: UploadRows::Trained,
            shared: vec![Group::Items, Group::Encoder],
            dropout_rate: 0.0,
            on_divergence: OnDivergence::Drop,
            max_diverged: 0.1,
            server: ServerOptimizer::Sgd,
            server_lr: 1.0,
            server_momentum: 0.0,
            server_beta2: 0.99,
            server_eps: 1e-3,
            protocol: "averaging".into(),
            rules: Vec::new(),
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
    /// Items that are never recommended, in evaluation, in `lumos recommend` and in the future view alike.
    pub mask: Mask,
}

impl Default for EvalSettings {
    fn default() -> Self {
        EvalSettings { every: 10, k: vec![5, 10, 20], select: "HR@20".into(), patience: 0, users: 0, mask: Mask::History }
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
