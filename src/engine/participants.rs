//! Who is a participant: a user, a group of users, or everyone together.

use crate::config::Clients;
use crate::data::Dataset;

/// The sequences of each participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participants {
    /// Bounds of participants in `users` `[C + 1]`.
    bounds: Vec<u32>,
    /// Users by participant, ascending in each.
    users: Vec<u32>,
    /// Participant of each user `[U]`.
    of: Vec<u32>,
}

impl Participants {
    /// The participants of `data`: `groups:N` puts a user into one of N groups by the CRC-32C of its name, so that the same user is in the
    /// same group whatever else the data set holds; `column` takes the groups of the data set, in the order of their names (one where it
    /// has none, which the trainer refuses). Groups without users are left out.
    pub fn new(clients: Clients, data: &Dataset) -> Participants {
        Participants::beside(clients, data, 0)
    }

    /// The same with `more` participants of one sequence each behind the users.
    pub fn beside(clients: Clients, data: &Dataset, more: u32) -> Participants {
        let users = data.users() as u32 + more;
        let group = |user: u32| match clients {
            Clients::User => user,
            Clients::One => 0,
            Clients::Column => data.groups.as_ref().map_or(0, |groups| groups.of[user as usize]),
            Clients::Groups(n) => {
                let name = data.user_tokens.get(user as usize).map_or_else(|| user.to_string(), String::clone);
                crc32c::crc32c(name.as_bytes()) % n.max(1)
            }
        };
        let mut order: Vec<(u32, u32)> = (0..users).map(|user| (group(user), user)).collect();
        order.sort_unstable();
        let mut all = Participants { bounds: vec![0], users: Vec::with_capacity(order.len()), of: vec![0; users as usize] };
        for members in order.chunk_by(|a, b| a.0 == b.0) {
            for &(_, user) in members {
                all.of[user as usize] = all.bounds.len() as u32 - 1;
                all.users.push(user);
            }
            all.bounds.push(all.users.len() as u32);
        }
        all
    }

    /// Number of participants.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The users of participant `client`.
    pub fn users(&self, client: u32) -> &[u32] {
        &self.users[self.bounds[client as usize] as usize..self.bounds[client as usize + 1] as usize]
    }

    /// The participant that `user` belongs to.
    pub fn of(&self, user: u32) -> u32 {
        self.of[user as usize]
    }

    /// Whether some participant has more than one sequence: it is trained in mini-batches that all threads share.
    pub fn share_batches(&self) -> bool {
        self.users.len() > self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(users: usize) -> Dataset {
        let user_tokens = (0..users).map(|u| format!("user {u}")).collect();
        Dataset { user_tokens, offsets: vec![0; users + 1], ..Dataset::default() }
    }

    proptest! {
        #[test]
        fn every_user_belongs_to_one_participant(users in 1usize..200, groups in 1u32..50) {
            let data = data(users);
            for clients in [Clients::User, Clients::One, Clients::Groups(groups)] {
                let all = Participants::new(clients, &data);
                let mut seen = vec![0; users];
                for client in 0..all.len() as u32 {
                    prop_assert!(!all.users(client).is_empty());
                    for &user in all.users(client) {
                        seen[user as usize] += 1;
                        prop_assert_eq!(all.of(user), client);
                    }
                }
                prop_assert!(seen.iter().all(|&n| n == 1));
            }
            prop_assert_eq!(Participants::new(Clients::User, &data).len(), users);
            prop_assert_eq!(Participants::new(Clients::One, &data).len(), 1);
            prop_assert!(Participants::new(Clients::Groups(groups), &data).len() <= groups as usize);
        }
    }

    #[test]
    fn a_group_does_not_depend_on_who_else_is_there() {
        let (few, many) = (data(40), data(400));
        let (a, b) = (Participants::new(Clients::Groups(4), &few), Participants::new(Clients::Groups(4), &many));
        assert_eq!((a.len(), b.len()), (4, 4));
        assert!((0..40).all(|user| a.of(user) == b.of(user)));
    }
}
