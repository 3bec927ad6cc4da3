//! Dates and date-times of ISO 8601 as nanoseconds since 1970.

use jiff::civil::Date;
use std::ops::RangeInclusive;

const EPOCH: Date = Date::constant(1970, 1, 1);
const NANOS: i64 = 1_000_000_000;

/// A date or a date-time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub nanos: i64,
    /// Whether the text names an offset; `None` for a date without a time of day. Without one the time is UTC.
    pub zoned: Option<bool>,
}

/// Reads `2020-09-13`, `2020-09-13T10:00`, `2020-09-13 10:00:00.123456789+02:00`, with `Z` or ` UTC` for the offset as well. `None`:
/// the text does not begin like a date.
///
/// # Errors
/// What is wrong with a text that begins like a date: a month, day or hour that does not exist, more than nanoseconds, a year that 64 bits
/// of nanoseconds do not reach (1678 to 2262).
pub(super) fn parse(text: &str) -> Option<Result<Moment, String>> {
    let bytes = text.as_bytes();
    let shaped =
        bytes.len() >= 10 && bytes[..10].iter().enumerate().all(|(at, b)| if at == 4 || at == 7 { *b == b'-' } else { b.is_ascii_digit() });
    if !shaped {
        return None;
    }
    let mut rest = Rest(bytes);
    Some(rest.moment())
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn moment(&mut self) -> Result<Moment, String> {
        let year = self.number(4, "year", 0..=9999)?;
        self.skip(b'-');
        let month = self.number(2, "month", 1..=12)?;
        self.skip(b'-');
        // The month is checked, so this is only where a year's calendar would not reach.
        let first = Date::new(year as i16, month as i8, 1).map_err(|e| e.to_string())?;
        let day = self.number(2, "day", 1..=first.days_in_month().into())?;
        let days = i64::from(EPOCH.until(first).map_err(|e| e.to_string())?.get_days()) + day - 1;
        let (mut seconds, mut fraction, mut zoned) = (days * 86_400, 0, None);
        if !self.0.is_empty() {
            if !self.skip(b'T') && !self.skip(b't') && !self.skip(b' ') {
                return Err("a `T` or a blank is needed between the date and the time of day".into());
            }
            seconds += self.number(2, "hour", 0..=23)? * 3600;
            self.colon()?;
            seconds += self.number(2, "minute", 0..=59)? * 60;
            if self.skip(b':') {
                seconds += self.number(2, "second", 0..=59)?;
                fraction = self.fraction()?;
            }
            let offset = self.offset()?;
            zoned = Some(offset.is_some());
            seconds -= offset.unwrap_or(0);
        }
        let nanos = i128::from(seconds) * i128::from(NANOS) + i128::from(fraction);
        match i64::try_from(nanos) {
            Ok(nanos) => Ok(Moment { nanos, zoned }),
            Err(_) => Err("the year is out of reach; 1678 to 2262 can be read".into()),
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn colon(&mut self) -> Result<(), String> {
        if self.skip(b':') { Ok(()) } else { Err("hours and minutes are needed, as in 10:00".into()) }
    }

    /// A number of exactly `digits` digits.
    fn number(&mut self, digits: usize, what: &str, range: RangeInclusive<i64>) -> Result<i64, String> {
        let Some((head, rest)) = self.0.split_at_checked(digits).filter(|(head, _)| head.iter().all(u8::is_ascii_digit)) else {
            return Err(format!("the {what} needs {digits} digits"));
        };
        self.0 = rest;
        let number = head.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
        if range.contains(&number) { Ok(number) } else { Err(format!("there is no {what} {number:0digits$}")) }
    }

    /// Nanoseconds after a point or a comma; 0 where neither stands.
    fn fraction(&mut self) -> Result<i64, String> {
        if !self.skip(b'.') && !self.skip(b',') {
            return Ok(0);
        }
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (head, rest) = self.0.split_at(digits);
        self.0 = rest;
        let (kept, lost) = head.split_at(digits.min(9));
        if digits == 0 || lost.iter().any(|b| *b != b'0') {
            return Err("a fraction of a second has one to nine digits".into());
        }
        Ok(kept.iter().chain([b'0'; 9].iter().skip(kept.len())).fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    }

    /// Seconds east of UTC; `None` where the text ends.
    fn offset(&mut self) -> Result<Option<i64>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.skip(b' ');
        if matches!(self.0, b"Z" | b"z" | b"UTC") {
            return Ok(Some(0));
        }
        let sign = if self.skip(b'+') {
            1
        } else if self.skip(b'-') {
            -1
        } else {
            return Err("what follows the time of day is no offset; `Z` or `+02:00` is one".into());
        };
        let mut seconds = self.number(2, "offset hour", 0..=23)? * 3600;
        if !self.0.is_empty() {
            self.skip(b':');
            seconds += self.number(2, "offset minute", 0..=59)? * 60;
        }
        if self.0.is_empty() { Ok(Some(sign * seconds)) } else { Err("there is more text behind the offset".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use proptest::prelude::*;

    fn nanos(text: &str) -> i64 {
        parse(text).unwrap().unwrap().nanos
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap().unwrap_err()
    }

    #[test]
    fn dates_and_times_of_day() {
        assert_eq!(nanos("1970-01-01"), 0);
        assert_eq!(nanos("2020-09-13"), 1_599_955_200 * NANOS);
        assert_eq!(nanos("2000-02-29"), 951_782_400 * NANOS);
        assert_eq!(nanos("1900-03-01"), -2_203_891_200 * NANOS);
        assert_eq!(nanos("2020-09-13T12:26:40Z"), 1_600_000_000 * NANOS);
        assert_eq!(nanos("2020-09-13 12:26:40.000000123"), 1_600_000_000 * NANOS + 123);
        assert_eq!(nanos("2020-09-13T12:26:40,5"), 1_600_000_000 * NANOS + 500_000_000);
        assert_eq!(nanos("1969-12-31T23:59:59.999999999Z"), -1);
        assert_eq!(nanos("2020-09-13T12:26"), 1_599_999_960 * NANOS);
        for same in ["2020-09-13T14:26:40+02:00", "2020-09-13t07:26:40-0500", "2020-09-13 12:26:40+00", "2020-09-13 12:26:40 UTC"] {
            assert_eq!(parse(same).unwrap().unwrap(), Moment { nanos: 1_600_000_000 * NANOS, zoned: Some(true) }, "{same}");
        }
        assert_eq!(parse("2020-09-13").unwrap().unwrap().zoned, None);
        assert_eq!(parse("2020-09-13T01:02:03").unwrap().unwrap().zoned, Some(false));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for (text, part) in [
            ("2020-13-01", "no month 13"),
            ("2020-00-01", "no month 00"),
            ("2021-02-29", "no day 29"),
            ("1900-02-29", "no day 29"),
            ("2020-04-31", "no day 31"),
            ("2020-01-00", "no day 00"),
            ("2020-01-01T24:00:00", "no hour 24"),
            ("2020-01-01T10:60", "no minute 60"),
            ("2020-01-01T10:00:61", "no second 61"),
            ("2020-01-01T10", "hours and minutes"),
            ("2020-01-01T", "2 digits"),
            ("2020-01-01x10:00", "`T` or a blank"),
            ("2020-01-01T10:00:00.", "one to nine digits"),
            ("2020-01-01T10:00:00.1234567891", "one to nine digits"),
            ("2020-01-01T10:00:00+25:00", "no offset hour 25"),
            ("2020-01-01T10:00:00+01:00x", "behind the offset"),
            ("2020-01-01T10:00:00 CET", "no offset"),
            ("1600-01-01", "1678 to 2262"),
            ("9999-12-31T23:59:59", "1678 to 2262"),
        ] {
            let message = refused(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        for other in ["yesterday", "2020/09/13", "20200913", "2020-9-13", "", "2020-09-1"] {
            assert!(parse(other).is_none(), "{other}");
        }
    }

    proptest! {
        /// The next day is one day later, whatever the month.
        #[test]
        fn days_follow_each_other(day in -100_000i64..100_000) {
            let date = EPOCH.saturating_add(day.days());
            prop_assert_eq!(nanos(&date.to_string()), day * 86_400 * NANOS);
        }

        #[test]
        fn no_text_panics(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T t]?[0-9:.+Z é-]{0,24}|.{0,30}") {
            let _ = parse(&text);
        }
    }
}
