//! How often views name given items: what an attack on titles has won before anything is trained.

use super::Views;
use crate::data::Dataset;
use serde::Serialize;

/// Shares of users, each of whom has views and none of the items in the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Named {
    /// Users.
    pub users: u64,
    /// Share whose future names one of the items among what it appends.
    pub future: f64,
    /// Share whose paraphrase does.
    pub paraphrase: f64,
    /// Share one of whose counterfactuals does.
    pub counterfactual: f64,
}

/// How often `views` of `data` name one of `items`, over the users that `counts` takes.
pub fn named(data: &Dataset, views: &Views, items: &[u32], counts: impl Fn(usize) -> bool) -> Named {
    let names = |sequence: &[u32]| sequence.iter().any(|item| items.contains(item));
    let users: Vec<usize> = (0..views.users.len().min(data.users()))
        .filter(|&user| !views.users[user].future.is_empty() && !names(data.sequence(user)) && counts(user))
        .collect();
    let share = |named: &dyn Fn(usize) -> bool| users.iter().filter(|user| named(**user)).count() as f64 / users.len().max(1) as f64;
    Named {
        users: users.len() as u64,
        future: share(&|user| names(&views.users[user].future)),
        paraphrase: share(&|user| names(&views.users[user].paraphrase)),
        counterfactual: share(&|user| views.users[user].counterfactuals.iter().any(|sequence| names(sequence))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::UserViews;

    #[test]
    fn users_who_know_the_item_do_not_count() {
        let data = Dataset { offsets: vec![0, 3, 6, 9], items: vec![0, 1, 2, 3, 1, 2, 0, 2, 1], ..Default::default() };
        let view = |future: &[u32], paraphrase: &[u32], other: &[u32]| UserViews {
            future: future.to_vec(),
            paraphrase: paraphrase.to_vec(),
            counterfactuals: vec![other.to_vec()],
        };
        let views = Views { users: vec![view(&[0, 3], &[3], &[4]), view(&[3, 3], &[3], &[3]), view(&[0, 4], &[3], &[3])] };
        // User 1 has item 3 already.
        let found = named(&data, &views, &[3], |_| true);
        assert_eq!(found, Named { users: 2, future: 0.5, paraphrase: 1.0, counterfactual: 0.5 });
        assert_eq!(named(&data, &views, &[3], |user| user == 2), Named { users: 1, future: 0.0, paraphrase: 1.0, counterfactual: 1.0 });
        assert_eq!(named(&data, &views, &[3], |_| false), Named::default());
    }
}
