//! The prepared data set in memory: sequences, tokens, catalogue, split.

use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What is publicly known of one item. Every field may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemText {
    /// Title.
    pub title: String,
    /// Categories, broad to narrow.
    pub categories: Vec<String>,
    /// Brand or maker.
    pub brand: String,
    /// Items often bought together, as item indices.
    pub also_bought: Vec<u32>,
}

/// Which group (silo, site) each user belongs to, as a column of the source says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserGroups {
    /// Name of the column.
    pub column: String,
    /// Its values, ascending, each with a user.
    pub names: Vec<String>,
    /// Group of every user `[U]`.
    pub of: Vec<u32>,
}

impl UserGroups {
    /// Groups from the value of each user, in user order.
    pub fn new<S: AsRef<str>>(column: &str, values: &[S]) -> UserGroups {
        let mut names: Vec<String> = values.iter().map(|value| value.as_ref().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        let of = values.iter().map(|value| names.binary_search_by(|name| name.as_str().cmp(value.as_ref())).unwrap_or_default() as u32);
        UserGroups { column: column.into(), of: of.collect(), names }
    }

    /// Name of the group of `user`.
    pub fn name(&self, user: usize) -> &str {
        &self.names[self.of[user] as usize]
    }

    /// Users of each group, in the order of the names.
    pub fn sizes(&self) -> Vec<u64> {
        let mut sizes = vec![0; self.names.len()];
        self.of.iter().for_each(|&group| sizes[group as usize] += 1);
        sizes
    }
}

/// Which item of a sequence a metric looks at; without cuts:
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The item before the last; the input is the training items.
    Validation,
    /// The last item; the input is the training items and the validation item.
    Test,
}

/// Which item of a user is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one at this place among the user's own items of the split, [`Dataset::targets`]; 0 is the first.
    Nth(u32),
    /// The same item for every user.
    Item(u32),
}

/// Which item of each user is ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The input is that of this split.
    pub split: Split,
    /// The item.
    pub target: Target,
}

/// The first target of each user.
impl From<Split> for Sought {
    fn from(split: Split) -> Sought {
        Sought { split, target: Target::Nth(0) }
    }
}

/// Where each user's sequence is cut, for another split than leave-one-out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Training items of each user, at least one `[U]`.
    pub train: Vec<u32>,
    /// Place of the validation target in the sequence; [`Cuts::NONE`] for a user without one `[U]`.
    pub validation: Vec<u32>,
    /// Place of the test target `[U]`.
    pub test: Vec<u32>,
}

impl Cuts {
    /// The place of a target that a user does not have.
    pub const NONE: u32 = u32::MAX;

    /// Whether places lie in the sequences that `offsets` bound, and targets behind the training items.
    pub(crate) fn fit(&self, offsets: &[u64]) -> bool {
        let users = offsets.len().saturating_sub(1);
        let alike = [&self.train, &self.validation, &self.test].iter().all(|all| all.len() == users);
        alike
            && (0..users).all(|user| {
                let length = offsets[user + 1] - offsets[user];
                let train = self.train[user];
                let target = |at: u32| at == Cuts::NONE || at >= train && u64::from(at) < length;
                train >= 1 && u64::from(train) <= length && target(self.validation[user]) && target(self.test[user])
            })
    }
}

/// A prepared data set. Sequences are packed: user `u` owns `items[offsets[u]..offsets[u + 1]]`, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Name, for tables.
    pub name: String,
    /// Fingerprint of source and preparation settings (hex); views and runs refuse another one.
    pub fingerprint: String,
    /// Token of every user `[U]`.
    pub user_tokens: Vec<String>,
    /// Token of every item `[I]`.
    pub item_tokens: Vec<String>,
    /// Packed sequence bounds `[U + 1]`.
    pub offsets: Vec<u64>,
    /// Packed item indices `[N]`.
    pub items: Vec<u32>,
    /// Catalogue, one entry an item `[I]`.
    pub catalogue: Vec<ItemText>,
    /// Groups of users, where the source was read for them (`data.group_column`).
    pub groups: Option<UserGroups>,
    /// Where sequences are cut; `None`: the last item is the test's, the one before it the validation's.
    pub cuts: Option<Cuts>,
    /// How often each item was met, as far as methods may know it, where that is not [`Dataset::train_counts`] (`privacy.counts`) `[I]`.
    pub released: Option<Vec<u32>>,
    /// What a run has changed in the catalogue's titles, as hex digits (`noise.titles`, `attack.titles`); empty: nothing.
    pub altered: String,
}

impl Dataset {
    /// Number of users.
    pub fn users(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of items in the catalogue.
    pub fn item_count(&self) -> usize {
        self.item_tokens.len()
    }

    /// Whole sequence of `user`, oldest first, validation and test items included.
    pub fn sequence(&self, user: usize) -> &[u32] {
        &self.items[self.offsets[user] as usize..self.offsets[user + 1] as usize]
    }

    /// Training items of `user`: all but the last two, or what the cuts say.
    pub fn train(&self, user: usize) -> &[u32] {
        let s = self.sequence(user);
        match &self.cuts {
            Some(cuts) => &s[..cuts.train[user] as usize],
            None => &s[..s.len().saturating_sub(2)],
        }
    }

    /// Input items and the item to be found. `None` where the sequence is too short to have one (fewer than three items), or the cuts give the
    /// user none.
    pub fn input_and_target(&self, user: usize, split: Split) -> Option<(&[u32], u32)> {
        let s = self.sequence(user);
        if let Some(cuts) = &self.cuts {
            let at = match split {
                Split::Validation => cuts.validation[user],
                Split::Test => cuts.test[user],
            };
            return (at != Cuts::NONE).then(|| (&s[..at as usize], s[at as usize]));
        }
        let cut = match split {
            Split::Validation => s.len().checked_sub(2)?,
            Split::Test => s.len().checked_sub(1)?,
        };
        if s.len() < 3 { None } else { Some((&s[..cut], s[cut])) }
    }

    /// All items of `user` in the split, oldest first, an item as often as the user met it: one or none with leave-one-out, any number where the
    /// sequence is cut by time or by shares. The first is the target of [`Dataset::input_and_target`], whose input stands before all of them.
    pub fn targets(&self, user: usize, split: Split) -> &[u32] {
        let Some((input, _)) = self.input_and_target(user, split) else { return &[] };
        let (rest, cuts) = (&self.sequence(user)[input.len()..], self.cuts.as_ref());
        let end = match (cuts, split) {
            (None, _) => 1,
            (Some(cuts), Split::Validation) if cuts.test[user] != Cuts::NONE => {
                (cuts.test[user] as usize).saturating_sub(input.len()).max(1)
            }
            (Some(_), _) => rest.len(),
        };
        &rest[..end]
    }

    /// Input items of `user` and the item whose rank is asked for. `None` where the user has no such item.
    pub fn sought(&self, user: usize, sought: Sought) -> Option<(&[u32], u32)> {
        let (input, first) = self.input_and_target(user, sought.split)?;
        let target = match sought.target {
            Target::Item(item) => item,
            Target::Nth(0) => first,
            Target::Nth(place) => *self.targets(user, sought.split).get(place as usize)?,
        };
        Some((input, target))
    }

    /// How often each item was met, as far as a method may know it `[I]`.
    pub fn known_counts(&self) -> Cow<'_, [u32]> {
        self.released.as_ref().map_or_else(|| self.train_counts().into(), |counts| counts.into())
    }

    /// Fingerprint of what views depend on: that of the data set, and counts and titles other than its own.
    pub fn views_fingerprint(&self) -> String {
        if self.released.is_none() && self.altered.is_empty() {
            return self.fingerprint.clone();
        }
        let mut sum = Sha256::new();
        sum.update(format!("{} titles {} counts ", self.fingerprint, self.altered));
        self.released.iter().flatten().for_each(|count| sum.update(count.to_le_bytes()));
        hex::encode(sum.finalize())
    }

    /// How often each item occurs in training items `[I]`.
    pub fn train_counts(&self) -> Vec<u32> {
        let mut counts = vec![0u32; self.item_count()];
        for user in 0..self.users() {
            for &item in self.train(user) {
                counts[item as usize] += 1;
            }
        }
        counts
    }
}
