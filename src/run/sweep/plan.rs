//! Which trials a sweep has: a grid of values, or draws from ranges.

use crate::base::clean;
use crate::base::rng::{Purpose, Stream};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most trials of one sweep.
const MOST: usize = 10_000;

/// What is tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Settings with the values that each is given.
    pub grid: Vec<(String, Vec<String>)>,
    /// Settings with ranges that values are drawn from.
    pub ranges: Vec<(String, Range)>,
    /// Number of draws; `None`: every combination of the grid.
    pub draws: Option<u32>,
    /// Seed of the draws.
    pub draw_seed: u64,
    /// Seeds of each trial; empty: the configuration's own.
    pub seeds: Vec<u64>,
    /// Of the trials of a rung one in this many goes on to the next; `None`: every trial has all rounds.
    pub halving: Option<u32>,
}

/// Where values are drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    low: f64,
    high: f64,
    log: bool,
    whole: bool,
}

impl Range {
    /// Reads `lin:LOW..HIGH`, `log:LOW..HIGH` or `int:LOW..HIGH`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another form, an empty range, and a logarithmic one that is not above 0.
    pub fn parse(text: &str) -> Result<Range> {
        let wrong = || {
            let text = clean::id(text);
            Error::Usage(format!(
                "`{text}` is no range; write lin:LOW..HIGH, log:LOW..HIGH (above 0) or int:LOW..HIGH, such as log:1e-4..1e-1"
            ))
        };
        let (kind, ends) = text.split_once(':').ok_or_else(wrong)?;
        let (low, high) = ends.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(wrong);
        let (low, high) = (number(low)?, number(high)?);
        let (log, whole) = match kind {
            "lin" => (false, false),
            "log" => (true, false),
            "int" => (false, true),
            _ => return Err(wrong()),
        };
        let fits = low < high && (!log || low > 0.0) && (!whole || low.fract() == 0.0 && high.fract() == 0.0);
        if fits { Ok(Range { low, high, log, whole }) } else { Err(wrong()) }
    }

    /// The value at `u`, from 0 to 1, as text.
    fn at(&self, u: f64) -> String {
        if self.whole {
            let value = (self.low + u * (self.high - self.low + 1.0)).floor().min(self.high);
            return format!("{value:.0}");
        }
        let value = if self.log { (self.low.ln() + u * (self.high / self.low).ln()).exp() } else { self.low + u * (self.high - self.low) };
        // Four digits, so that the value can be typed again.
        let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
        format!("{rounded:?}")
    }
}

impl Plan {
    /// `KEY=VALUE` of every trial, in order.
    ///
    /// # Errors
    /// [`Error::Usage`] for a plan without a choice, too many trials, and ranges without a number of draws.
    pub fn trials(&self) -> Result<Vec<Vec<(String, String)>>> {
        if self.draws.is_none() && !self.ranges.is_empty() {
            return Err(Error::Usage("--range needs --random N, the number of draws".into()));
        }
        if self.halving.is_some_and(|eta| eta < 2) {
            return Err(Error::Usage("--halving: must be at least 2: one in that many goes on".into()));
        }
        let trials = match self.draws {
            Some(draws) => (0..draws).map(|draw| self.draw(draw)).collect(),
            None => self.product()?,
        };
        if trials.is_empty() || trials.len() > MOST {
            return Err(Error::Usage(format!("{} trials; between 1 and {MOST} are possible", trials.len())));
        }
        Ok(trials)
    }

    fn product(&self) -> Result<Vec<Vec<(String, String)>>> {
        let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
        for (key, values) in &self.grid {
            if all.len().saturating_mul(values.len()) > MOST {
                return Err(Error::Usage(format!("the grid has more than {MOST} trials; draw some of them with --random N")));
            }
            let with = |trial: &Vec<(String, String)>, value: &String| {
                let mut trial = trial.clone();
                trial.push((key.clone(), value.clone()));
                trial
            };
            all = all.iter().flat_map(|trial| values.iter().map(move |value| with(trial, value))).collect();
        }
        Ok(all)
    }

    /// A trial by chance, which depends on the seed and its number alone.
    fn draw(&self, number: u32) -> Vec<(String, String)> {
        let stream = Stream::new(self.draw_seed, Purpose::Bootstrap, u64::from(number), 1);
        let mut at = 0;
        let mut unit = || {
            at += 1;
            f64::from(stream.u32_at(at - 1)) / f64::from(u32::MAX)
        };
        let mut trial = Vec::new();
        for (key, values) in &self.grid {
            let place = (unit() * values.len() as f64) as usize;
            trial.push((key.clone(), values[place.min(values.len() - 1)].clone()));
        }
        for (key, range) in &self.ranges {
            trial.push((key.clone(), range.at(unit())));
        }
        trial
    }

    /// Rounds of each rung and how many trials it has, for `trials` trials of `rounds` rounds.
    pub fn rungs(&self, trials: usize, rounds: u32) -> Vec<(u32, usize)> {
        let Some(eta) = self.halving else { return vec![(rounds, trials)] };
        let mut sizes = vec![trials];
        while let Some(&last) = sizes.last().filter(|last| **last > 1) {
            sizes.push((last / eta as usize).max(1));
        }
        // At least one round in the first rung, and more in each.
        let most = std::iter::successors(Some(rounds), |left| Some(left / eta)).take_while(|left| *left > 0).count();
        let skip = sizes.len().saturating_sub(most.max(1));
        let sizes: Vec<usize> = std::iter::once(trials).chain(sizes.into_iter().skip(skip + 1)).collect();
        let last = sizes.len() as u32 - 1;
        sizes.iter().zip(0..).map(|(size, rung)| ((rounds / eta.saturating_pow(last - rung)).max(1), *size)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_every_combination_in_order() {
        let list = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let plan = Plan { grid: vec![("a".into(), list(&["1", "2"])), ("b".into(), list(&["x", "y", "z"]))], ..Plan::default() };
        let trials = plan.trials().unwrap();
        assert_eq!(trials.len(), 6);
        assert_eq!(trials[1], [("a".to_string(), "1".to_string()), ("b".to_string(), "y".to_string())]);
        assert_eq!(Plan::default().trials().unwrap(), [vec![]], "seeds alone");
    }

    #[test]
    fn draws_lie_in_their_ranges_and_depend_on_their_number_alone() {
        let ranges = [("lr", "log:1e-4..1e-1"), ("n", "int:1..3"), ("x", "lin:-1..1")];
        let ranges: Vec<_> = ranges.iter().map(|(key, text)| (key.to_string(), Range::parse(text).unwrap())).collect();
        let plan = Plan { ranges, draws: Some(200), ..Plan::default() };
        let trials = plan.trials().unwrap();
        let value = |trial: &Vec<(String, String)>, at: usize| trial[at].1.parse::<f64>().unwrap();
        assert!(trials.iter().all(|t| (1e-4..=1e-1).contains(&value(t, 0)) && (-1.0..=1.0).contains(&value(t, 2))));
        assert!(trials.iter().filter(|t| value(t, 0) < 1e-3).count() > 40, "a third of a logarithmic range");
        for n in ["1", "2", "3"] {
            assert!(trials.iter().filter(|t| t[1].1 == n).count() > 40);
        }
        let fewer = Plan { draws: Some(5), ..plan.clone() }.trials().unwrap();
        assert_eq!(fewer[..], trials[..5]);
        assert!(Plan { draws: None, ..plan }.trials().is_err());
        for bad in ["1..2", "log:0..1", "lin:2..1", "int:1.5..2", "exp:1..2", "lin:1", "lin:a..b"] {
            assert!(Range::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rungs_end_with_all_rounds_and_one_trial() {
        let plan = |eta| Plan { halving: Some(eta), ..Plan::default() };
        assert_eq!(plan(3).rungs(9, 90), [(10, 9), (30, 3), (90, 1)]);
        assert_eq!(plan(2).rungs(8, 40), [(5, 8), (10, 4), (20, 2), (40, 1)]);
        assert_eq!(plan(2).rungs(64, 4), [(1, 64), (2, 2), (4, 1)], "no rung is shorter than a round");
        assert_eq!(plan(2).rungs(1, 40), [(40, 1)]);
        assert_eq!(Plan::default().rungs(5, 40), [(40, 5)]);
    }
}
