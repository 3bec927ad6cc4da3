//! The three synthetic views of a history and the generators that write them. Knows nothing of devices or models.

/// The views of one user. Every sequence is in item indices, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserViews {
    /// The history continued by a few plausible next items (history included).
    pub future: Vec<u32>,
    /// The same intent in other items, same length as the history.
    pub paraphrase: Vec<u32>,
    /// Sequences that this user would not produce, same length as the history; one or more.
    pub counterfactuals: Vec<Vec<u32>>,
}

/// Views of every user, in user order; empty where a run uses none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Views {
    /// One entry a user `[U]`, or none at all.
    pub users: Vec<UserViews>,
}

impl Views {
    /// The views of `user`, if any were made.
    pub fn get(&self, user: usize) -> Option<&UserViews> {
        self.users.get(user)
    }
}
