//! What protocols have in common that train one model of their own kind in one place.

use crate::config::{Clients, Contrast, LocalOptimizer, Settings};
use crate::{Error, Result};
#[cfg(feature = "llm")]
pub use trained::{kept, rates, restored, same};

/// Refuses settings that mean nothing to `protocol`, which trains by one of `optimizers`.
///
/// # Errors
/// [`Error::Setting`] with what is wanted.
pub fn suits(settings: &Settings, protocol: &str, optimizers: &[LocalOptimizer]) -> Result<()> {
    let refuse = |key: &str, value: &str, wanted: &str| {
        let message = format!("is {value}, and federation.protocol = \"{protocol}\" {wanted}; set method={protocol} for all it needs");
        Err(Error::setting(key, message))
    };
    if settings.federation.clients != Clients::One {
        return refuse("federation.clients", &settings.federation.clients.to_string(), "trains on all histories in one place: wanted one");
    }
    if settings.loss.contrast != Contrast::None {
        return refuse("loss.contrast", settings.loss.contrast.name(), "looks at no views: wanted none");
    }
    if let Some(term) = settings.loss.terms.first() {
        return refuse("loss.terms", &format!("[\"{term}\", ..]"), "has its own loss: wanted none");
    }
    let loss = &settings.loss;
    for (key, value) in [
        ("loss.in_batch.weight", loss.in_batch.weight),
        ("loss.future_targets", loss.future_targets),
        ("loss.paraphrase_inputs", loss.paraphrase_inputs),
        ("loss.smoothing", loss.smoothing),
        ("loss.popularity", loss.popularity),
        ("model.item_dropout", settings.model.item_dropout),
    ] {
        if value != 0.0 {
            return refuse(key, &value.to_string(), "has its own model and loss: wanted 0");
        }
    }
    if let Some(rule) = settings.federation.rules.first() {
        return refuse("federation.rules", &format!("[\"{rule}\", ..]"), "uploads nothing that a rule could change: wanted none");
    }
    if !optimizers.contains(&settings.local.optimizer) {
        let names: Vec<&str> = optimizers.iter().map(|optimizer| optimizer.name()).collect();
        let wanted = format!("trains by {}: wanted that", names.join(" or "));
        return refuse("local.optimizer", settings.local.optimizer.name(), &wanted);
    }
    Ok(())
}

/// What is trained on candle's tensors.
#[cfg(feature = "llm")]
mod trained {
    use crate::cluster::Reduce;
    use crate::config::{LocalOptimizer, LocalSettings};
    use crate::engine::{NamedTensor, TensorData, Tensors};
    use crate::llm::tune::{Optimiser, Rates};
    use crate::{Error, Result};

    /// The constants of a step that `local` asks for, its rate times `factor`.
    pub fn rates(local: &LocalSettings, factor: f64) -> Rates {
        Rates {
            lr: factor * f64::from(local.lr),
            betas: [local.beta1.into(), local.beta2.into()],
            eps: local.eps.into(),
            weight_decay: local.weight_decay.into(),
            decoupled: local.optimizer == LocalOptimizer::Adamw,
            clip: local.clip.into(),
        }
    }

    /// Refuses to go on where the processes of `reduce` have not trained the same bits, as on processors of different kinds.
    ///
    /// # Errors
    /// [`Error::Cluster`] then, and where the transport fails.
    pub fn same(reduce: &dyn Reduce, optimiser: &Optimiser) -> Result<()> {
        if reduce.size() == 1 {
            return Ok(());
        }
        let mut digest = 0;
        for (_, _, values) in optimiser.values()? {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            digest = crc32c::crc32c_append(digest, &bytes);
        }
        let all = reduce.gather(&digest.to_le_bytes())?;
        match all.iter().position(|other| other != &all[0]) {
            Some(rank) => {
                let message = format!(
                    "{} has trained other weights than {}: train on processors of one kind, or in one process",
                    reduce.name(rank),
                    reduce.name(0)
                );
                Err(Error::Cluster(message))
            }
            None => Ok(()),
        }
    }

    fn steps(protocol: &str) -> String {
        format!("{protocol}.steps")
    }

    /// All that is trained, with its moments, as tensors of a checkpoint.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn kept(protocol: &str, optimiser: &Optimiser) -> Result<Vec<NamedTensor>> {
        let named = |(name, shape, values)| NamedTensor { name: format!("{protocol}.{name}"), shape, data: TensorData::F32(values) };
        let mut out: Vec<NamedTensor> = optimiser.tensors()?.into_iter().map(named).collect();
        out.push(NamedTensor { name: steps(protocol), shape: vec![1], data: TensorData::U64(vec![optimiser.steps]) });
        Ok(out)
    }

    /// Takes back what [`kept`] gave.
    ///
    /// # Errors
    /// [`Error::Usage`] for a tensor that is missing or does not fit. Nothing has changed then.
    pub fn restored(protocol: &str, optimiser: &mut Optimiser, tensors: &Tensors) -> Result<()> {
        let &[steps] = tensors.u64(&steps(protocol), &[1])? else {
            return Err(Error::Usage(format!("checkpoint: tensor `{}` is damaged", steps(protocol))));
        };
        optimiser.restore(steps, |name, shape| tensors.f32(&format!("{protocol}.{name}"), shape))
    }
}
