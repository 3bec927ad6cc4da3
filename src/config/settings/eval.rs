//! Evaluation.

use super::Mask;
use serde::{Deserialize, Serialize};

/// When and how a model is evaluated (always by full ranking).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Rounds between two validations; there is one after the last round as well.
    pub every: u32,
    /// Cut-offs K.
    pub k: Vec<u32>,
    /// Selection metric on validation, such as `NDCG@20`.
    pub select: String,
    /// Validations without a better one after which training stops; 0: never.
    pub patience: u32,
    /// Users ranked in a validation during training (drawn by seed); 0: all. The final test ranks all.
    pub users: u32,
    /// Items that are never recommended, in evaluation, in `lumos recommend` and in the future view alike.
    pub mask: Mask,
    /// Local epochs that each user's client trains the global model for itself before the user is ranked or recommended to, in validations as well: on
    /// its own history, at the rate of the last round and with the contrast that `loss.lambda_rounds` leaves in the end. The result is not uploaded. A
    /// ranking then costs a visit of each user that is ranked, and of each again for every further item that is sought. 0: the global model ranks as it
    /// is. For participants of one user each.
    pub local_epochs: u32,
}

impl Default for EvalSettings {
    fn default() -> Self {
        EvalSettings { every: 10, k: vec![5, 10, 20], select: "HR@20".into(), patience: 0, users: 0, mask: Mask::History, local_epochs: 0 }
    }
}
