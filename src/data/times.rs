//! Times of interactions: whole numbers stay whole numbers, and their unit is known.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::date;
use crate::base::clean;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Times that never reach a year after 1970 in seconds are taken for positions, not for dates.
const YEAR: f64 = 365.0 * 86_400.0;

/// Whole numbers up to here are exact as 64-bit floats.
const EXACT: u64 = 1 << 53;

/// What the numbers of a time column count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Places in a history; they say nothing of days.
    Positions,
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Microseconds since 1970.
    Microseconds,
    /// Nanoseconds since 1970.
    Nanoseconds,
}

impl TimeUnit {
    /// The unit of a column whose largest number, without its sign, is `largest`: seconds reach the year 5138, and so does each finer
    /// unit; what does not reach the year 1971 in seconds is a position.
    fn of(largest: f64) -> TimeUnit {
        match largest {
            x if x < YEAR => TimeUnit::Positions,
            x if x < 1e11 => TimeUnit::Seconds,
            x if x < 1e14 => TimeUnit::Milliseconds,
            x if x < 1e17 => TimeUnit::Microseconds,
            _ => TimeUnit::Nanoseconds,
        }
    }

    /// Its name, as it stands in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::Positions => "positions",
            TimeUnit::Seconds => "seconds",
            TimeUnit::Milliseconds => "milliseconds",
            TimeUnit::Microseconds => "microseconds",
            TimeUnit::Nanoseconds => "nanoseconds",
        }
    }

    /// Units in a day; `None` for positions.
    fn per_day(self) -> Option<i64> {
        match self {
            TimeUnit::Positions => None,
            TimeUnit::Seconds => Some(DAY),
            TimeUnit::Milliseconds => Some(DAY * 1_000),
            TimeUnit::Microseconds => Some(DAY * 1_000_000),
            TimeUnit::Nanoseconds => Some(DAY * 1_000_000_000),
        }
    }
}

/// The numbers of a time column.
#[derive(Clone, Debug, PartialEq)]
pub enum TimeValues {
    /// Whole numbers, exact.
    Integer(Vec<i64>),
    /// Finite numbers, where a source has fractions.
    Float(Vec<f64>),
}

/// The end of a range of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// In the unit of the times.
    Whole(i64),
    /// The same with a fraction.
    Number(f64),
    /// Nanoseconds since 1970.
    Nanos(i64),
}

/// Times of interactions `[N]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// The numbers.
    pub values: TimeValues,
    /// What they count.
    pub unit: TimeUnit,
}

impl Times {
    /// `values` in the unit that follows from their magnitude.
    pub fn new(values: TimeValues) -> Times {
        let largest = match &values {
            TimeValues::Integer(all) => all.iter().map(|t| t.unsigned_abs()).max().unwrap_or(0) as f64,
            TimeValues::Float(all) => all.iter().fold(0.0, |most, t| t.abs().max(most)),
        };
        Times { unit: TimeUnit::of(largest), values }
    }

    /// Number of times.
    pub fn len(&self) -> usize {
        match &self.values {
            TimeValues::Integer(all) => all.len(),
            TimeValues::Float(all) => all.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Order of two of them.
    pub fn compare(&self, a: usize, b: usize) -> Ordering {
        match &self.values {
            TimeValues::Integer(all) => all[a].cmp(&all[b]),
            TimeValues::Float(all) => all[a].total_cmp(&all[b]),
        }
    }

    /// A number that two times share exactly when they are equal.
    pub(super) fn key(&self, at: usize) -> u64 {
        match &self.values {
            TimeValues::Integer(all) => all[at] as u64,
            TimeValues::Float(all) => all[at].to_bits(),
        }
    }

    /// The UTC day of one of them, counted from 1970; `None` for positions.
    pub fn day(&self, at: usize) -> Option<i64> {
        let day = self.unit.per_day()?;
        Some(match &self.values {
            TimeValues::Integer(all) => all[at].div_euclid(day),
            TimeValues::Float(all) => (all[at] / day as f64).floor() as i64,
        })
    }

    /// Reads the end of a range of times: a number in the unit of these times, or a date.
    ///
    /// # Errors
    /// What is wrong with it, by itself or beside these times.
    pub(super) fn bound(&self, text: &str) -> Result<Bound, String> {
        match cell(text)? {
            Cell::Integer(t) => Ok(Bound::Whole(t)),
            Cell::Float(t) => Ok(Bound::Number(t)),
            Cell::Date(_) if self.unit.per_day().is_none() => {
                Err(format!("`{}` is a date, and the times of the file are positions; give a number", clean::id(text)))
            }
            Cell::Date(moment) => Ok(Bound::Nanos(moment.nanos)),
        }
    }

    /// Whether one of them lies before `bound`.
    pub(super) fn before(&self, at: usize, bound: Bound) -> bool {
        // Nanoseconds of one unit, where the unit is known.
        let step = self.unit.per_day().map_or(1, |units| DAY * 1_000_000_000 / units);
        match (&self.values, bound) {
            (TimeValues::Integer(all), Bound::Whole(t)) => all[at] < t,
            (TimeValues::Integer(all), Bound::Number(t)) => (all[at] as f64) < t,
            (TimeValues::Integer(all), Bound::Nanos(t)) => i128::from(all[at]) * i128::from(step) < i128::from(t),
            (TimeValues::Float(all), Bound::Whole(t)) => all[at] < t as f64,
            (TimeValues::Float(all), Bound::Number(t)) => all[at] < t,
            (TimeValues::Float(all), Bound::Nanos(t)) => all[at] < t as f64 / step as f64,
        }
    }

    /// One of them as text.
    pub(super) fn show(&self, at: usize) -> String {
        match &self.values {
            TimeValues::Integer(all) => all[at].to_string(),
            TimeValues::Float(all) => all[at].to_string(),
        }
    }

    /// Those at `rows`, in that order.
    pub(super) fn select(&self, rows: &[u32]) -> Times {
        let values = match &self.values {
            TimeValues::Integer(all) => TimeValues::Integer(rows.iter().map(|r| all[*r as usize]).collect()),
            TimeValues::Float(all) => TimeValues::Float(rows.iter().map(|r| all[*r as usize]).collect()),
        };
        Times { values, unit: self.unit }
    }
}

/// Collects the cells of a time column, which must be of one kind.
#[derive(Default)]
pub(super) enum TimeColumn {
    /// Nothing yet.
    #[default]
    Empty,
    /// Whole numbers.
    Integer(Vec<i64>),
    /// Numbers, some with a fraction.
    Float(Vec<f64>),
    /// Dates as nanoseconds; whether date-times name an offset, once one was met.
    Dates(Vec<i64>, Option<bool>),
}

/// One cell.
enum Cell {
    Integer(i64),
    Float(f64),
    Date(date::Moment),
}

impl TimeColumn {
    /// Adds the cell `text`.
    ///
    /// # Errors
    /// What is wrong with it, by itself or beside the cells before it.
    pub fn push(&mut self, text: &str) -> Result<(), String> {
        const MIXED: &str = "dates and numbers stand in one time column; give every row the same kind";
        let cell = cell(text)?;
        match (&mut *self, cell) {
            (TimeColumn::Integer(all), Cell::Integer(t)) => all.push(t),
            (TimeColumn::Float(all), Cell::Float(t)) => all.push(t),
            (TimeColumn::Float(all), Cell::Integer(t)) => all.push(widened(t)?),
            (TimeColumn::Integer(all), Cell::Float(t)) => {
                let mut wide = all.iter().map(|t| widened(*t)).collect::<Result<Vec<f64>, String>>()?;
                wide.push(t);
                *self = TimeColumn::Float(wide);
            }
            (TimeColumn::Dates(all, zoned), Cell::Date(moment)) => {
                if zoned.is_some() && moment.zoned.is_some() && *zoned != moment.zoned {
                    return Err("times with and without an offset from UTC stand in one column; give every row one, or none".into());
                }
                *zoned = zoned.or(moment.zoned);
                all.push(moment.nanos);
            }
            (TimeColumn::Empty, Cell::Integer(t)) => *self = TimeColumn::Integer(vec![t]),
            (TimeColumn::Empty, Cell::Float(t)) => *self = TimeColumn::Float(vec![t]),
            (TimeColumn::Empty, Cell::Date(moment)) => *self = TimeColumn::Dates(vec![moment.nanos], moment.zoned),
            (TimeColumn::Dates(..), _) | (_, Cell::Date(_)) => return Err(MIXED.into()),
        }
        Ok(())
    }

    /// The whole column.
    pub fn finish(self) -> Times {
        match self {
            TimeColumn::Empty => Times::new(TimeValues::Integer(Vec::new())),
            TimeColumn::Integer(all) => Times::new(TimeValues::Integer(all)),
            TimeColumn::Float(all) => Times::new(TimeValues::Float(all)),
            TimeColumn::Dates(all, _) => Times { values: TimeValues::Integer(all), unit: TimeUnit::Nanoseconds },
        }
    }
}

/// A whole number among fractions, where that loses nothing.
fn widened(t: i64) -> Result<f64, String> {
    if t.unsigned_abs() <= EXACT {
        return Ok(t as f64);
    }
    Err(format!(
        "{t} and a number with a fraction stand in one time column, which cannot keep both exactly; give whole numbers in every row"
    ))
}

/// Reads one cell. Whole numbers, the usual case, take the short way.
fn cell(text: &str) -> Result<Cell, String> {
    let bytes = text.as_bytes();
    if (1..=18).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit) {
        return Ok(Cell::Integer(bytes.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'))));
    }
    // Table programs write whole numbers as 1600000000.0.
    let whole = text.split_once('.').map_or(text, |(whole, zeros)| if zeros.bytes().all(|b| b == b'0') { whole } else { text });
    if let Ok(t) = whole.parse::<i64>() {
        return Ok(Cell::Integer(t));
    }
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("the time {} is beyond 64 bits", clean::id(text)));
    }
    if let Some(moment) = date::parse(text) {
        return moment.map(Cell::Date).map_err(|why| format!("`{}` is not a time: {why}", clean::id(text)));
    }
    match text.parse::<f64>() {
        // Adding zero turns -0 into 0, so that the two tie.
        Ok(t) if t.is_finite() => Ok(Cell::Float(t + 0.0)),
        Ok(t) => Err(format!("the time is {t}; a finite number is needed")),
        Err(_) => Err(format!(
            "`{}` is not a time; a number (such as unix seconds), a date (2020-09-13) or a date-time (2020-09-13T12:26:40Z) is needed",
            clean::id(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cells: &[&str]) -> Result<Times, String> {
        let mut column = TimeColumn::default();
        cells.iter().try_for_each(|cell| column.push(cell))?;
        Ok(column.finish())
    }

    #[test]
    fn whole_numbers_stay_exact() {
        let near = read(&["1600000000000000160", "1600000000000000140"]).unwrap();
        assert_eq!(
            near,
            Times { values: TimeValues::Integer(vec![1600000000000000160, 1600000000000000140]), unit: TimeUnit::Nanoseconds }
        );
        assert_eq!(near.compare(1, 0), Ordering::Less);
        assert_eq!(read(&["9223372036854775807", "-9223372036854775808"]).unwrap().unit, TimeUnit::Nanoseconds);
        assert_eq!(read(&["1600000000.0", "-3", "+4", "5."]).unwrap().values, TimeValues::Integer(vec![1_600_000_000, -3, 4, 5]));
        assert_eq!(read(&["1", "1e3", "-0.0", "1.5"]).unwrap().values, TimeValues::Float(vec![1.0, 1000.0, 0.0, 1.5]));
    }

    #[test]
    fn a_column_is_of_one_kind() {
        for (cells, part) in [
            (&["1600000000", "2020-09-13"][..], "dates and numbers"),
            (&["2020-09-13", "1.5"], "dates and numbers"),
            (&["2020-09-13T10:00", "2020-09-13", "2020-09-13T10:00Z"], "with and without an offset"),
            (&["1600000000000000160", "1.5"], "exactly"),
            (&["1.5", "1600000000000000160"], "exactly"),
            (&["99999999999999999999"], "beyond 64 bits"),
            (&["1e999"], "finite"),
            (&["nan"], "finite"),
            (&["2020-02-30"], "no day 30"),
            (&["."], "not a time"),
            (&[""], "not a time"),
            (&["-"], "not a time"),
        ] {
            let message = read(cells).unwrap_err();
            assert!(message.contains(part), "{cells:?}: {message}");
        }
    }

    #[test]
    fn units_by_magnitude_of_the_whole_column() {
        use TimeUnit::*;
        for (cells, unit, days) in [
            (&["0", "1", "40954"][..], Positions, [None, None]),
            (&["1318896000", "5"], Seconds, [Some(15_265), Some(0)]),
            (&["1318896000.5", "-1"], Seconds, [Some(15_265), Some(-1)]),
            (&["1318896000000", "1318809600000"], Milliseconds, [Some(15_265), Some(15_264)]),
            (&["1318896000000000", "-1"], Microseconds, [Some(15_265), Some(-1)]),
            (&["1318896000000000000", "1318982399999999999"], Nanoseconds, [Some(15_265), Some(15_265)]),
            (&["2011-10-18", "2011-10-17T23:59:59.999999999"], Nanoseconds, [Some(15_265), Some(15_264)]),
            (&["1970-01-02", "1970-01-01T12:00:00+14:00"], Nanoseconds, [Some(1), Some(-1)]),
        ] {
            let times = read(cells).unwrap();
            assert_eq!((times.unit, [times.day(0), times.day(1)]), (unit, days), "{cells:?}");
        }
    }
}
