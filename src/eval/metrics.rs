//! HR@K, NDCG@K and MRR@K over users, from the ranks of one target each.

use super::MISS;
use crate::base::clean;
use crate::base::names::nearest;
use crate::{Error, Result};
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// A ranking metric with one relevant item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Hit rate: the target is among the first K.
    Hr,
    /// Normalised discounted cumulative gain: `1 / log2(rank + 1)` for a hit.
    Ndcg,
    /// Reciprocal rank, 0 beyond K.
    Mrr,
}

impl Metric {
    /// All metrics, in the order of tables.
    pub const ALL: [Metric; 3] = [Metric::Hr, Metric::Ndcg, Metric::Mrr];

    /// Name without K.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Hr => "HR",
            Metric::Ndcg => "NDCG",
            Metric::Mrr => "MRR",
        }
    }

    /// Value of one user with the target at `rank` (from 1; [`MISS`] and 0 are worth nothing).
    pub fn value(self, rank: u32, k: u32) -> f64 {
        match self {
            _ if rank > k || rank == 0 || rank == MISS => 0.0,
            Metric::Hr => 1.0,
            Metric::Ndcg => 1.0 / (f64::from(rank) + 1.0).log2(),
            Metric::Mrr => 1.0 / f64::from(rank),
        }
    }
}

/// A metric at one cut-off, such as `NDCG@20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectMetric {
    /// Which metric.
    pub metric: Metric,
    /// Cut-off.
    pub k: u32,
}

impl SelectMetric {
    /// Reads `NAME@K`; the error names `key` and the nearest metric.
    pub fn parse(key: &str, text: &str) -> Result<SelectMetric> {
        let names = Metric::ALL.map(Metric::name);
        let usage = || {
            let text = clean::id(text);
            Error::setting(key, format!("`{text}` is not a metric; write NAME@K with one of {}, such as NDCG@20", names.join(", ")))
        };
        let (name, k) = text.split_once('@').ok_or_else(usage)?;
        // Written the one way that the keys of results are written: `HR@05` would be found in no result.
        let k = k.parse().ok().filter(|&n: &u32| n > 0 && n.to_string() == k).ok_or_else(usage)?;
        let metric = Metric::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let near = nearest(name, names).map_or(".".to_string(), |n| format!("; did you mean `{n}@{k}`?"));
            Error::setting(key, format!("unknown metric `{}`{near} Valid: {}", clean::id(name), names.join(", ")))
        })?;
        Ok(SelectMetric { metric, k })
    }

    /// `NDCG@20`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.metric.name(), self.k)
    }
}

/// Means over users, in the order HR, NDCG, MRR for each K; serialised as one flat map of means, `users` and `masked_targets`.
/// Standard errors are not in that map, so they are unknown after reading one back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Users with a target.
    pub users: u64,
    /// Of these, users whose target may not be recommended and counts as a miss at every K.
    pub masked_targets: u64,
    /// Name, mean and standard error of the mean where it is known.
    pub values: Vec<(String, f64, Option<f64>)>,
}

impl Metrics {
    /// Mean of a metric by name, such as `HR@20`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _, _)| n == name).map(|v| v.1)
    }

    /// Standard error of a metric's mean over users; `None` for fewer than two users and for metrics read from a file.
    pub fn standard_error(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _, _)| n == name).and_then(|v| v.2)
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len() + 2))?;
        map.serialize_entry("users", &self.users)?;
        map.serialize_entry("masked_targets", &self.masked_targets)?;
        for (name, mean, _) in &self.values {
            map.serialize_entry(name, mean)?;
        }
        map.end()
    }
}

/// Reads the flat map in any order of keys; values come back in the order of tables, by rising K.
impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Metrics, D::Error> {
        #[derive(Deserialize)]
        struct Flat {
            users: u64,
            #[serde(default)]
            masked_targets: u64,
            #[serde(flatten)]
            means: BTreeMap<String, f64>,
        }
        let flat = Flat::deserialize(deserializer)?;
        let mut values = Vec::new();
        for (name, mean) in flat.means {
            let at = SelectMetric::parse(&name, &name).map_err(D::Error::custom)?;
            values.push(((at.k, Metric::ALL.iter().position(|&m| m == at.metric)), (name, mean, None)));
        }
        values.sort_by_key(|(place, _)| *place);
        let (users, masked_targets) = (flat.users, flat.masked_targets);
        Ok(Metrics { users, masked_targets, values: values.into_iter().map(|(_, v)| v).collect() })
    }
}

/// Metrics of `ranks` (0: no target, left out; [`MISS`]: counted, a hit at no K) at every cut-off. Sums run in user order, so the
/// result is the same everywhere.
pub fn metrics(ranks: &[u32], ks: &[u32]) -> Metrics {
    let users = ranks.iter().filter(|&&r| r > 0).count() as u64;
    let masked_targets = ranks.iter().filter(|&&r| r == MISS).count() as u64;
    let n = users.max(1) as f64;
    let mut values = Vec::new();
    for &k in ks {
        for metric in Metric::ALL {
            let each = || ranks.iter().filter(|&&r| r > 0).map(|&r| metric.value(r, k));
            // An empty sum of floats is -0.
            let mean = (each().sum::<f64>() + 0.0) / n;
            let squares: f64 = each().map(|v| (v - mean).powi(2)).sum();
            let error = (users > 1).then(|| (squares / (n - 1.0) / n).sqrt());
            values.push((format!("{}@{k}", metric.name()), mean, error));
        }
    }
    Metrics { users, masked_targets, values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_cases_by_hand() {
        let m = metrics(&[1, 3, 0, 7], &[5]);
        assert_eq!(m.users, 3);
        assert!((m.get("HR@5").unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((m.get("NDCG@5").unwrap() - 1.5 / 3.0).abs() < 1e-12);
        assert!((m.get("MRR@5").unwrap() - (1.0 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!(m.get("HR@20"), None);
        assert_eq!(metrics(&[], &[5]).get("HR@5"), Some(0.0));
    }

    #[test]
    fn a_miss_counts_as_a_user_and_as_nothing_else() {
        let m = metrics(&[1, MISS, 0, MISS], &[5, u32::MAX]);
        assert_eq!((m.users, m.masked_targets), (3, 2));
        for name in ["HR@5", "NDCG@5", "MRR@5", "HR@4294967295"] {
            assert!((m.get(name).unwrap() - 1.0 / 3.0).abs() < 1e-12, "{name}");
        }
    }

    proptest! {
        #[test]
        fn metrics_keep_their_order(ranks in prop::collection::vec(0u32..60, 1..80)) {
            let m = metrics(&ranks, &[5, 10, 20]);
            let get = |n: &str| m.get(n).unwrap();
            for k in [5, 10, 20] {
                let (mrr, ndcg, hr) = (get(&format!("MRR@{k}")), get(&format!("NDCG@{k}")), get(&format!("HR@{k}")));
                prop_assert!(mrr <= ndcg + 1e-12 && ndcg <= hr + 1e-12);
            }
            prop_assert!(get("HR@5") <= get("HR@10") && get("HR@10") <= get("HR@20"));
            prop_assert!(get("HR@20") <= 1.0);
        }
    }

    #[test]
    fn a_mistyped_metric_is_refused_with_the_nearest() {
        assert_eq!(SelectMetric::parse("eval.select", "NDCG@20").unwrap().name(), "NDCG@20");
        let e = SelectMetric::parse("eval.select", "NDGC@20").unwrap_err().to_string();
        assert!(e.contains("NDCG@20") && e.contains("eval.select"), "{e}");
        for bad in ["HR", "HR@0", "HR@x", "HR@05", "HR@+5", "HR@-1", "HR@99999999999", "@5", ""] {
            assert!(SelectMetric::parse("eval.select", bad).is_err(), "{bad}");
        }
    }
}
