//! A word on data in which users come back to items, where nothing was chosen for them.

use crate::config::{Effective, Origin};
use crate::data::{Dataset, Split};
use crate::eval::ReturningTargets;

/// Share of targets in the history above which it is said.
const SHARE: f64 = 0.01;

/// Settings that decide about items that users come back to.
const CHOICES: [&str; 2] = ["eval.mask", "data.repeats"];

/// What to tell where more than one target in a hundred lies in its user's history and neither `eval.mask` nor `data.repeats` was
/// chosen; `None` otherwise.
pub fn returning_notice(effective: &Effective, data: &Dataset) -> Option<String> {
    let chosen = |key: &&str| effective.origins.get(*key).is_some_and(|origin| *origin != Origin::Default);
    if CHOICES.iter().any(chosen) {
        return None;
    }
    let [validation, test] = [Split::Validation, Split::Test].map(|split| ReturningTargets::count(data, split));
    if validation.share().max(test.share()) <= SHARE {
        return None;
    }
    let share = |targets: &ReturningTargets| format!("{:.1} %", 100.0 * targets.share());
    Some(format!(
        "{} of the validation targets and {} of the test targets are items that their users had met before. They are never recommended \
         and count as misses (eval.mask=history). Set eval.mask=none where users come back to items, or data.repeats=first to keep the \
         first occurrence alone; setting either one ends this note",
        share(&validation),
        share(&test)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred users of whom `back` end with an item of their history.
    fn world(back: usize) -> Dataset {
        let mut data = Dataset { item_tokens: vec![String::new(); 4], offsets: vec![0], ..Default::default() };
        for user in 0..100 {
            data.items.extend([0, 1, 2, if user < back { 1 } else { 3 }]);
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    #[test]
    fn more_than_one_in_a_hundred_is_said_unless_chosen() {
        let load = |sets: &[&str]| crate::settings::load(None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap();
        let told = returning_notice(&load(&[]), &world(2)).unwrap();
        for part in ["2.0 % of the test", "0.0 % of the validation", "eval.mask=none", "data.repeats=first"] {
            assert!(told.contains(part), "`{part}` is not in {told}");
        }
        assert_eq!(returning_notice(&load(&[]), &world(1)), None);
        assert_eq!(returning_notice(&load(&["eval.mask=history"]), &world(90)), None);
        assert_eq!(returning_notice(&load(&["eval.mask=none"]), &world(90)), None);
    }
}
