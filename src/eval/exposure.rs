//! What an attack has won: how many users are recommended an item that it promotes.

use super::MISS;
use crate::base::clean;
use crate::base::names::hint;
use crate::data::{Dataset, Split};
use crate::{Error, Result};

/// How targets are chosen.
enum Choice<'t> {
    /// The item of this id.
    Id(&'t str),
    /// So many of the items in the order of rising popularity between two shares of the catalogue.
    Band { low: f64, high: f64, count: usize },
}

fn read<'t>(key: &'static str, text: &'t str) -> Result<Choice<'t>> {
    let wanted = |form: &str| Error::setting(key, format!("`{}` is no choice of items; write {form}", clean::id(text)));
    let count = |text: &str, form: &str| text.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| wanted(form));
    if text == "least-popular" {
        return Ok(Choice::Band { low: 0.0, high: 1.0, count: 1 });
    }
    if let Some(n) = text.strip_prefix("least-popular:") {
        return Ok(Choice::Band { low: 0.0, high: -1.0, count: count(n, "least-popular:N with N of at least 1")? });
    }
    if let Some(rest) = text.strip_prefix("popularity:") {
        let form = "popularity:LOW-HIGH:N with shares LOW below HIGH from 0 to 1 and N of at least 1";
        let (band, n) = rest.split_once(':').ok_or_else(|| wanted(form))?;
        let (low, high) = band.split_once('-').ok_or_else(|| wanted(form))?;
        let share = |text: &str| text.parse::<f64>().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| wanted(form));
        let (low, high) = (share(low)?, share(high)?);
        return if low < high { Ok(Choice::Band { low, high, count: count(n, form)? }) } else { Err(wanted(form)) };
    }
    Ok(Choice::Id(text))
}

/// Refuses items of the setting `key` that no data set could have.
///
/// # Errors
/// [`Error::Setting`] with what to write.
pub fn check_targets(key: &'static str, wanted: &[String]) -> Result<()> {
    wanted.iter().try_for_each(|text| read(key, text).map(|_| ()))
}

/// The items that `wanted` of the setting `key`, such as `attack.target`, names in `data`, each once, in the order in which they are named. Popularity is that of training items;
/// of equally popular items the one with the lower index comes first.
///
/// # Errors
/// [`Error::Setting`] for an id that the data set lacks, with the nearest, and for more items than it has.
pub fn targets(key: &'static str, wanted: &[String], data: &Dataset) -> Result<Vec<u32>> {
    let counts = data.train_counts();
    let mut order: Vec<u32> = (0..counts.len() as u32).collect();
    order.sort_by_key(|&item| (counts[item as usize], item));
    let mut found: Vec<u32> = Vec::new();
    for text in wanted {
        match read(key, text)? {
            Choice::Id(id) => {
                let item = data.item_tokens.iter().position(|token| token == id).ok_or_else(|| {
                    let near = hint(id, data.item_tokens.iter().map(String::as_str));
                    Error::setting(key, format!("`{}` is no item of data set `{}`{near}", clean::id(id), data.name))
                })?;
                found.push(item as u32);
            }
            Choice::Band { low, high, count } => {
                let n = order.len() as f64;
                // The least popular come one behind the other, those of a band evenly apart.
                let (from, to) = ((low * n) as usize, if high < 0.0 { count.min(order.len()) } else { (high * n) as usize });
                let band = &order[from..to.max(from)];
                if count > band.len() {
                    let message = format!("`{text}` asks for {count} items, and there are {} of them in `{}`", band.len(), data.name);
                    return Err(Error::setting(key, message));
                }
                found.extend((0..count).map(|i| band[i * band.len() / count]));
            }
        }
    }
    let mut seen = Vec::new();
    found.retain(|item| {
        !seen.contains(item) && {
            seen.push(*item);
            true
        }
    });
    Ok(found)
}

/// Those of `users` to whom `item` would be new: it stands nowhere in their sequences, and they have a target in `split`.
pub fn strangers(data: &Dataset, split: Split, item: u32, users: &[u32]) -> Vec<u32> {
    let new = |&&user: &&u32| data.input_and_target(user as usize, split).is_some() && !data.sequence(user as usize).contains(&item);
    users.iter().filter(new).copied().collect()
}

/// What users see of the promoted items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposure {
    /// Pairs of a promoted item and a user to whom it is new.
    pub pairs: u64,
    /// Of these at each cut-off K the share whose user has the item among the first K.
    pub rate: Vec<(u32, f64)>,
    /// Mean rank of the item over the pairs, 1 the best.
    pub mean_rank: f64,
}

/// Exposure by the `ranks` of promoted items, of users to whom they are new, at the cut-offs `ks`.
pub fn exposure(ranks: &[u32], ks: &[u32]) -> Exposure {
    let found: Vec<u32> = ranks.iter().copied().filter(|&rank| rank > 0 && rank != MISS).collect();
    let n = found.len().max(1) as f64;
    let share = |k: u32| found.iter().filter(|&&rank| rank <= k).count() as f64 / n;
    Exposure {
        pairs: found.len() as u64,
        rate: ks.iter().map(|&k| (k, share(k))).collect(),
        mean_rank: found.iter().map(|&rank| f64::from(rank)).sum::<f64>() / n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six items; item i is in the training part of i users.
    fn data() -> Dataset {
        let mut data = Dataset { offsets: vec![0], name: "d".into(), ..Default::default() };
        data.item_tokens = (0..6).map(|i| format!("item-{i}")).collect();
        for user in 0..5u32 {
            data.items.extend((user + 1)..6);
            data.items.extend([5, 0]);
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    fn found(text: &[&str]) -> Result<Vec<u32>> {
        targets("attack.target", &text.iter().map(|t| t.to_string()).collect::<Vec<_>>(), &data())
    }

    #[test]
    fn targets_are_chosen_by_id_and_by_popularity() {
        assert_eq!(data().train_counts(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(found(&["item-4", "item-1", "item-4"]).unwrap(), [4, 1]);
        assert_eq!(found(&["least-popular"]).unwrap(), [0]);
        assert_eq!(found(&["least-popular:3"]).unwrap(), [0, 1, 2]);
        assert_eq!(found(&["popularity:0.5-1:2", "least-popular"]).unwrap(), [3, 4, 0]);
        assert!(found(&[]).unwrap().is_empty());
        for (text, part) in [
            ("itm-4", "did you mean `item-4`"),
            ("least-popular:0", "N of at least 1"),
            ("least-popular:9", "asks for 9 items, and there are 6"),
            ("popularity:0.9-0.2:1", "LOW below HIGH"),
            ("popularity:0-0.2:9", "asks for 9"),
        ] {
            let message = found(&[text]).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("attack.target"), "{text}: {message}");
        }
    }

    #[test]
    fn only_users_to_whom_an_item_is_new_count() {
        let data = data();
        // Everybody meets item 0 in the end; item 2 is in the sequences of the first two.
        assert!(strangers(&data, Split::Test, 0, &[0, 1, 2, 3, 4]).is_empty());
        assert_eq!(strangers(&data, Split::Test, 2, &[0, 1, 2, 4]), [2, 4]);
        let found = exposure(&[1, 7, 0, 20, 5, MISS], &[5, 10]);
        assert_eq!(found, Exposure { pairs: 4, rate: vec![(5, 0.5), (10, 0.75)], mean_rank: 8.25 });
        assert_eq!(exposure(&[], &[5]).rate, [(5, 0.0)]);
    }
}
