//! Every setting, its type, its default and what it means. Defaults are written here and nowhere else.

mod data;
mod eval;
mod federation;
mod gpu;
mod privacy;
mod robustness;
mod terms;
mod views;

use super::choices::*;
use serde::{Deserialize, Serialize};

pub use data::*;
pub use eval::*;
pub use federation::*;
pub use gpu::*;
pub use privacy::*;
pub use robustness::*;
pub use terms::*;
pub use views::*;

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
    /// What a sequence is trained on. For backbones that read forwards.
    pub examples: Examples,
    /// Sampled negatives per position (ignored by `softmax`).
    pub negatives: u32,
    /// How often negatives are drawn.
    pub resample: Resample,
    /// Power of an item's training count, plus one, that negatives are drawn by, in `[0, 1]`; 0: uniformly. The scores in the loss are then
    /// less the log of how much more often than uniformly an item is drawn (log-q). With `rec = "sampled-softmax"` alone.
    pub popularity: f32,
    /// Label smoothing, in `[0, 1)`: the share of an example's target that all of its candidates have alike. With `rec = "sampled-softmax"` alone.
    pub smoothing: f32,
    /// Calibration `t` of gBCE in `[0, 1]`.
    pub gbce_t: f32,
    /// Form of the contrastive term.
    pub contrast: Contrast,
    /// Weight lambda of the contrastive term.
    pub lambda: f32,
    /// First local epochs of a visit in which the history is contrasted with its views; 0: all. With 1 a view is encoded once a visit. The contrast
    /// that a run reports is the mean over all epochs.
    pub contrast_epochs: u32,
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
    /// Which of their states the history is kept apart from.
    pub counterfactual_states: CounterfactualStates,
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

    /// Weight in `round` of a step's contrast groups: those of the views, or those with strangers, which are never beside them.
    pub fn group_weight_at(&self, round: u64) -> f32 {
        if self.contrast_with_strangers() { self.in_batch.weight } else { self.lambda_at(round) }
    }

    /// Whether the contrast within a mini-batch has random sequences in the place of the others.
    pub fn contrast_with_strangers(&self) -> bool {
        self.in_batch.weight > 0.0 && self.in_batch.strangers > 0
    }
}

impl Default for LossSettings {
    fn default() -> Self {
        LossSettings {
            rec: RecLoss::Bce,
            examples: Examples::Positions,
            negatives: 1,
            resample: Resample::Epoch,
            popularity: 0.0,
            smoothing: 0.0,
            gbce_t: 0.75,
            contrast: Contrast::Decoupled,
            lambda: 0.02,
            contrast_epochs: 0,
            lambda_rounds: 0,
            tau: 0.5,
            anchor: Anchor::History,
            pool: Pool::Last,
            future: true,
            paraphrase: true,
            counterfactual: true,
            counterfactual_states: CounterfactualStates::Last,
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
    /// Share of the rounds, at their end, over which the rate falls linearly to nothing; 0: it stays.
    pub decay: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Weight mu of the proximal term `mu / 2 |w - w0|^2` towards the weights that the visit began with (FedProx, Li et al., MLSys 2020); 0: none.
    /// Each step ends with its exact minimiser, `w + lr mu / (1 + lr mu) (w0 - w)`.
    pub proximal: f32,
    /// Clip of a step's gradient norm over all of a client's parameters; 0: off.
    pub clip: f32,
    /// First decay rate of Adam and AdamW, and the momentum of `momentum`.
    pub beta1: f32,
    /// Second decay rate of Adam and AdamW.
    pub beta2: f32,
    /// Epsilon beside the root of the second moment: of Adam, AdamW, Adagrad and `preconditioned`.
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
            decay: 0.0,
            weight_decay: 0.0,
            proximal: 0.0,
            clip: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            batch: 128,
        }
    }
}

impl Settings {
    /// Training on one client in `round` (counted from 1), at the rate of that round; behind the last round at the last one's, so that a visit
    /// never trains nothing.
    pub fn local_at(&self, round: u64) -> LocalSettings {
        let round = round.min(self.federation.rounds.into());
        let lr = self.federation.rate_at(self.local.lr, round, 0.0, self.local.decay);
        LocalSettings { lr, decay: 0.0, ..self.local.clone() }
    }
}

impl LocalOptimizer {
    /// Whether a visit begins with the server's second moments.
    pub fn takes_second(self) -> bool {
        self == LocalOptimizer::Preconditioned
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
    /// See [`AttackSettings`].
    pub attack: AttackSettings,
    /// See [`DefenceSettings`].
    pub defence: DefenceSettings,
    /// See [`NoiseSettings`].
    pub noise: NoiseSettings,
    /// See [`PrivacySettings`].
    pub privacy: PrivacySettings,
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
            attack: AttackSettings::default(),
            defence: DefenceSettings::default(),
            noise: NoiseSettings::default(),
            privacy: PrivacySettings::default(),
            eval: EvalSettings::default(),
        }
    }
}
