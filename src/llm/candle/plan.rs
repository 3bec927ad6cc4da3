//! What the operations of a step need to know of its batch: uploaded in one piece, and what layers share made once.

use super::super::network::{BLOCK, Batch, Segment};
use super::varlen::{DevicePacking, Packing};
use candle_core::{Device, Result, Tensor, TensorId};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Things made when they are first asked for.
struct Memo<K, V>(RefCell<Vec<(K, V)>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Memo<K, V> {
        Memo(RefCell::new(Vec::new()))
    }
}

impl<K: PartialEq, V: Clone> Memo<K, V> {
    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        if let Some((_, value)) = self.0.borrow().iter().find(|(k, _)| *k == key) {
            return Ok(value.clone());
        }
        let value = make()?;
        self.0.borrow_mut().push((key, value.clone()));
        Ok(value)
    }
}

/// Lists of a step on the device.
pub struct Plan {
    device: Device,
    /// Tokens `[T]`.
    pub(super) tokens: Tensor,
    /// Positions `[T]`.
    positions: Tensor,
    /// Places of the rows' keys in the cache `[T]`.
    pub(super) places: Tensor,
    /// Rows whose logits are wanted; row 0 where none are.
    pub(super) wanted: Tensor,
    /// Of each rotary table: cosines and sines of the rows `[T, 1, rotated / 2]`.
    turns: Memo<TensorId, (Tensor, Tensor)>,
    stores: Memo<usize, Tensor>,
    groups: Memo<(), Rc<Groups>>,
    masks: Memo<Option<usize>, Rc<Vec<Tensor>>>,
    packed: Memo<Option<usize>, DevicePacking>,
}

/// Sequences that attend in one product, their keys padded to the longest.
pub(super) struct Group {
    /// Their rows in the batch, where they follow each other; else see `scattered`.
    pub rows: Range<usize>,
    /// Their rows otherwise.
    pub scattered: Option<Tensor>,
    /// Places of the keys `[n * keys]`.
    pub places: Tensor,
    pub keys: usize,
    /// Positions of the queries, those of one sequence after another `[n][rows]`.
    positions: Vec<Vec<usize>>,
}

impl Group {
    /// Sequences.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// 0 where a query sees a key, minus infinity elsewhere `[n, 1, rows, keys]`.
    fn mask(&self, window: Option<usize>, device: &Device) -> Result<Tensor> {
        let sees = |position: usize, key: usize| {
            if key <= position && window.is_none_or(|w| key + w > position) { 0.0 } else { f32::NEG_INFINITY }
        };
        let of_query = |position: &usize| (0..self.keys).map(|key| sees(*position, key)).collect::<Vec<f32>>();
        let mask: Vec<f32> = self.positions.iter().flatten().flat_map(of_query).collect();
        Tensor::from_vec(mask, (self.len(), 1, self.positions[0].len(), self.keys), device)
    }
}

/// All of a batch's sequences.
pub(super) struct Groups {
    pub all: Vec<Group>,
    /// Where each row's result lies when the groups' follow each other; `None` where it is in its place already.
    pub back: Option<Tensor>,
}

/// Positions of a segment's rows.
fn positions(segment: &Segment) -> Range<usize> {
    segment.position..segment.position + segment.rows
}

/// Place of `position` of a sequence in the cache.
pub(super) fn place(batch: &Batch, segment: &Segment, position: usize) -> u32 {
    batch.tables[segment.table.start + position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32
}

/// Lists put into one upload.
fn upload<const N: usize>(lists: [&[u32]; N], device: &Device) -> Result<[Tensor; N]> {
    let numbers = lists.concat();
    let count = numbers.len();
    let all = Tensor::from_vec(numbers, count, device)?;
    let mut from = 0;
    let mut tensors = Vec::with_capacity(N);
    for list in lists {
        tensors.push(all.narrow(0, from, list.len())?);
        from += list.len();
    }
    tensors.try_into().map_err(|_| candle_core::Error::Msg("lists and tensors differ in number".into()))
}

impl Plan {
    pub(super) fn new(batch: &Batch, device: &Device) -> Result<Plan> {
        let at: Vec<u32> = batch.segments.iter().flat_map(positions).map(|p| p as u32).collect();
        let places: Vec<u32> = batch.segments.iter().flat_map(|s| positions(s).map(move |p| place(batch, s, p))).collect();
        // candle launches no kernel on no rows, it fails.
        let wanted = if batch.wanted.is_empty() { &[0][..] } else { &batch.wanted };
        let [tokens, positions, places, wanted] = upload([&batch.tokens, &at, &places, wanted], device)?;
        Ok(Plan {
            device: device.clone(),
            tokens,
            positions,
            places,
            wanted,
            turns: Memo::default(),
            stores: Memo::default(),
            groups: Memo::default(),
            masks: Memo::default(),
            packed: Memo::default(),
        })
    }

    /// Cosines and sines of the rows `[T, 1, rotated / 2]` from a table's `[positions, rotated / 2]`.
    pub(super) fn turns(&self, cos: &Tensor, sin: &Tensor) -> Result<(Tensor, Tensor)> {
        let rows = |table: &Tensor| table.index_select(&self.positions, 0)?.unsqueeze(1);
        self.turns.get(cos.id(), || Ok((rows(cos)?, rows(sin)?)))
    }

    /// Places of the rows' keys, once for every number of a key `[T, width]`.
    pub(super) fn stores(&self, width: usize) -> Result<Tensor> {
        let make = || self.places.unsqueeze(1)?.broadcast_as((self.places.elem_count(), width))?.contiguous();
        self.stores.get(width, make)
    }

    /// Sequences with one row together, prompts one by one.
    pub(super) fn groups(&self, batch: &Batch) -> Result<Rc<Groups>> {
        self.groups.get((), || groups(batch, &self.device).map(Rc::new))
    }

    /// Masks of the groups for a layer's window.
    pub(super) fn masks(&self, groups: &Groups, window: Option<usize>) -> Result<Rc<Vec<Tensor>>> {
        let make = || groups.all.iter().map(|g| g.mask(window, &self.device)).collect::<Result<_>>().map(Rc::new);
        self.masks.get(window, make)
    }

    /// The batch for variable-length attention within a layer's window.
    pub(super) fn packed(&self, batch: &Batch, window: Option<usize>) -> Result<DevicePacking> {
        let make = || {
            let packing = Packing::new(batch, window);
            let [queries, keys, places] = upload([&packing.queries, &packing.keys, &packing.places], &self.device)?;
            let places = (!packing.own).then_some(places);
            Ok(DevicePacking { queries, keys, places, most_queries: packing.most_queries, most_keys: packing.most_keys })
        };
        self.packed.get(window, make)
    }
}

fn groups(batch: &Batch, device: &Device) -> Result<Groups> {
    let (single, long): (Vec<&Segment>, Vec<&Segment>) = batch.segments.iter().partition(|s| s.rows == 1);
    let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), device);
    let mut all = Vec::new();
    let mut order: Vec<u32> = single.iter().map(|s| s.row as u32).collect();
    if let Some(first) = single.first() {
        let keys = single.iter().map(|s| s.position + 1).max().unwrap_or(1);
        let places: Vec<u32> = single.iter().flat_map(|s| (0..keys).map(|key| place(batch, s, key.min(s.position)))).collect();
        let follow = order.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        all.push(Group {
            rows: first.row..first.row + single.len(),
            scattered: if follow { None } else { Some(ids(&order)?) },
            places: ids(&places)?,
            keys,
            positions: single.iter().map(|s| vec![s.position]).collect(),
        });
    }
    for segment in long {
        let keys = segment.position + segment.rows;
        let places: Vec<u32> = (0..keys).map(|key| place(batch, segment, key)).collect();
        let rows = segment.row..segment.row + segment.rows;
        order.extend(rows.clone().map(|row| row as u32));
        all.push(Group { rows, scattered: None, places: ids(&places)?, keys, positions: vec![positions(segment).collect()] });
    }
    if order.is_sorted() {
        return Ok(Groups { all, back: None });
    }
    let mut back = vec![0u32; order.len()];
    order.iter().enumerate().for_each(|(i, row)| back[*row as usize] = i as u32);
    Ok(Groups { all, back: Some(ids(&back)?) })
}
