//! What a client keeps to itself between rounds: parameter groups that are not shared. In memory up to a budget, beyond it
//! in one file a client.

use crate::base::files::write_scratch;
use crate::base::unfinished::Unfinished;
use crate::config::{FederationSettings, Group};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Groups of parameters that are averaged. A client keeps the others to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The dense weights.
    pub dense: bool,
    /// The item rows.
    pub items: bool,
}

impl Shared {
    /// What the settings say.
    pub fn of(federation: &FederationSettings) -> Shared {
        let shared = &federation.shared;
        Shared { dense: shared.contains(&Group::Encoder), items: shared.contains(&Group::Items) }
    }

    /// Whether no group is private.
    pub fn all(&self) -> bool {
        self.dense && self.items
    }

    /// Whether what a client keeps of its weights after a visit is finite: of `dense [P]` and `rows [R, d]` the groups that are private.
    pub fn rest_is_finite(&self, dense: &[f32], rows: &[f32]) -> bool {
        let finite = |values: &[f32]| values.iter().all(|x| x.is_finite());
        (self.dense || finite(dense)) && (self.items || finite(rows))
    }
}

/// Whether clients keep parameters to themselves: groups that are not shared, or the dense weights that matter most to them.
pub fn kept_by_clients(federation: &FederationSettings) -> bool {
    !Shared::of(federation).all() || federation.personal > 0.0
}

/// Beside the number of dense weights in bytes: not all of them are kept.
const PARTLY: u32 = 1 << 31;

/// Private parameters of one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrivateState {
    /// Dense weights `[P]`, where the encoder is private, or some of them; NaN where the client keeps nothing.
    pub dense: Option<Vec<f32>>,
    /// Item rows, where they are private.
    pub rows: BTreeMap<u32, Vec<f32>>,
}

impl PrivateState {
    /// Row of `item`, if the client has its own (width `d`).
    pub fn row(&self, item: u32, d: usize) -> Option<&[f32]> {
        self.rows.get(&item).map(|r| &r[..d])
    }

    /// Keeps `row` for `item`.
    pub fn set_row(&mut self, item: u32, row: &[f32]) {
        self.rows.insert(item, row.to_vec());
    }

    /// Takes the groups that are not shared over from a visit that ended with `dense` weights `[P]` and the rows `[R, d]` of `items [R]`.
    pub fn keep(&mut self, shared: Shared, dense: &[f32], items: &[u32], rows: &[f32]) {
        if !shared.dense {
            self.dense = Some(dense.to_vec());
        }
        if !shared.items && !items.is_empty() {
            items.iter().zip(rows.chunks_exact(rows.len() / items.len())).for_each(|(&item, row)| self.set_row(item, row));
        }
    }

    /// As bytes. Of dense weights of which some are not kept (NaN) come a bit for each that is, then those.
    fn encode(&self) -> Vec<u8> {
        let word = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
        let dense = self.dense.as_deref().unwrap_or(&[]);
        let rows: usize = self.rows.values().map(|row| 8 + 4 * row.len()).sum();
        let kept = dense.iter().filter(|x| !x.is_nan()).count();
        let mut encoded = Vec::with_capacity(8 + dense.len().div_ceil(8) + 4 * kept + rows);
        let out = &mut encoded;
        if kept < dense.len() {
            word(out, dense.len() | PARTLY as usize);
            out.extend(dense.chunks(8).map(|eight| eight.iter().rev().fold(0, |bits, x| bits << 1 | u8::from(!x.is_nan()))));
        } else {
            word(out, dense.len());
        }
        // A number that is not kept is overwritten by the next one: quicker than to branch.
        let mut end = out.len();
        out.resize(end + 4 * kept + 4, 0);
        for x in dense {
            out[end..end + 4].copy_from_slice(&x.to_le_bytes());
            end += if x.is_nan() { 0 } else { 4 };
        }
        out.truncate(end);
        word(out, self.rows.len());
        for (item, row) in &self.rows {
            word(out, *item as usize);
            word(out, row.len());
            out.extend(row.iter().flat_map(|x| x.to_le_bytes()));
        }
        encoded
    }

    /// From the front of `bytes`; `None` where they are damaged or name more than `most` dense weights.
    fn decode(bytes: &mut &[u8], most: usize) -> Option<PrivateState> {
        let word = |b: &mut &[u8]| -> Option<u32> {
            let (head, tail) = b.split_first_chunk::<4>()?;
            *b = tail;
            Some(u32::from_le_bytes(*head))
        };
        let floats = |b: &mut &[u8], n: usize| -> Option<Vec<f32>> {
            if n.checked_mul(4)? > b.len() {
                return None;
            }
            let (head, tail) = b.split_at(4 * n);
            *b = tail;
            Some(head.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
        };
        let head = word(bytes)?;
        let n = (head & !PARTLY) as usize;
        if n > most {
            return None;
        }
        let dense = if head & PARTLY != 0 {
            let (bits, rest) = bytes.split_at_checked(n.div_ceil(8))?;
            *bytes = rest;
            let count = bits.iter().map(|bits| bits.count_ones() as usize).sum();
            let (mut values, mut dense) = (floats(bytes, count)?.into_iter(), vec![f32::NAN; n]);
            for (i, &bits) in bits.iter().enumerate() {
                let mut left = bits;
                while left > 0 {
                    *dense.get_mut(8 * i + left.trailing_zeros() as usize)? = values.next()?;
                    left &= left - 1;
                }
            }
            Some(dense)
        } else if n > 0 {
            Some(floats(bytes, n)?)
        } else {
            None
        };
        let mut rows = BTreeMap::new();
        for _ in 0..word(bytes)? {
            let item = word(bytes)?;
            let n = word(bytes)? as usize;
            rows.insert(item, floats(bytes, n)?);
        }
        Some(PrivateState { dense, rows })
    }
}

/// Bytes of memory that a state takes beside its own, about.
const ENTRY: usize = 64;

/// Private state of all clients.
pub struct PrivateStore {
    /// States as bytes: clients may be many, and each may keep a small share of the dense weights.
    memory: HashMap<u32, Box<[u8]>>,
    used: usize,
    budget: usize,
    folder: Option<PathBuf>,
    /// Lists the folder from the first file in it on.
    unfinished: Option<Unfinished>,
    on_disk: BTreeSet<u32>,
    /// Distinguishes the files of a store from those of the one that it is to replace.
    generation: u64,
}

/// What a client's private state must look like.
#[derive(Clone, Copy, Debug)]
pub struct PrivateShape {
    /// Clients.
    pub clients: usize,
    /// Items.
    pub items: usize,
    /// Width `d` of an item row.
    pub dim: usize,
    /// Dense weights `P`.
    pub dense: usize,
}

impl PrivateShape {
    fn fits(&self, client: u32, state: &PrivateState) -> bool {
        let row = |(item, row): (&u32, &Vec<f32>)| (*item as usize) < self.items && row.len() == self.dim;
        (client as usize) < self.clients && state.dense.as_ref().is_none_or(|dense| dense.len() == self.dense) && state.rows.iter().all(row)
    }
}

impl PrivateStore {
    /// A store that keeps up to `budget_mb` megabytes in memory.
    pub fn new(budget_mb: u32) -> PrivateStore {
        let budget = budget_mb as usize * 1_000_000;
        PrivateStore { memory: HashMap::new(), used: 0, budget, folder: None, unfinished: None, on_disk: BTreeSet::new(), generation: 0 }
    }

    /// Folder for what does not fit in memory.
    pub fn set_folder(&mut self, folder: PathBuf) {
        self.folder = Some(folder);
    }

    fn file(&mut self, client: u32) -> Result<PathBuf> {
        if self.folder.is_none() {
            // Several trainers of one process must not share a folder.
            static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.folder = Some(std::env::temp_dir().join(format!("lumos-private-{}-{number}", std::process::id())));
        }
        let folder = self.folder.clone().unwrap_or_default();
        self.unfinished.get_or_insert_with(|| Unfinished::at(&folder));
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        Ok(self.path(client))
    }

    /// Where the state of `client` lies when it is on disk.
    fn path(&self, client: u32) -> PathBuf {
        let folder = self.folder.as_deref().unwrap_or(Path::new(""));
        folder.join(format!("{client}-{}.bin", self.generation))
    }

    /// State of `client`, if it has any.
    pub fn get(&self, client: u32) -> Result<Option<PrivateState>> {
        Ok(self.bytes(client)?.map(|(_, state)| state))
    }

    /// The same with its bytes.
    fn bytes(&self, client: u32) -> Result<Option<(Cow<'_, [u8]>, PrivateState)>> {
        let path = self.path(client);
        let bytes = match self.memory.get(&client) {
            Some(bytes) => Cow::Borrowed(&bytes[..]),
            None if !self.on_disk.contains(&client) => return Ok(None),
            None => Cow::Owned(std::fs::read(&path).map_err(Error::io(&path, "read"))?),
        };
        let state = PrivateState::decode(&mut &bytes[..], usize::MAX);
        let state = state.ok_or_else(|| Error::mismatch(&path, "damaged private state; remove the run and train again"))?;
        Ok(Some((bytes, state)))
    }

    /// True where no client has state.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.on_disk.is_empty()
    }

    /// Keeps `state` for `client`.
    pub fn put(&mut self, client: u32, state: &PrivateState) -> Result<()> {
        let held = |bytes: &[u8]| bytes.len() + ENTRY;
        if let Some(old) = self.memory.remove(&client) {
            self.used -= held(&old);
        }
        let bytes = state.encode();
        if self.used + held(&bytes) <= self.budget {
            self.used += held(&bytes);
            self.memory.insert(client, bytes.into_boxed_slice());
            self.on_disk.remove(&client);
            return Ok(());
        }
        let path = self.file(client)?;
        write_scratch(&path, &bytes)?;
        self.on_disk.insert(client);
        Ok(())
    }

    /// Everything, for a checkpoint.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut clients: Vec<u32> = self.memory.keys().chain(&self.on_disk).copied().collect();
        clients.sort_unstable();
        let mut out = Vec::with_capacity(self.used);
        for client in clients {
            out.extend_from_slice(&client.to_le_bytes());
            match self.memory.get(&client) {
                Some(bytes) => out.extend_from_slice(bytes),
                None => out.extend(self.bytes(client)?.map(|(bytes, _)| bytes).unwrap_or_default().iter()),
            }
        }
        Ok(out)
    }

    /// One of what [`PrivateStore::encode`] gave in several processes, each for clients of its own; `None` if the bytes are damaged.
    pub fn joined(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut states: Vec<(u32, &[u8])> = Vec::new();
        for mut rest in parts.iter().map(Vec::as_slice) {
            while !rest.is_empty() {
                let (client, tail) = rest.split_first_chunk::<4>()?;
                let mut after = tail;
                PrivateState::decode(&mut after, usize::MAX)?;
                states.push((u32::from_le_bytes(*client), &rest[..rest.len() - after.len()]));
                rest = after;
            }
        }
        states.sort_unstable_by_key(|(client, _)| *client);
        Some(states.into_iter().flat_map(|(_, bytes)| bytes).copied().collect())
    }

    /// A store with what [`PrivateStore::encode`] gave, of the clients that `keep` takes, to take the place of this one, which stays as it is;
    /// `None` if the bytes are damaged or not of `shape`.
    pub fn restored(&self, mut bytes: &[u8], shape: PrivateShape, keep: &dyn Fn(u32) -> bool) -> Result<Option<PrivateStore>> {
        let mut store = PrivateStore {
            memory: HashMap::new(),
            used: 0,
            budget: self.budget,
            folder: self.folder.clone(),
            unfinished: None,
            on_disk: BTreeSet::new(),
            generation: self.generation + 1,
        };
        while !bytes.is_empty() {
            let Some((client, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
            bytes = rest;
            let client = u32::from_le_bytes(*client);
            let Some(state) = PrivateState::decode(&mut bytes, shape.dense).filter(|state| shape.fits(client, state)) else {
                return Ok(None);
            };
            if keep(client) {
                store.put(client, &state)?;
            }
        }
        Ok(Some(store))
    }
}

impl Drop for PrivateStore {
    fn drop(&mut self) {
        // Everything here is in the checkpoint as well; a left-over file would only take up space.
        for client in &self.on_disk {
            let _ = std::fs::remove_file(self.path(*client));
        }
        if let Some(folder) = self.folder.as_ref().filter(|_| !self.on_disk.is_empty()) {
            // Refused where the files of another store are in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_in_memory_goes_to_disk_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = PrivateStore::new(0);
        store.set_folder(folder.path().join("private"));
        let mut state = PrivateState { dense: Some(vec![1.5; 9]), rows: BTreeMap::new() };
        state.set_row(7, &[0.25; 3]);
        store.put(4, &state).unwrap();
        assert!(store.memory.is_empty());
        assert_eq!(store.get(4).unwrap(), Some(state.clone()));
        assert_eq!(store.get(5).unwrap(), None);

        let shape = PrivateShape { clients: 5, items: 8, dim: 3, dense: 9 };
        let bytes = store.encode().unwrap();
        let other = store.restored(&bytes, shape, &|_| true).unwrap().unwrap();
        assert_eq!(other.get(4).unwrap(), Some(state.clone()));
        for cut in 1..bytes.len() {
            assert!(store.restored(&bytes[..cut], shape, &|_| true).unwrap().is_none(), "{cut}");
        }
        for shape in [
            PrivateShape { clients: 4, ..shape },
            PrivateShape { items: 7, ..shape },
            PrivateShape { dim: 2, ..shape },
            PrivateShape { dense: 8, ..shape },
        ] {
            assert!(store.restored(&bytes, shape, &|_| true).unwrap().is_none(), "{shape:?}");
        }
        // What was refused has left no file, and each store keeps its own.
        assert_eq!(std::fs::read_dir(folder.path().join("private")).unwrap().count(), 2);
        drop(store);
        assert_eq!(other.get(4).unwrap(), Some(state));
        drop(other);
        assert!(!folder.path().join("private").exists());
    }

    #[test]
    fn dense_weights_that_are_not_kept_take_a_bit() {
        let word = |n: u32| n.to_le_bytes().to_vec();
        for n in [1, 7, 8, 9, 64, 203] {
            for every in [1, 2, 10, 500] {
                let kept = |i: usize| (i + 1).is_multiple_of(every);
                let dense: Vec<f32> = (0..n).map(|i| if kept(i) { i as f32 - 0.5 } else { f32::NAN }).collect();
                let count = (0..n).filter(|&i| kept(i)).count();
                let state = PrivateState { dense: Some(dense.clone()), rows: BTreeMap::new() };
                let bytes = state.encode();
                assert_eq!(bytes.len(), 4 + if count < n { n.div_ceil(8) } else { 0 } + 4 * count + 4, "{n}, one in {every}");
                let again = PrivateState::decode(&mut &bytes[..], n).unwrap().dense.unwrap();
                assert!(
                    again.iter().zip(&dense).all(|(a, b)| a == b || a.is_nan() && b.is_nan()) && again.len() == n,
                    "{n}, one in {every}"
                );
                for cut in 0..bytes.len() {
                    assert!(PrivateState::decode(&mut &bytes[..cut], n).is_none(), "{cut} of {n}");
                }
                assert!(PrivateState::decode(&mut &bytes[..], n - 1).is_none(), "more weights than the model has");
            }
        }
        // A bit beyond the last weight, and more bits than values.
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        for bits in [0b1000_u8, 0xff] {
            let bytes = [words(&[3 | PARTLY]), vec![bits], words(&[1, 0])].concat();
            assert!(PrivateState::decode(&mut &bytes[..], 9).is_none(), "{bits:b}");
        }
        // Where not all are kept, earlier versions wrote NaN for the others.
        let store = PrivateStore::new(1);
        let shape = PrivateShape { clients: 1, items: 1, dim: 1, dense: 2 };
        let old = words(&[0, 2, 1.5f32.to_bits(), f32::NAN.to_bits(), 0]);
        let new = store.restored(&old, shape, &|_| true).unwrap().unwrap().encode().unwrap();
        assert_eq!(new, [words(&[0, 2 | PARTLY]), vec![1], words(&[1.5f32.to_bits(), 0])].concat());
        // Weights that are all kept are the bytes of earlier versions.
        let all = PrivateState { dense: Some(vec![2.0, -1.0]), rows: BTreeMap::from([(5, vec![0.25])]) };
        let bytes =
            [word(2), 2f32.to_le_bytes().into(), (-1f32).to_le_bytes().into(), word(1), word(5), word(1), 0.25f32.to_le_bytes().into()];
        assert_eq!(all.encode(), bytes.concat());
    }

    #[test]
    fn parts_of_several_processes_are_one_store_again() {
        let state = |x: f32| PrivateState { dense: Some(vec![x; 2]), rows: BTreeMap::from([(1, vec![x; 3])]) };
        let store = |clients: &[u32]| {
            let mut store = PrivateStore::new(1);
            clients.iter().for_each(|&c| store.put(c, &state(c as f32)).unwrap());
            store
        };
        let whole = store(&[0, 2, 3, 9]).encode().unwrap();
        let parts = [store(&[2, 9]), store(&[]), store(&[0, 3])].map(|s| s.encode().unwrap());
        assert_eq!(PrivateStore::joined(&parts).unwrap(), whole);
        assert!(PrivateStore::joined(&[whole[..whole.len() - 1].to_vec()]).is_none());
        let shape = PrivateShape { clients: 10, items: 2, dim: 3, dense: 2 };
        let odd = store(&[]).restored(&whole, shape, &|client| client % 2 == 1).unwrap().unwrap();
        assert_eq!(odd.encode().unwrap(), store(&[3, 9]).encode().unwrap());
    }
}
