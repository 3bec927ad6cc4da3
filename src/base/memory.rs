//! Memory of the machine: what numbers ask for is held against it before it is allocated, for an allocation that fails ends the process.

use crate::{Error, Result};

/// Bytes that this process may use: the machine's, or its control group's where that is less; `None` where the system does not tell.
pub fn limit() -> Option<u64> {
    let machine = meminfo(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = group.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    group.chain(machine).min()
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Refuses `what` where it needs more `bytes` than there can be; `None` for more than can be counted. `remedy` says what to lower.
///
/// # Errors
/// [`Error::Usage`] with both numbers.
pub fn check(what: &str, bytes: Option<u64>, remedy: &str) -> Result<()> {
    fit(what, bytes, limit(), remedy)
}

fn fit(what: &str, bytes: Option<u64>, limit: Option<u64>, remedy: &str) -> Result<()> {
    // No allocation may be longer, whatever there is.
    let limit = limit.unwrap_or(u64::MAX).min(isize::MAX as u64);
    match bytes {
        Some(bytes) if bytes <= limit => Ok(()),
        bytes => {
            let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
            let needs = bytes.map_or("more than can be counted".into(), gib);
            Err(Error::Usage(format!("{what}: {needs} needed, {} of memory there; {remedy}", gib(limit))))
        }
    }
}

/// Asks glibc's allocator to keep what is freed, for the whole process and from then on: a training by tensors of some megabytes, each made anew in every
/// step, otherwise returns its pages to the system and asks for them again (docs/methods.md, GCL4SR). A thread's memory then stays at its peak; what is asked for
/// in advance counts where address space is limited (`ulimit -v`). It has no effect on another allocator.
pub fn keep_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        static ONCE: std::sync::Once = std::sync::Once::new();
        /// Bytes that are asked for and kept beyond what is in use; what is never touched takes no physical memory.
        const TOP_PAD: (c_int, c_int) = (-2, 256 << 20);
        /// Blocks of fewer bytes come from what is kept. It is the largest value there is; where pointers have 32 bits it is refused.
        const MMAP_THRESHOLD: (c_int, c_int) = (-3, 32 << 20);
        ONCE.call_once(|| {
            for (parameter, value) in [TOP_PAD, MMAP_THRESHOLD] {
                // SAFETY: any two numbers may be passed; what is refused stays as it was. Two integers change under the allocator's lock. glibc does not promise
                // more beside other threads: one that allocates meanwhile reads the old value or the new one, and either serves it.
                unsafe { mallopt(parameter, value) };
            }
        });
    }
}

/// The product of `factors`; `None` where it is too large to count.
pub fn product<const N: usize>(factors: [usize; N]) -> Option<u64> {
    factors.iter().try_fold(1u64, |n, f| n.checked_mul(*f as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_refused_with_both_numbers() {
        assert_eq!(meminfo("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert!(fit("cache", Some(3 << 30), Some(4 << 30), "").is_ok() && fit("cache", Some(1 << 62), None, "").is_ok());
        let message = fit("1 cache", Some(5 << 30), Some(4 << 30), "lower --batch").unwrap_err().to_string();
        assert_eq!(message, "1 cache: 5.0 GiB needed, 4.0 GiB of memory there; lower --batch");
        for bytes in [None, Some(u64::MAX)] {
            assert!(fit("cache", bytes, None, "").is_err());
        }
        assert_eq!((product([3, 4]), product([usize::MAX, 2])), (Some(12), None));
        assert!(limit().is_none_or(|bytes| bytes > 1 << 20));
    }
}
