//! Several processes: rank 0 runs the command, the others do what it asks of them.

use super::{Command, interrupt};
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::{self, Mpi, Reduce};
use crate::config::Settings;
use crate::run::{self, Devices};
use crate::{Error, Result};
use std::sync::{Arc, OnceLock};

/// The processes of this command, where there are several.
static MET: OnceLock<Met> = OnceLock::new();

struct Met {
    mpi: Mpi,
    ranks: Arc<dyn Reduce>,
    local: Option<usize>,
}

/// The devices of this process, and the processes that it works with.
pub fn devices() -> Devices {
    match MET.get() {
        Some(met) => Devices::of(Some(met.ranks.clone()), met.local),
        None => Devices::default(),
    }
}

/// The processes of this command.
pub fn others() -> Option<&'static dyn Reduce> {
    MET.get().map(|met| &*met.ranks)
}

/// Whether several processes work on this command.
pub fn together() -> bool {
    MET.get().is_some()
}

/// Which engine commands would use, and why, as one line.
pub fn engine() -> String {
    let built = if cfg!(feature = "mpi") { "MPI is built in" } else { "built without MPI (feature `mpi`)" };
    match (cluster::launch(), MET.get()) {
        (_, Some(met)) => met.mpi.description().to_string(),
        (Err(e), _) => format!("none: {e}"),
        (Ok(Some(launch)), None) => format!("none: {} started {} processes, and this program was {built}", launch.launcher, launch.size),
        (Ok(None), None) => format!("one process alone; {built}"),
    }
}

/// Meets the others, if a launcher started any, and works for rank 0 where this is another rank: then the exit code is given.
///
/// # Errors
/// Where the processes cannot work together, or were not started with the same words and settings.
#[cfg_attr(not(feature = "mpi"), allow(unreachable_code, unused_variables, clippy::clone_on_copy))]
pub fn meet(command: &Command) -> Result<Option<u8>> {
    // It shows what is there, and needs nothing of it.
    if matches!(command, Command::Doctor(_)) && !cfg!(feature = "mpi") {
        return Ok(None);
    }
    let Some(mpi) = cluster::join()? else { return Ok(None) };
    let local = cluster::launch()?.and_then(|launch| launch.local);
    let ranks: Arc<dyn Reduce> = Arc::new(mpi.clone());
    let met = MET.get_or_init(|| Met { mpi, ranks, local });
    if let Err(e) = same_command(&*met.ranks, command) {
        met.mpi.finish();
        // One message is enough.
        return if met.ranks.rank() == 0 { Err(e) } else { Ok(Some(0)) };
    }
    if met.ranks.rank() == 0 {
        return Ok(None);
    }
    let stop = interrupt::listen_quietly()?;
    match run::follow(&met.ranks, &mut devices(), met.mpi.log(), stop) {
        Ok(()) => {
            met.mpi.finish();
            // The exit code of the whole is that of rank 0: a launcher that ends a job at the first failure must not end it before.
            Ok(Some(0))
        }
        Err(e) => met.mpi.end_all(&format!("{}: {e}", met.ranks.name(met.ranks.rank()))),
    }
}

/// Ends the others' work.
pub fn leave() {
    if let Some(met) = MET.get()
        && run::dismiss(&*met.ranks).is_ok()
    {
        met.mpi.finish();
    }
}

/// Refuses processes that were started with other words, or whose words come to other settings than those of rank 0.
fn same_command(ranks: &dyn Reduce, command: &Command) -> Result<()> {
    let settings = match command {
        Command::Train(args) => args.effective().map(|e| Some(e.settings)),
        Command::Run(args) => args.config.load().map(|e| Some(e.settings)),
        _ => Ok(None),
    };
    let settings = cluster::agree(ranks, settings)?;
    let settings = settings.map(|s| serde_json::to_string(&*s)).transpose();
    let settings = settings.map_err(|e| Error::Cluster(format!("the settings cannot be compared: {e}")))?.unwrap_or_default();
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let own = Parcel::new().bytes(settings.as_bytes()).bytes(interrupt::command_line(words, None).as_bytes());
    let damaged = || Error::Cluster("what another process was started with came damaged".into());
    let read = |bytes: &Vec<u8>| {
        let mut pieces = Pieces::of(bytes);
        Some((pieces.text()?.to_string(), pieces.text()?.to_string()))
    };
    let all: Option<Vec<(String, String)>> = ranks.gather(&own.into_bytes())?.iter().map(read).collect();
    let all = all.ok_or_else(damaged)?;
    for (rank, (settings, words)) in all.iter().enumerate().skip(1) {
        let name = ranks.name(rank);
        if *settings != all[0].0 {
            let parse = |text: &str| serde_json::from_str::<Settings>(text).map_err(|_| damaged());
            let differs = run::differences(&parse(&all[0].0)?, &parse(settings)?)?;
            if !differs.is_empty() {
                let list = differs.join("; ").replace(" was ", " is ").replace(", is ", " at rank 0 and ");
                return Err(Error::Cluster(format!("{name} has other settings: {list} there; start all processes with the same")));
            }
        }
        if *words != all[0].1 {
            return Err(Error::Cluster(format!("{name} was started as `{words}`, rank 0 as `{}`; start all alike", all[0].1)));
        }
    }
    Ok(())
}
