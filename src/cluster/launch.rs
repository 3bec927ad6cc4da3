//! Who started this process, and as which of how many: read from what launchers put into the environment.

use crate::{Error, Result};

/// One process of several, as its launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The launcher: `Open MPI`, `PMI`, `SLURM` and so on.
    pub launcher: &'static str,
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process on its machine, where the launcher says; a GPU is chosen by it.
    pub local: Option<usize>,
}

/// Environment variable by which a user says that processes have nothing to do with each other.
pub const SWITCH: &str = "LUMOS_CLUSTER";

/// Launcher and its variables: number of processes, number of this one, number of this one on its machine. SLURM is last, for an `mpirun` in a
/// job of SLURM knows better. In a batch script SLURM says how many tasks the job may have; of a step that `srun` started it is the second name.
const KNOWN: &[(&str, &str, &str, &str)] = &[
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    ("PMI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("PALS", "PALS_SIZE", "PALS_RANKID", "PALS_LOCAL_RANKID"),
    ("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
];

/// How this process was launched; nothing for a process alone.
///
/// # Errors
/// [`Error::Usage`] where `LUMOS_CLUSTER` is neither `auto` nor `off`.
pub fn launch() -> Result<Option<Launch>> {
    read(|name| std::env::var(name).ok())
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    match variable(SWITCH).as_deref() {
        None | Some("" | "auto") => {}
        Some("off") => return Ok(None),
        Some(other) => {
            let message =
                format!("{SWITCH} is `{other}`; it may be `auto`, or `off` for processes that have nothing to do with each other");
            return Err(Error::Usage(message));
        }
    }
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    let found = KNOWN.iter().find_map(|&(launcher, size, rank, local)| {
        let (size, rank) = (number(size)?, number(rank)?);
        Some(Launch { launcher, rank, size, local: number(local).or_else(|| number("SLURM_LOCALID")) })
    });
    Ok(found.filter(|launch| launch.size > 1))
}

/// Whether a batch system started this process and can start it again.
pub fn in_batch_job() -> bool {
    std::env::var_os("SLURM_JOB_ID").is_some()
}

/// The refusal of several processes by a program that was built without MPI.
#[cfg(not(feature = "mpi"))]
pub(super) fn without_mpi(launch: &Launch) -> Error {
    Error::Usage(format!(
        "{} started {} processes, and this program was built without MPI: each would write the same files. Build it with `cargo build --release \
         --features mpi`, start one process, or set {SWITCH}=off where the processes have nothing to do with each other",
        launch.launcher, launch.size
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Option<Launch>> {
        read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        assert_eq!(of(&[]).unwrap(), None);
        let open = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
        let launch = of(&open).unwrap().unwrap();
        assert_eq!((launch.launcher, launch.rank, launch.size, launch.local), ("Open MPI", 3, 4, Some(1)));
        let slurm = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "1"), ("SLURM_LOCALID", "0"), ("SLURM_NTASKS", "2")];
        let launch = of(&slurm).unwrap().unwrap();
        assert_eq!((launch.launcher, launch.rank, launch.size, launch.local), ("SLURM", 1, 2, Some(0)));
        // Under `mpirun` in a job of SLURM the former says who is who.
        assert_eq!(of(&[&open[..], &slurm[..]].concat()).unwrap().unwrap().launcher, "Open MPI");
    }

    #[test]
    fn one_process_is_alone_and_so_is_a_batch_script() {
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")]).unwrap(), None);
        assert_eq!(of(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "7")]).unwrap(), None);
        assert_eq!(of(&[("PMI_SIZE", "x"), ("PMI_RANK", "0")]).unwrap(), None);
    }

    #[test]
    fn the_switch_turns_it_off_and_its_mistakes_are_named() {
        let two = [("PMI_SIZE", "2"), ("PMI_RANK", "0")];
        assert!(of(&two).unwrap().is_some());
        assert_eq!(of(&[("LUMOS_CLUSTER", "off"), two[0], two[1]]).unwrap(), None);
        assert!(of(&[("LUMOS_CLUSTER", "on")]).unwrap_err().to_string().contains("`on`"));
    }
}
