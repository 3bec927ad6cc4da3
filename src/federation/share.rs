//! Which process trains which client and ranks which user, where several processes train one model. Decided by the draw and the data set alone, so
//! that every process comes to the same answer without a word.

use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::{Reduce, agree, divide};
use crate::data::Dataset;
use crate::engine::Participants;
use crate::{Error, Result};
use std::borrow::Cow;

/// Users that are ranked together; a multiple of what an engine ranks at a time.
const BLOCK: usize = 96;

/// The shares of all processes.
pub struct Shares {
    rank: usize,
    size: usize,
    /// Tokens of each user's input `[U]`.
    tokens: Vec<u64>,
    /// Process of each client, where clients keep state between rounds `[C]`: the state stays where it is.
    owner: Option<Vec<u32>>,
}

impl Shares {
    /// Shares of `participants`, whose inputs have at most `max_len` items. With `keep` a client is always trained by the same process.
    pub fn new(reduce: &dyn Reduce, data: &Dataset, participants: &Participants, max_len: usize, keep: bool) -> Shares {
        let (rank, size) = (reduce.rank(), reduce.size());
        let alone = size == 1;
        let users = if alone { 0 } else { data.users() };
        let tokens: Vec<u64> = (0..users).map(|user| data.sequence(user).len().min(max_len) as u64).collect();
        let mut shares = Shares { rank, size, tokens, owner: None };
        if keep && !alone {
            let all: Vec<u64> = (0..participants.len() as u32).map(|client| shares.cost(participants, client)).collect();
            shares.owner = Some(divide(&all, size));
        }
        shares
    }

    fn cost(&self, participants: &Participants, client: u32) -> u64 {
        participants.users(client).iter().map(|&user| self.tokens[user as usize]).sum()
    }

    /// Whether this process keeps the state of `client`.
    pub fn owns(&self, client: u32) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner[client as usize] as usize == self.rank)
    }

    /// The clients of `cohort` that this process trains, ascending.
    pub fn clients<'c>(&self, participants: &Participants, cohort: &'c [u32]) -> Cow<'c, [u32]> {
        if self.size == 1 {
            return Cow::Borrowed(cohort);
        }
        if self.owner.is_some() {
            return Cow::Owned(cohort.iter().copied().filter(|&client| self.owns(client)).collect());
        }
        let costs: Vec<u64> = cohort.iter().map(|&client| self.cost(participants, client)).collect();
        let of = divide(&costs, self.size);
        Cow::Owned(cohort.iter().zip(of).filter(|(_, rank)| *rank as usize == self.rank).map(|(&client, _)| client).collect())
    }

    /// Process of each of `users`: the one that has the user's state, else by blocks.
    fn of_users(&self, participants: &Participants, users: &[u32]) -> Vec<u32> {
        if let Some(owner) = &self.owner {
            return users.iter().map(|&user| owner[participants.of(user) as usize]).collect();
        }
        let cost = |block: &[u32]| block.iter().map(|&user| self.tokens[user as usize]).sum();
        let costs: Vec<u64> = users.chunks(BLOCK).map(cost).collect();
        divide(&costs, self.size).into_iter().flat_map(|rank| [rank; BLOCK]).take(users.len()).collect()
    }

    /// Ranks of all `users`, each found by one process: `rank` gives those of the users that are handed to it.
    ///
    /// # Errors
    /// Where any process fails.
    pub fn rank(
        &self,
        reduce: &dyn Reduce,
        participants: &Participants,
        users: &[u32],
        rank: impl FnOnce(&[u32]) -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        if self.size == 1 {
            return rank(users);
        }
        let of = self.of_users(participants, users);
        let own: Vec<u32> = users.iter().zip(&of).filter(|(_, of)| **of as usize == self.rank).map(|(&user, _)| user).collect();
        let found = agree(reduce, if own.is_empty() { Ok(Vec::new()) } else { rank(&own) })?;
        let all = reduce.gather(&Parcel::new().words(&found).into_bytes())?;
        let lists: Option<Vec<_>> = all.iter().map(|bytes| Pieces::of(bytes).words().map(Vec::into_iter)).collect();
        let damaged = || Error::Cluster("the ranks of another process came damaged".into());
        let mut lists = lists.ok_or_else(damaged)?;
        of.iter().map(|&rank| lists[rank as usize].next().ok_or_else(damaged)).collect()
    }
}
