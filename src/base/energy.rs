//! Energy of the machine's processors, as Linux's powercap interface counts it (RAPL of Intel and AMD).

use std::path::{Path, PathBuf};

/// Where Linux keeps the counters, a folder for each.
const POWERCAP: &str = "/sys/class/powercap";

/// The counters of a machine's processor packages. They count all that the packages do, other programs' work included.
pub struct Counters(Vec<Counter>);

/// One package.
struct Counter {
    file: PathBuf,
    /// Microjoules at the last look.
    last: u64,
    /// Highest microjoules; the next is 0.
    highest: u64,
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

impl Counters {
    /// The counters of this machine; nothing where it has none or they may not be read (many systems leave them to the superuser).
    pub fn open() -> Option<Counters> {
        Counters::in_folder(Path::new(POWERCAP))
    }

    fn in_folder(root: &Path) -> Option<Counters> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(root).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.sort();
        let counters = folders.iter().filter_map(|folder| {
            // Parts of a package (cores, memory) have a second number in their folder's name; what they use the package has counted.
            let package = folder.file_name()?.to_str()?.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'));
            let named = std::fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim().starts_with("package"));
            let file = folder.join("energy_uj");
            let (last, highest) = (number(&file)?, number(&folder.join("max_energy_range_uj"))?);
            (package && named).then_some(Counter { file, last, highest })
        });
        let counters: Vec<Counter> = counters.collect();
        (!counters.is_empty()).then_some(Counters(counters))
    }

    /// Joules since the last look, or since the counters were opened; nothing where a counter can no longer be read. A counter that went round once
    /// in between is seen, one that did so twice is not: a look every few minutes is enough.
    pub fn joules(&mut self) -> Option<f64> {
        let mut microjoules = 0;
        for counter in &mut self.0 {
            let now = number(&counter.file)?;
            let since = if now >= counter.last { now - counter.last } else { (counter.highest + now).saturating_sub(counter.last) };
            (counter.last, microjoules) = (now, microjoules + since);
        }
        Some(microjoules as f64 * 1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_and_their_parts_are_not() {
        let root = tempfile::tempdir().unwrap();
        let set = |folder: &str, name: &str, energy: &str| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            for (file, text) in [("name", name), ("energy_uj", energy), ("max_energy_range_uj", "9000000")] {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        assert!(Counters::in_folder(root.path()).is_none() && Counters::in_folder(Path::new("/nowhere")).is_none());
        set("intel-rapl:0", "package-0", "1000000");
        set("intel-rapl:0:0", "core", "500000");
        set("intel-rapl:1", "package-1", "8000000");
        set("intel-rapl:2", "psys", "1");
        set("other", "package-7", "1");
        let mut counters = Counters::in_folder(root.path()).unwrap();
        assert_eq!(counters.0.len(), 2);
        set("intel-rapl:0", "package-0", "3500000");
        // The other one went round: from 8 to 9 and on to 0.25.
        set("intel-rapl:1", "package-1", "250000");
        assert_eq!(counters.joules(), Some(2.5 + 1.25));
        assert_eq!(counters.joules(), Some(0.0));
        set("intel-rapl:1", "package-1", "what");
        assert_eq!(counters.joules(), None);
    }
}
