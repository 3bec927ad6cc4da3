//! Adam over what is trained of a model (Kingma and Ba, ICLR 2015), with decoupled weight decay (Loshchilov and Hutter, ICLR 2019) or without.

use super::{Named, failed};
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight that a step takes off, times the rate; or that is added to its gradient.
    pub weight_decay: f64,
    /// Whether it is taken off (AdamW) or added to the gradient (Adam).
    pub decoupled: bool,
    /// Longest gradient over all that is trained; 0: any.
    pub clip: f64,
}

/// A tensor as it is kept.
fn named(name: String, x: &Tensor) -> candle_core::Result<Named> {
    Ok((name, x.dims().to_vec(), x.flatten_all()?.to_vec1::<f32>()?))
}

/// What is trained, with its moments.
pub struct Optimiser {
    vars: Vec<(String, Var)>,
    moments: Vec<[Tensor; 2]>,
    /// Steps so far.
    pub steps: u64,
}

impl Optimiser {
    /// Of `vars` by name, at rest.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(vars: Vec<(String, Var)>) -> Result<Optimiser> {
        let rest = |(_, var): &(String, Var)| Ok([var.zeros_like()?, var.zeros_like()?]);
        let moments = vars.iter().map(rest).collect::<candle_core::Result<_>>().map_err(failed)?;
        Ok(Optimiser { vars, moments, steps: 0 })
    }

    /// One step down `gradients`. Their norm before it was clipped.
    ///
    /// # Errors
    /// The device's.
    pub fn step(&mut self, gradients: &GradStore, rates: &Rates) -> Result<f64> {
        self.try_step(gradients, rates).map_err(failed)
    }

    fn try_step(&mut self, gradients: &GradStore, rates: &Rates) -> candle_core::Result<f64> {
        let mut square = 0.0;
        for gradient in self.vars.iter().filter_map(|(_, var)| gradients.get(var)) {
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = square.sqrt();
        let shorten = if rates.clip > 0.0 && norm > rates.clip { rates.clip / norm } else { 1.0 };
        self.steps += 1;
        let [b1, b2] = rates.betas;
        let [c1, c2] = rates.betas.map(|beta| 1.0 - beta.powf(self.steps as f64));
        for ((_, var), [first, second]) in self.vars.iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.get(var) else { continue };
            let mut gradient = (gradient.detach() * shorten)?;
            let mut shrink = 1.0;
            if rates.decoupled {
                shrink -= rates.lr * rates.weight_decay;
            } else if rates.weight_decay > 0.0 {
                gradient = (gradient + (var.as_tensor().detach() * rates.weight_decay)?)?;
            }
            *first = ((&*first * b1)? + (&gradient * (1.0 - b1))?)?;
            *second = ((&*second * b2)? + (gradient.sqr()? * (1.0 - b2))?)?;
            let size = ((&*second / c2)?.sqrt()? + rates.eps)?;
            let kept = (var.as_tensor() * shrink)?;
            var.set(&(kept - ((&*first * (rates.lr / c1))? / size)?)?.detach())?;
        }
        Ok(norm)
    }

    /// What is trained, by name.
    ///
    /// # Errors
    /// The device's.
    pub fn values(&self) -> Result<Vec<Named>> {
        self.vars.iter().map(|(name, var)| named(name.clone(), var.as_tensor()).map_err(failed)).collect()
    }

    /// What is trained and its moments, by name.
    ///
    /// # Errors
    /// The device's.
    pub fn tensors(&self) -> Result<Vec<Named>> {
        let mut all = Vec::with_capacity(3 * self.vars.len());
        for ((name, var), [first, second]) in self.vars.iter().zip(&self.moments) {
            for (name, x) in [(name.clone(), var.as_tensor()), (format!("{name}.first"), first), (format!("{name}.second"), second)] {
                all.push(named(name, x).map_err(failed)?);
            }
        }
        Ok(all)
    }

    /// Takes back what [`Optimiser::tensors`] gave; `find` gives the values of a name and shape.
    ///
    /// # Errors
    /// Those of `find`. Nothing has changed then.
    pub fn restore<'t>(&mut self, steps: u64, find: impl Fn(&str, &[usize]) -> Result<&'t [f32]>) -> Result<()> {
        let mut found = Vec::with_capacity(self.vars.len());
        for (name, var) in &self.vars {
            let mut three = Vec::with_capacity(3);
            for name in [name.clone(), format!("{name}.first"), format!("{name}.second")] {
                let values = find(&name, var.dims())?;
                three.push(Tensor::from_slice(values, var.dims(), var.device()).map_err(failed)?);
            }
            found.push(<[Tensor; 3]>::try_from(three).map_err(|_| Error::Usage("three tensors a weight".into()))?);
        }
        for (((_, var), moments), [value, first, second]) in self.vars.iter().zip(&mut self.moments).zip(found) {
            var.set(&value).map_err(failed)?;
            *moments = [first, second];
        }
        self.steps = steps;
        Ok(())
    }
}
