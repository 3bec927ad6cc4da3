//! What goes wrong on purpose, from the environment.

use crate::codes::forbidden;

/// A count of calls, and the one of them that is to fail.
pub struct Nth {
    fails: Option<u64>,
    seen: u64,
}

impl Nth {
    fn of(variable: &str) -> Nth {
        Nth { fails: number(variable), seen: 0 }
    }

    /// Counts a call; whether it is the one.
    pub fn hit(&mut self) -> bool {
        self.seen += 1;
        self.fails == Some(self.seen)
    }

    /// Counts a call; whether it is the one or behind it.
    pub fn hit_from(&mut self) -> bool {
        self.seen += 1;
        self.fails.is_some_and(|n| self.seen >= n)
    }
}

/// The number in a variable; nothing where it is not set.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| forbidden(&format!("{variable} is `{text}`, which is no number"))))
}

/// Each kind of fault.
pub struct Faults {
    pub alloc: Nth,
    pub pinned: Nth,
    pub launch: Nth,
    pub capture: Nth,
    pub copy: Nth,
    /// Device memory that an executable graph takes for each of its nodes.
    pub node_bytes: u64,
}

impl Faults {
    pub fn from_environment() -> Faults {
        Faults {
            alloc: Nth::of("LUMOS_FAKE_ALLOC_FAILS"),
            pinned: Nth::of("LUMOS_FAKE_PINNED_FAILS"),
            launch: Nth::of("LUMOS_FAKE_LAUNCH_FAULTS"),
            capture: Nth::of("LUMOS_FAKE_CAPTURE_FAILS"),
            copy: Nth::of("LUMOS_FAKE_COPY_HANGS"),
            node_bytes: number("LUMOS_FAKE_NODE_BYTES").unwrap_or(0),
        }
    }
}
