//! Starting the program several times over, by `mpirun`.

use crate::cli::{Ran, Sandbox};
use crate::real;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A command that hangs is a failure after this.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether there is an `mpirun` here; says and counts a test that goes without.
pub fn there() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok_and(|out| out.status.success());
    found || real::skip::<()>("no mpirun on the PATH").is_some()
}

/// `lumos WORDS` as `n` processes that share this machine's cores.
pub fn command(sandbox: &Sandbox, n: usize, words: &[&str]) -> Command {
    let one = sandbox.command(words);
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-np", &n.to_string()]).arg(one.get_program()).args(one.get_args());
    prepared(command, sandbox)
}

/// What every `mpirun` of a test has in common.
pub fn prepared(mut command: Command, sandbox: &Sandbox) -> Command {
    // Open MPI refuses root without the two, and any other user may be in a container too.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env("LUMOS_PROGRESS_S", "0");
    command.current_dir(sandbox.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for `child`, and ends it where it hangs.
pub fn ended(mut child: Child, words: &str) -> Ran {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let out = child.wait_with_output().unwrap();
            panic!("{words} hangs: {}", String::from_utf8_lossy(&out.stderr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ran::new(child.wait_with_output().unwrap(), words)
}

/// `lumos WORDS` as `n` processes, to its end.
pub fn lumos(sandbox: &Sandbox, n: usize, words: &[&str]) -> Ran {
    ended(command(sandbox, n, words).spawn().unwrap(), &words.join(" "))
}

/// The process of `rank` below `mpirun`, once it is there.
pub fn pid_of(mpirun: &mut Child, rank: usize) -> u32 {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    loop {
        assert!(mpirun.try_wait().unwrap().is_none(), "it has ended before rank {rank} was found");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let status = String::from_utf8_lossy(&read("status")).into_owned();
            let child = status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|p| p.trim() == mpirun.id().to_string()));
            if child && read("environ").split(|b| *b == 0).any(|variable| variable == wanted.as_bytes()) {
                return pid;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
