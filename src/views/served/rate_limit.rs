//! When the next request may go out: at most a given number a minute, and none while the endpoint asks to wait.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest sleep without a look at whether anything is still wanted.
const NAP: Duration = Duration::from_millis(100);

/// Shared by all requests of a client.
pub(super) struct RateLimit {
    gap: Duration,
    next: Mutex<Instant>,
    /// When anybody last had an answer; before the first, when the work began.
    heard: Mutex<Option<Instant>>,
    answers: AtomicU64,
}

impl RateLimit {
    /// At most `per_minute` requests a minute, evenly spread; 0: no limit.
    pub(super) fn new(per_minute: u32) -> RateLimit {
        let gap = if per_minute == 0 { Duration::ZERO } else { Duration::from_secs(60) / per_minute };
        RateLimit { gap, next: Mutex::new(Instant::now()), heard: Mutex::new(None), answers: AtomicU64::new(0) }
    }

    /// An answer came at `now`.
    pub(super) fn answered(&self, now: Instant) {
        *self.heard.lock() = Some(now);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// How long no request has been answered; counted from the first call where there was none yet.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.heard.lock().get_or_insert(now))
    }

    /// Takes the next free moment, which may be now.
    pub(super) fn slot(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let at = now.max(*next);
        *next = at + self.gap;
        at
    }

    /// No request is sent before `until`.
    pub(super) fn pause(&self, until: Instant) {
        let mut next = self.next.lock();
        *next = until.max(*next);
    }
}

/// Sleeps until `at`; false where `stopped` became true before.
pub(super) fn sleep_until(at: Instant, stopped: &dyn Fn() -> bool) -> bool {
    loop {
        if stopped() {
            return false;
        }
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(NAP));
    }
}

/// How long to wait before repetition number `attempt` (from 0): twice as long each time, spread by `chance` in `[0, 1)` over half
/// to one and a half of it, so that requests that failed together do not come back together.
pub(super) fn backoff(first: f32, attempt: u32, chance: f32) -> Duration {
    const LONGEST: f32 = 60.0;
    Duration::from_secs_f32((first * 2f32.powi(attempt.min(16) as i32)).min(LONGEST) * (0.5 + chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_distance_and_heed_a_pause() {
        let pace = RateLimit::new(600);
        let now = Instant::now() + Duration::from_secs(1);
        let first = pace.slot(now);
        assert_eq!(first, now);
        assert_eq!(pace.slot(now) - first, Duration::from_millis(100));
        pace.pause(now + Duration::from_secs(5));
        assert_eq!(pace.slot(now), now + Duration::from_secs(5));
        pace.pause(now);
        assert_eq!(pace.slot(now), now + Duration::from_millis(5100));
        let free = RateLimit::new(0);
        assert_eq!((free.slot(now), free.slot(now)), (now, now));
    }

    #[test]
    fn silence_is_counted_from_the_last_answer() {
        let pace = RateLimit::new(0);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!((pace.silence(at(5)), pace.silence(at(9))), (Duration::ZERO, Duration::from_secs(4)));
        pace.answered(at(20));
        assert_eq!((pace.silence(at(50)), pace.silence(at(10))), (Duration::from_secs(30), Duration::ZERO));
    }

    #[test]
    fn waits_double_and_spread() {
        assert_eq!(backoff(1.0, 0, 0.5), Duration::from_secs(1));
        assert_eq!(backoff(1.0, 3, 0.0), Duration::from_secs(4));
        assert!(backoff(1.0, 200, 0.99) < Duration::from_secs(90));
        assert!(backoff(0.0, 9, 0.5).is_zero());
        assert!(!sleep_until(Instant::now() + Duration::from_secs(100), &|| true));
    }
}
