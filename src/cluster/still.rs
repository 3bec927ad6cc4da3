//! Which process the others wait for.

use std::time::{Duration, Instant};

/// What a process says of itself: exchanges entered so far, whether it waits in one (1), what it has worked on.
pub(super) type Sign = [u64; 3];

/// The process that others wait for in a later exchange, and that has not moved for `limit`.
pub(super) fn stands_still(all: &[(usize, Sign, Instant)], limit: Duration) -> Option<usize> {
    let latest = all.iter().filter(|(_, sign, _)| sign[1] == 1).map(|(_, sign, _)| sign[0]).max()?;
    all.iter().find(|(_, sign, moved)| sign[0] < latest && sign[1] == 0 && moved.elapsed() > limit).map(|(rank, ..)| *rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_and_does_not_move_is_found() {
        let now = Instant::now();
        let long_ago = now.checked_sub(Duration::from_secs(100)).unwrap_or(now);
        let limit = Duration::from_secs(50);
        let waits = (0, [7, 1, 3], long_ago);
        assert_eq!(stands_still(&[waits, (1, [6, 0, 9], long_ago)], limit), Some(1));
        assert_eq!(stands_still(&[waits, (1, [6, 0, 9], now)], limit), None, "it works");
        assert_eq!(stands_still(&[waits, (1, [7, 1, 9], long_ago)], limit), None, "it is in the same exchange");
        assert_eq!(stands_still(&[(0, [6, 0, 3], long_ago), (1, [6, 0, 9], long_ago)], limit), None, "no process waits");
    }
}
