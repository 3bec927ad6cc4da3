//! The time of day in UTC.

use jiff::Timestamp;

/// Now, as `2026-02-09T06:30:00Z`.
pub fn now() -> String {
    utc(Timestamp::now())
}

/// `time` in the same form; `None` where it is outside of the calendar.
pub fn of(time: std::time::SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(utc)
}

/// A moment cut to its second.
fn utc(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(super::utc(jiff::Timestamp::new(seconds, 999_999_999).unwrap()), text);
        }
    }
}
