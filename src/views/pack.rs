//! Views as packed arrays in one safetensors file, and back with every bound checked.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{UserViews, Views};
use crate::data::Dataset;

/// Sequences, packed: sequence `s` is `items[offsets[s]..offsets[s + 1]]`.
struct Sequences {
    offsets: Vec<u64>,
    items: Vec<u32>,
}

impl Sequences {
    fn new<'a>(sequences: impl Iterator<Item = &'a [u32]>) -> Sequences {
        let mut packed = Sequences { offsets: vec![0], items: Vec::new() };
        for sequence in sequences {
            packed.items.extend_from_slice(sequence);
            packed.offsets.push(packed.items.len() as u64);
        }
        packed
    }

    fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    fn sequence(&self, index: usize) -> Vec<u32> {
        self.items[self.offsets[index] as usize..self.offsets[index + 1] as usize].to_vec()
    }

    /// Reads `<name>.offsets` and `<name>.items`; after that no index into them can be out of range.
    fn read(all: &SafeTensors, name: &str, item_count: usize) -> Result<Sequences, String> {
        let offsets = numbers(all, &format!("{name}.offsets"), Dtype::U64, u64::from_le_bytes)?;
        let items = numbers(all, &format!("{name}.items"), Dtype::U32, u32::from_le_bytes)?;
        if offsets.first() != Some(&0) || offsets.last() != Some(&(items.len() as u64)) || offsets.windows(2).any(|w| w[0] > w[1]) {
            return Err(format!("{name}.offsets does not rise from 0 to the {} items", items.len()));
        }
        match items.iter().find(|i| **i as usize >= item_count) {
            Some(item) => Err(format!("{name} names item {item} of {item_count}")),
            None => Ok(Sequences { offsets, items }),
        }
    }
}

/// The bytes of the file. The same views give the same bytes.
pub(crate) fn encode(views: &Views) -> Result<Vec<u8>, String> {
    let users = &views.users;
    let parts = [
        ("future", Sequences::new(users.iter().map(|v| v.future.as_slice()))),
        ("paraphrase", Sequences::new(users.iter().map(|v| v.paraphrase.as_slice()))),
        ("counterfactual", Sequences::new(users.iter().flat_map(|v| v.counterfactuals.iter().map(Vec::as_slice)))),
    ];
    let counts: Vec<u32> = users.iter().map(|v| v.counterfactuals.len() as u32).collect();
    let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut blobs = vec![("counterfactual.counts".to_owned(), Dtype::U32, counts.len(), words(&counts))];
    for (name, packed) in &parts {
        let offsets = packed.offsets.iter().flat_map(|v| v.to_le_bytes()).collect();
        blobs.push((format!("{name}.offsets"), Dtype::U64, packed.offsets.len(), offsets));
        blobs.push((format!("{name}.items"), Dtype::U32, packed.items.len(), words(&packed.items)));
    }
    let fail = |e: safetensors::SafeTensorError| format!("cannot write the views: {e}");
    let tensors = blobs.iter().map(|(name, dtype, n, bytes)| Ok((name.as_str(), TensorView::new(*dtype, vec![*n], bytes).map_err(fail)?)));
    safetensors::serialize(tensors.collect::<Result<Vec<_>, String>>()?, None).map_err(fail)
}

/// The views in `bytes`, checked against the numbers of users and items of `data`, and what is wrong with them otherwise.
pub(crate) fn decode(bytes: &[u8], data: &Dataset) -> Result<Views, String> {
    let all = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let read = |name| Sequences::read(&all, name, data.item_count());
    let (future, paraphrase, counterfactual) = (read("future")?, read("paraphrase")?, read("counterfactual")?);
    let counts = numbers(&all, "counterfactual.counts", Dtype::U32, u32::from_le_bytes)?;
    let users = data.users();
    if [future.sequences(), paraphrase.sequences(), counts.len()] != [users; 3] {
        return Err(format!("it has views of {} users, the data set has {users}", counts.len()));
    }
    if counts.iter().map(|c| u64::from(*c)).sum::<u64>() != counterfactual.sequences() as u64 {
        return Err("counterfactual.counts does not add up to the number of sequences".into());
    }
    let mut next = 0;
    let mut take = |count: u32| {
        let range = next..next + count as usize;
        next = range.end;
        range.map(|index| counterfactual.sequence(index)).collect()
    };
    let user = |(user, count): (usize, &u32)| UserViews {
        future: future.sequence(user),
        paraphrase: paraphrase.sequence(user),
        counterfactuals: take(*count),
    };
    Ok(Views { users: counts.iter().enumerate().map(user).collect() })
}

/// Decodes a one-axis tensor of `W`-byte numbers.
fn numbers<T, const W: usize>(all: &SafeTensors, name: &str, dtype: Dtype, from: fn([u8; W]) -> T) -> Result<Vec<T>, String> {
    let tensor = all.tensor(name).map_err(|e| e.to_string())?;
    if tensor.dtype() != dtype || tensor.shape().len() != 1 {
        return Err(format!("tensor {name} is {:?} {:?}, {dtype:?} with one axis is needed", tensor.dtype(), tensor.shape()));
    }
    Ok(tensor.data().as_chunks::<W>().0.iter().map(|chunk| from(*chunk)).collect())
}
