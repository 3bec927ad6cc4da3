//! A build without MPI: as one process it is what it was, as one of several it is refused.

use crate::cli::{Ran, Sandbox};

fn run(sandbox: &Sandbox, words: &[&str], variables: &[(&str, &str)]) -> Ran {
    Ran::new(sandbox.command(words).envs(variables.iter().copied()).output().unwrap(), &words.join(" "))
}

#[test]
fn one_of_several_processes_is_refused_before_it_touches_a_file() {
    let sandbox = Sandbox::new();
    let launchers: [&[(&str, &str)]; 3] = [
        &[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")],
        &[("PMI_SIZE", "2"), ("PMI_RANK", "0")],
        &[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "1")],
    ];
    for (variables, name) in launchers.into_iter().zip(["Open MPI", "PMI", "SLURM"]) {
        for words in [&["train", "small.toml", "--out", "run"][..], &["data", "build", "small.toml"]] {
            run(&sandbox, words, variables).refused(1, &[name, "2 processes", "without MPI", "--features mpi", "LUMOS_CLUSTER=off"]);
        }
        assert_eq!(std::fs::read_dir(sandbox.path()).unwrap().count(), 1, "small.toml alone");
        let shown = run(&sandbox, &["doctor"], variables).done();
        assert!(shown.contains("processes") && shown.contains(name), "{shown}");
    }
}

#[test]
fn processes_that_have_nothing_to_do_with_each_other_run() {
    let sandbox = Sandbox::new();
    let several = [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")];
    run(&sandbox, &["data", "build", "small.toml"], &[several[0], several[1], ("LUMOS_CLUSTER", "off")]).done();
    // A batch script, from which `srun` was not called.
    run(&sandbox, &["data", "stats", "data/small"], &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "1")]).done();
    run(&sandbox, &["config", "small.toml"], &[("LUMOS_CLUSTER", "on")]).refused(1, &["LUMOS_CLUSTER", "`on`", "off"]);
}
