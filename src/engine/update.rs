//! One client's update as a value: what a visit gives back, what crosses the wire, what a rule may change.

use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::Reduce;
use crate::{Error, Result};

/// The change of the global weights that one client uploads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Client index.
    pub client: u32,
    /// Weight in the average.
    pub weight: u32,
    /// Change of the dense weights `[P]`; empty where the encoder is private.
    pub dense: Vec<f32>,
    /// Items whose rows follow `[R]`.
    pub items: Vec<u32>,
    /// Changes of those rows `[R, d]`.
    pub rows: Vec<f32>,
}

impl Update {
    /// Empties the update for `client`; its memory stays.
    pub fn begin(&mut self, client: u32, weight: u32) {
        (self.client, self.weight) = (client, weight);
        self.dense.clear();
        self.items.clear();
        self.rows.clear();
    }

    /// Sets the change of the dense weights.
    pub fn set_dense(&mut self, before: &[f32], after: &[f32]) {
        self.dense.clear();
        self.dense.extend(after.iter().zip(before).map(|(a, b)| a - b));
    }

    /// Appends the change of the row of `item`.
    pub fn push_row(&mut self, item: u32, before: &[f32], after: &[f32]) {
        self.items.push(item);
        self.rows.extend(after.iter().zip(before).map(|(a, b)| a - b));
    }

    /// Every number of the update, dense weights first.
    pub fn values(&self) -> impl Iterator<Item = &f32> {
        self.dense.iter().chain(&self.rows)
    }

    /// Euclidean norm over dense weights and rows together.
    pub fn norm(&self) -> f64 {
        (sum_of_squares(&self.dense) + sum_of_squares(&self.rows)).sqrt()
    }

    /// Euclidean norms of the dense weights and of the rows.
    pub fn norms(&self) -> [f64; 2] {
        [sum_of_squares(&self.dense).sqrt(), sum_of_squares(&self.rows).sqrt()]
    }

    /// Multiplies every number by `factor`.
    pub fn scale(&mut self, factor: f32) {
        self.dense.iter_mut().chain(&mut self.rows).for_each(|x| *x *= factor);
    }
}

/// Sum of the squares of `values`, by sixteen sums that the processor adds side by side.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    let (whole, rest) = values.as_chunks::<16>();
    for part in whole {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    sums.iter().sum()
}

/// The updates of all processes in the place of those of this one, in no promised order.
///
/// # Errors
/// Where the transport fails, or gives what no process has sent.
pub fn gather(updates: &mut Vec<Update>, reduce: &dyn Reduce) -> Result<()> {
    let mut parcel = Parcel::new();
    for Update { client, weight, dense, items, rows } in updates.drain(..) {
        parcel = parcel.words(&[client, weight]).floats(&dense).words(&items).floats(&rows);
    }
    for bytes in reduce.gather(&parcel.into_bytes())? {
        let mut pieces = Pieces::of(&bytes);
        while !pieces.is_empty() {
            let update = read(&mut pieces).ok_or_else(|| Error::Cluster("an update of another process came damaged".into()))?;
            updates.push(update);
        }
    }
    Ok(())
}

fn read(pieces: &mut Pieces) -> Option<Update> {
    let [client, weight] = pieces.words()?.try_into().ok()?;
    Some(Update { client, weight, dense: pieces.floats()?, items: pieces.words()?, rows: pieces.floats()? })
}

/// The averaged change of a round, between the sums and the server's step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mean {
    /// Width `d` of an item row.
    pub d: usize,
    /// What the clients weigh together.
    pub weight: i64,
    /// Mean change of the dense weights `[P]`; empty where the encoder is private.
    pub dense: Vec<f32>,
    /// Items that any client uploaded, ascending `[S]`.
    pub items: Vec<u32>,
    /// Mean change of their rows `[S, d]`, each over the weight that `federation.average` says.
    pub rows: Vec<f32>,
    /// The uploads themselves, ascending by client, where a rule needs all of them; empty otherwise.
    pub updates: Vec<Update>,
}
