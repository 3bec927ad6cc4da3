//! The options of `ptf-fsr`, and the settings of the two models that follow from them.

use crate::config::{Clients, Contrast, LocalOptimizer, LocalSettings, ModelSettings, RecLoss, Settings};
use crate::model::ModelSpec;
use crate::{Error, Result};

use crate::base::options::Options;

/// Every option with its default.
pub const OPTIONS: &[(&str, f64)] = &[
    ("client-dim", 8.0),
    ("client-blocks", 2.0),
    ("client-heads", 1.0),
    ("client-dropout", 0.2),
    ("server-dim", 256.0),
    ("server-blocks", 2.0),
    ("server-heads", 2.0),
    ("server-dropout", 0.1),
    ("server-lr", 1e-4),
    ("server-epochs", 2.0),
    ("server-batch", 256.0),
    ("replace", 0.5),
    ("eps", 1.0),
    ("candidates", 10.0),
    ("past-weight", 0.01),
    ("past-tau", 0.2),
    ("peer-weight", 0.01),
    ("peer-tau", 0.1),
    ("peer-after", 5.0),
    ("peer-far", 0.1),
    ("rank", 0.0),
];

/// Which model and which input rank users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBy {
    /// The server's model, on what the client uploaded and the true items after it.
    Uploaded,
    /// The server's model, on the true history.
    History,
    /// The client's own model, on the true history.
    Own,
}

/// Settings of both models and constants of the protocol.
#[derive(Clone, Debug)]
pub struct Constants {
    /// Shape of a client's model.
    pub client: ModelSettings,
    /// Shape of the server's model.
    pub server: ModelSettings,
    /// Optimiser of the server.
    pub server_local: LocalSettings,
    /// Passes of the server over the uploads of a round.
    pub server_epochs: u32,
    /// Uploads of a mini-batch of the server.
    pub server_batch: usize,
    /// Probability that a position is replaced.
    pub replace: f32,
    /// Factor on scores before the softmax that replacements are drawn from.
    pub eps: f32,
    /// Perturbed sequences that an upload is chosen from.
    pub candidates: u32,
    /// Weight and temperature of the contrast with the client's upload before.
    pub past: (f32, f32),
    /// The same of the contrast among clients.
    pub peer: (f32, f32),
    /// Last round without the contrast among clients.
    pub peer_after: u64,
    /// Share of a mini-batch that are negatives in it.
    pub peer_far: f32,
    /// What ranks.
    pub rank: RankBy,
}

impl Constants {
    /// The constants that `options` ask for, beside `settings`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an option out of range and for settings that the protocol has no use for.
    pub fn read(options: &Options, settings: &Settings) -> Result<Constants> {
        let shape = |who: &str| -> Result<ModelSettings> {
            let count = |name: &str, most: u32| options.count(&format!("{who}-{name}"), 1, most);
            let (dim, heads) = (count("dim", 4096)?, count("heads", 4096)?);
            let divides = |heads: f64| dim.is_multiple_of(heads as u32);
            options.get(&format!("{who}-heads"), divides, &format!("a divisor of {who}-dim, which is {dim}"))?;
            let dropout = options.get(&format!("{who}-dropout"), |x| (0.0..1.0).contains(&x), "at least 0 and below 1 (a rate)")? as f32;
            Ok(ModelSettings { dim, heads, blocks: count("blocks", 64)?, dropout, item_dropout: 0.0, ..settings.model.clone() })
        };
        let above = |name: &str| options.get(name, |x| x > 0.0 && x <= 1e6, "above 0 and at most 1000000").map(|x| x as f32);
        let least = |name: &str| options.get(name, |x| (0.0..=1e6).contains(&x), "between 0 and 1000000").map(|x| x as f32);
        let share = |name: &str| options.get(name, |x| (0.0..=1.0).contains(&x), "from 0 to 1 (a share)").map(|x| x as f32);
        suits(settings)?;
        let local = LocalSettings { optimizer: LocalOptimizer::Adam, weight_decay: 0.0, clip: 0.0, ..settings.local.clone() };
        Ok(Constants {
            client: shape("client")?,
            server: shape("server")?,
            server_local: LocalSettings { lr: above("server-lr")?, ..local },
            server_epochs: options.count("server-epochs", 1, 1000)?,
            // The most gradients that can be added up in fixed point.
            server_batch: options.count("server-batch", 1, 1 << 16)? as usize,
            replace: share("replace")?,
            eps: least("eps")?,
            candidates: options.count("candidates", 1, 1000)?,
            past: (least("past-weight")?, above("past-tau")?),
            peer: (least("peer-weight")?, above("peer-tau")?),
            peer_after: options.count("peer-after", 0, u32::MAX)?.into(),
            peer_far: share("peer-far")?,
            rank: match options.count("rank", 0, 2)? {
                0 => RankBy::Uploaded,
                1 => RankBy::History,
                _ => RankBy::Own,
            },
        })
    }
}

/// Refuses settings that mean nothing where no weight is exchanged.
fn suits(settings: &Settings) -> Result<()> {
    let federation = &settings.federation;
    let refuse = |key: &str, value: &str, wanted: &str| {
        Err(Error::setting(
            key,
            format!("is {value}, and federation.protocol = \"ptf-fsr\" {wanted}; set method=ptf-fsr for all that it needs"),
        ))
    };
    if settings.loss.rec != RecLoss::Bce {
        return refuse("loss.rec", settings.loss.rec.name(), "trains with bce");
    }
    if settings.loss.contrast != Contrast::None {
        return refuse("loss.contrast", settings.loss.contrast.name(), "looks at no views: wanted none");
    }
    if ModelSpec::new(&settings.model).asked.is_some() {
        return refuse("model.backbone", settings.model.backbone.name(), "labels next items: wanted a backbone that reads forwards");
    }
    if federation.clients != Clients::User {
        return refuse("federation.clients", &federation.clients.to_string(), "has one client a user: wanted user");
    }
    if let Some(rule) = federation.rules.first() {
        return refuse("federation.rules", &format!("[\"{rule}\", ..]"), "uploads no updates that a rule could change: wanted none");
    }
    Ok(())
}
