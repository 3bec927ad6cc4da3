//! What rank 0 asks of the other processes of a training, as bytes: a training to take part in, its rounds, its rankings, its state.

use super::checkpoint::Checkpoint;
use crate::base::parcel::{Parcel, Pieces};
use crate::config::{Settings, Validated, ViewSettings};
use crate::data::{Cuts, Dataset, ItemText, Sought, Split, Target, UserGroups};
use crate::views::{self, Views};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One request of rank 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// Write your messages into this folder from now on.
    Log(PathBuf),
    /// Take part in a training with these settings on this data set; on a GPU where the last value says so.
    Open(Box<Training>),
    /// Train the next round.
    Round,
    /// Rank these users.
    Rank(Sought, Vec<u32>),
    /// Give what the state of the training needs of you.
    Tensors,
    /// Go on from this checkpoint.
    Restore(Box<Checkpoint>),
    /// Say what exchanges have cost you.
    Spent,
    /// Help with the views of this data set.
    Views(Box<(Dataset, ViewSettings)>),
    /// The training is over.
    Close,
    /// Everything is over.
    End,
}

/// All that a training is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Training {
    pub settings: Validated<Settings>,
    pub data: Arc<Dataset>,
    pub views: Arc<Views>,
    pub on_gpu: bool,
}

/// What an order begins with.
#[derive(Serialize, Deserialize)]
enum Head {
    Log { folder: PathBuf },
    Open { settings: Box<Settings>, on_gpu: bool, data: Frame, views: bool },
    Round,
    Rank { test: bool, place: u32, item: Option<u32> },
    Tensors,
    Restore,
    Spent,
    Views { settings: Box<ViewSettings>, data: Frame, catalogue: Vec<(String, Vec<String>, String, Vec<u32>)> },
    Close,
    End,
}

/// A data set without its long arrays and the texts of its catalogue: views are made of these, nothing is trained on them.
#[derive(Serialize, Deserialize)]
struct Frame {
    name: String,
    fingerprint: String,
    user_tokens: Vec<String>,
    item_tokens: Vec<String>,
    groups: Option<(String, Vec<String>)>,
    /// Whether sequences are cut otherwise than by leave-one-out.
    cuts: bool,
    /// Whether methods know other counts than its own.
    released: bool,
    altered: String,
}

impl Frame {
    fn of(data: &Dataset) -> Frame {
        Frame {
            name: data.name.clone(),
            fingerprint: data.fingerprint.clone(),
            user_tokens: data.user_tokens.clone(),
            item_tokens: data.item_tokens.clone(),
            groups: data.groups.as_ref().map(|g| (g.column.clone(), g.names.clone())),
            cuts: data.cuts.is_some(),
            released: data.released.is_some(),
            altered: data.altered.clone(),
        }
    }

    /// The data set again, with the arrays that [`arrays`] has put in.
    fn whole(self, pieces: &mut Pieces) -> Option<Dataset> {
        let (offsets, items, of) = (pieces.longs()?, pieces.words()?, pieces.words()?);
        let cuts = Cuts { train: pieces.words()?, validation: pieces.words()?, test: pieces.words()? };
        let released = pieces.words()?;
        Some(Dataset {
            name: self.name,
            fingerprint: self.fingerprint,
            user_tokens: self.user_tokens,
            catalogue: vec![ItemText::default(); self.item_tokens.len()],
            item_tokens: self.item_tokens,
            offsets,
            items,
            groups: self.groups.map(|(column, names)| UserGroups { column, names, of }),
            cuts: self.cuts.then_some(cuts),
            released: self.released.then_some(released),
            altered: self.altered,
        })
    }
}

fn arrays(parcel: Parcel, data: &Dataset) -> Parcel {
    let cut = |part: fn(&Cuts) -> &Vec<u32>| data.cuts.as_ref().map_or(&[][..], |cuts| part(cuts));
    let parcel = parcel.longs(&data.offsets).words(&data.items).words(data.groups.as_ref().map_or(&[][..], |g| &g.of));
    let parcel = parcel.words(cut(|c| &c.train)).words(cut(|c| &c.validation)).words(cut(|c| &c.test));
    parcel.words(data.released.as_deref().unwrap_or_default())
}

fn fail(why: impl std::fmt::Display) -> Error {
    Error::Cluster(format!("an order of rank 0 cannot be passed on: {why}"))
}

impl Order {
    /// As bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let head = match self {
            Order::Log(folder) => Head::Log { folder: folder.clone() },
            Order::Open(training) => {
                let Training { settings, data, views, on_gpu } = &**training;
                let (settings, views) = (Box::new((**settings).clone()), !views.users.is_empty());
                Head::Open { settings, on_gpu: *on_gpu, data: Frame::of(data), views }
            }
            Order::Round => Head::Round,
            Order::Rank(sought, _) => {
                let (place, item) = match sought.target {
                    Target::Nth(place) => (place, None),
                    Target::Item(item) => (0, Some(item)),
                };
                Head::Rank { test: sought.split == Split::Test, place, item }
            }
            Order::Tensors => Head::Tensors,
            Order::Restore(_) => Head::Restore,
            Order::Spent => Head::Spent,
            Order::Views(wanted) => {
                let (data, settings) = &**wanted;
                let text = |t: &ItemText| (t.title.clone(), t.categories.clone(), t.brand.clone(), t.also_bought.clone());
                let catalogue = data.catalogue.iter().map(text).collect();
                Head::Views { settings: Box::new(settings.clone()), data: Frame::of(data), catalogue }
            }
            Order::Close => Head::Close,
            Order::End => Head::End,
        };
        let parcel = Parcel::new().bytes(&serde_json::to_vec(&head).map_err(fail)?);
        Ok(match self {
            Order::Open(training) => {
                let Training { data, views, .. } = &**training;
                let parcel = arrays(parcel, data);
                if views.users.is_empty() { parcel } else { parcel.bytes(&views::encode(views).map_err(fail)?) }
            }
            Order::Views(wanted) => arrays(parcel, &wanted.0),
            Order::Rank(_, users) => parcel.words(users),
            Order::Restore(checkpoint) => parcel.bytes(&checkpoint.to_bytes(Path::new("checkpoint"))?),
            _ => parcel,
        }
        .into_bytes())
    }

    /// Back from [`Order::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Order> {
        let mut pieces = Pieces::of(bytes);
        let damaged = || fail("it came damaged");
        Ok(match serde_json::from_slice(pieces.bytes().ok_or_else(damaged)?).map_err(fail)? {
            Head::Open { settings, on_gpu, data: frame, views } => {
                let data = frame.whole(&mut pieces).ok_or_else(damaged)?;
                let views = match views {
                    true => views::decode(pieces.bytes().ok_or_else(damaged)?, &data).map_err(fail)?,
                    false => Views::default(),
                };
                let settings = Validated::new(*settings)?;
                Order::Open(Box::new(Training { settings, data: Arc::new(data), views: Arc::new(views), on_gpu }))
            }
            Head::Log { folder } => Order::Log(folder),
            Head::Round => Order::Round,
            Head::Rank { test, place, item } => {
                let split = if test { Split::Test } else { Split::Validation };
                let target = item.map_or(Target::Nth(place), Target::Item);
                Order::Rank(Sought { split, target }, pieces.words().ok_or_else(damaged)?)
            }
            Head::Tensors => Order::Tensors,
            Head::Restore => Order::Restore(Box::new(Checkpoint::parse(Path::new("checkpoint"), pieces.bytes().ok_or_else(damaged)?)?)),
            Head::Spent => Order::Spent,
            Head::Views { settings, data, catalogue } => {
                let text = |(title, categories, brand, also_bought)| ItemText { title, categories, brand, also_bought };
                let data = data.whole(&mut pieces).ok_or_else(damaged)?;
                let data = Dataset { catalogue: catalogue.into_iter().map(text).collect(), ..data };
                Order::Views(Box::new((data, *settings)))
            }
            Head::Close => Order::Close,
            Head::End => Order::End,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NamedTensor;
    use crate::run::CheckpointMeta;
    use crate::views::UserViews;

    fn training() -> Training {
        let data = Dataset {
            name: "d".into(),
            fingerprint: "f".into(),
            user_tokens: vec!["u\"1".into(), "ü".into()],
            item_tokens: vec!["a".into(), "b".into(), "c".into()],
            offsets: vec![0, 3, 7],
            items: vec![0, 1, 2, 2, 1, 0, 1],
            catalogue: vec![ItemText::default(); 3],
            groups: Some(UserGroups { column: "shop".into(), names: vec!["x".into(), "y".into()], of: vec![1, 0] }),
            released: Some(vec![4, 0, 7]),
            altered: "ab".into(),
            cuts: Some(Cuts { train: vec![1, 2], validation: vec![1, Cuts::NONE], test: vec![2, 6] }),
        };
        let views = UserViews { future: vec![0, 1], paraphrase: vec![2], counterfactuals: vec![vec![1], vec![0]] };
        let mut settings = Settings::default();
        // Neither has a short decimal form.
        (settings.local.lr, settings.loss.tau) = (0.1f32.sqrt(), 1.0 / 3.0);
        let views = Arc::new(Views { users: vec![views, UserViews::default()] });
        Training { settings: Validated::new(settings).unwrap(), data: Arc::new(data), views, on_gpu: true }
    }

    #[test]
    fn orders_come_back() {
        let whole = training();
        let meta = CheckpointMeta { round: 3, ..CheckpointMeta::new(&whole.settings, &whole.data) };
        let checkpoint = Checkpoint { meta, tensors: vec![NamedTensor::f32("items", &[2], &[0.25, -0.0])] };
        let bare = Training {
            data: Arc::new(Dataset { groups: None, cuts: None, ..(*whole.data).clone() }),
            views: Arc::default(),
            ..whole.clone()
        };
        let text = ItemText { title: "T".into(), categories: vec!["a".into(), "b".into()], brand: "B".into(), also_bought: vec![2, 0] };
        let described = Dataset { catalogue: vec![text, ItemText::default(), ItemText::default()], ..(*whole.data).clone() };
        for order in [
            Order::Log("runs/ü \"x\"".into()),
            Order::Views(Box::new((described, whole.settings.views.clone()))),
            Order::Open(Box::new(whole)),
            Order::Open(Box::new(bare)),
            Order::Round,
            Order::Rank(Split::Test.into(), vec![3, 1]),
            Order::Rank(Sought { split: Split::Validation, target: Target::Item(7) }, vec![]),
            Order::Rank(Sought { split: Split::Test, target: Target::Nth(3) }, vec![0, 1]),
            Order::Tensors,
            Order::Spent,
            Order::Close,
            Order::End,
        ] {
            assert_eq!(Order::decode(&order.encode().unwrap()).unwrap(), order);
        }
        // Saving fills in its checksum.
        let Order::Restore(back) = Order::decode(&Order::Restore(Box::new(checkpoint.clone())).encode().unwrap()).unwrap() else {
            panic!()
        };
        assert_eq!((back.meta.round, back.tensors), (3, checkpoint.tensors));
        assert!(Order::decode(&Order::Rank(Split::Test.into(), vec![1]).encode().unwrap()[..20]).is_err());
    }
}
