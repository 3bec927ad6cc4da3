//! What crosses the wire: sequences of items up, sequences with labels down. No type here can hold a weight.

/// What a client uploads: a sequence that is not quite its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// Perturbed items, oldest first `[T]`.
    pub items: Vec<u32>,
    /// The true last training item, which follows them.
    pub last: u32,
    /// One negative for each position `[T]`.
    pub negatives: Vec<u32>,
}

/// What a client is sent: the upload of another one, with the server's opinion of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labelled {
    /// The other client's upload.
    pub upload: Upload,
    /// Probability of the item that follows and of the negative, for each position `[T, 2]`.
    pub labels: Vec<f32>,
}

/// Bytes of the length and of the client's number before a sequence.
const HEADER: u64 = 8;

impl Upload {
    /// The item to be predicted at `position`.
    pub fn target(&self, position: usize) -> u32 {
        self.items.get(position + 1).copied().unwrap_or(self.last)
    }

    /// Bytes on the wire: a header and four bytes an item.
    pub fn bytes(&self) -> u64 {
        HEADER + 4 * (self.items.len() + 1 + self.negatives.len()) as u64
    }

    /// Every item that is named.
    pub fn named(&self) -> impl Iterator<Item = u32> {
        self.items.iter().chain(&self.negatives).copied().chain([self.last])
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let words = [self.items.len() as u32, self.last].into_iter().chain(self.items.iter().chain(&self.negatives).copied());
        out.extend(words.flat_map(u32::to_le_bytes));
    }

    fn decode(bytes: &mut &[u8], items: usize) -> Option<Upload> {
        let n = word(bytes)? as usize;
        if n == 0 || n > bytes.len() / 8 {
            return None;
        }
        let item = |bytes: &mut &[u8]| word(bytes).filter(|&item| (item as usize) < items);
        let last = item(bytes)?;
        let mut row = || (0..n).map(|_| item(bytes)).collect::<Option<Vec<u32>>>();
        Some(Upload { items: row()?, negatives: row()?, last })
    }
}

impl Labelled {
    /// Bytes on the wire: those of the sequence and four a label.
    pub fn bytes(&self) -> u64 {
        self.upload.bytes() + 4 * self.labels.len() as u64
    }
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    let (head, tail) = bytes.split_first_chunk::<4>()?;
    *bytes = tail;
    Some(u32::from_le_bytes(*head))
}

/// The last upload of each client `[C]` as bytes of a checkpoint: client, length, last item, items, negatives; little-endian.
pub fn encode_uploads(all: &[Option<Upload>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (client, upload) in all.iter().enumerate().filter_map(|(c, u)| Some((c, u.as_ref()?))) {
        out.extend((client as u32).to_le_bytes());
        upload.encode(&mut out);
    }
    out
}

/// The same of what each client was sent, labels behind each sequence.
pub fn encode_labelled(all: &[Option<Labelled>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (client, sent) in all.iter().enumerate().filter_map(|(c, s)| Some((c, s.as_ref()?))) {
        out.extend((client as u32).to_le_bytes());
        sent.upload.encode(&mut out);
        out.extend(sent.labels.iter().flat_map(|x| x.to_le_bytes()));
    }
    out
}

/// Back from [`encode_uploads`] for `clients` clients and `items` items; nothing where the bytes are damaged.
pub fn decode_uploads(bytes: &[u8], clients: usize, items: usize) -> Option<Vec<Option<Upload>>> {
    decode(bytes, clients, |bytes| Upload::decode(bytes, items))
}

/// Back from [`encode_labelled`].
pub fn decode_labelled(bytes: &[u8], clients: usize, items: usize) -> Option<Vec<Option<Labelled>>> {
    decode(bytes, clients, |bytes| {
        let upload = Upload::decode(bytes, items)?;
        let label = |_| word(bytes).map(f32::from_bits).filter(|x| (0.0..=1.0).contains(x));
        let labels = (0..2 * upload.items.len()).map(label).collect::<Option<Vec<f32>>>()?;
        Some(Labelled { upload, labels })
    })
}

fn decode<T: Clone>(mut bytes: &[u8], clients: usize, mut one: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<Option<T>>> {
    let mut all = vec![None; clients];
    while !bytes.is_empty() {
        let slot = all.get_mut(word(&mut bytes)? as usize)?;
        *slot = Some(one(&mut bytes)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_come_back_and_damage_is_seen() {
        let upload = Upload { items: vec![3, 1, 4], last: 2, negatives: vec![0, 5, 0] };
        assert_eq!((0..3).map(|t| upload.target(t)).collect::<Vec<_>>(), [1, 4, 2]);
        assert_eq!(upload.bytes(), 8 + 4 * 7);
        let uploads = vec![None, Some(upload.clone()), None, Some(Upload { items: vec![5], last: 5, negatives: vec![1] })];
        let bytes = encode_uploads(&uploads);
        assert_eq!(decode_uploads(&bytes, 4, 6), Some(uploads));
        assert_eq!(decode_uploads(&bytes, 3, 6), None, "a client beyond the last");
        assert_eq!(decode_uploads(&bytes, 4, 5), None, "an item beyond the last");

        let sent = Labelled { upload, labels: vec![0.5, 0.25, 1.0, 0.0, 0.125, 0.75] };
        assert_eq!(sent.bytes(), 8 + 4 * 7 + 4 * 6);
        let bytes = encode_labelled(&[Some(sent.clone()), None]);
        assert_eq!(decode_labelled(&bytes, 2, 6), Some(vec![Some(sent), None]));
        for cut in 1..bytes.len() {
            assert_eq!(decode_labelled(&bytes[..cut], 2, 6), None, "{cut}");
        }
    }
}
