//! Seconds of an epoch and of an evaluation that other programs' authors publish (`published.toml`), with what they were measured on.

use serde::{Deserialize, Serialize};

const TABLE: &str = include_str!("published.toml");

#[derive(Deserialize)]
struct Table {
    source: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    program: String,
    from: String,
    hardware: String,
    software: String,
    work: String,
    data: Vec<Data>,
}

#[derive(Deserialize)]
struct Data {
    name: String,
    users: u64,
    items: u64,
    interactions: u64,
    /// Method, seconds of an epoch, seconds of an evaluation.
    epochs: Vec<(String, f64, f64)>,
}

/// One published row.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// Whose figure it is.
    pub program: String,
    /// Data set.
    pub data: String,
    /// Users.
    pub users: u64,
    /// Items.
    pub items: u64,
    /// Interactions.
    pub interactions: u64,
    /// Method.
    pub method: String,
    /// Seconds of an epoch.
    pub epoch_seconds: f64,
    /// Seconds of a full ranking of all users.
    pub rank_seconds: f64,
    /// What an epoch is there.
    pub work: String,
    /// Where it was measured.
    pub hardware: String,
    /// With what.
    pub software: String,
    /// Where it is published.
    pub from: String,
}

/// Every published row.
pub fn published() -> Vec<Published> {
    let table: Table = toml::from_str(TABLE).expect("the embedded table is whole");
    let rows = table.source.iter().flat_map(|source| {
        source.data.iter().flat_map(move |data| {
            data.epochs.iter().map(move |(method, epoch, rank)| Published {
                program: source.program.clone(),
                data: data.name.clone(),
                users: data.users,
                items: data.items,
                interactions: data.interactions,
                method: method.clone(),
                epoch_seconds: *epoch,
                rank_seconds: *rank,
                work: source.work.clone(),
                hardware: source.hardware.clone(),
                software: source.software.clone(),
                from: source.from.clone(),
            })
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_whole() {
        let rows = super::published();
        assert!(rows.len() >= 9 && rows.iter().all(|row| row.epoch_seconds > row.rank_seconds && row.interactions > row.users));
    }
}
