//! `a-hum`: target rows that users would like who so far dislike the target ("hard user mining").

use super::Kind;
use super::a_ra::Drawn;

pub(super) const KIND: Kind = Kind {
    name: "a-hum",
    summary: "as a-ra, with users who first learn in `dislike` steps to dislike the target",
    paper: "A-hum, Rong et al., Poisoning Deep Learning Based Recommender Model in Federated Learning Scenarios, IJCAI 2022",
    knows: "nothing",
    options: &[("draws", 10.0), ("dislike", 30.0), ("deviation", 0.01), ("steps", 30.0), ("rate", 1.0), ("limit", 1.0)],
    promotes: true,
    build: |options| Ok(Box::new(Drawn::of(options, options.count("dislike", 1, 10_000)?)?)),
};
