//! How many cores a process may use: what the batch system and the system's masks leave it, shared with the processes beside it.

use crate::base::parallel;

/// What a process says of its place, to those beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name of the machine.
    pub host: String,
    /// Cores that the process may run on, as the system writes them: `0-3,8`; empty where it does not tell.
    pub mask: String,
}

impl Place {
    /// Of this process.
    pub fn here() -> Place {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Place { host: crate::base::lock::host(), mask: mask.unwrap_or_default().trim().to_string() }
    }
}

/// Threads of the process at `own`, one of `all`: the cores of its mask over the processes of its machine that have the same mask, and no more
/// than SLURM gives a task.
pub(super) fn threads(own: &Place, all: &[Place]) -> usize {
    let of_task = std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|n| n.parse().ok());
    share(parallel::threads(0), all.iter().filter(|place| *place == own).count(), of_task)
}

fn share(cores: usize, beside: usize, of_task: Option<usize>) -> usize {
    (cores / beside.max(1)).min(of_task.unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn cores_are_shared_by_those_who_may_run_on_them() {
        assert_eq!(share(8, 1, None), 8, "a process with cores of its own has them all");
        assert_eq!(share(8, 4, None), 2);
        assert_eq!(share(2, 4, None), 1, "never fewer than one");
        assert_eq!(share(64, 2, Some(8)), 8, "what SLURM gives a task is the most");
        assert_eq!(share(4, 4, Some(8)), 1);
    }
}
