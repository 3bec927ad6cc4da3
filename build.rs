//! Embeds the GPU kernels: compiled where nvcc is at hand, as sources for NVRTC where it is not.
//!
//! `LUMOS_CUDA=nvcc | nvrtc | off` forces one of the three. nvcc is `$NVCC`, `$CUDA_HOME/bin/nvcc` or the first on the PATH.
//!
//! A release build in a git checkout learns its commit; `LUMOS_COMMIT` names another one, or one where there is no checkout.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, thread};

#[path = "build/commit.rs"]
mod commit;

/// Code for the two architectures that are tuned for, and PTX that newer ones translate at load.
const FLAGS: &[&str] = &[
    "-fatbin",
    "-std=c++17",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_80,code=compute_80",
    "--compress-mode=size",
];

/// One `kernels/NAME.cu`.
struct Family {
    name: String,
    path: PathBuf,
    source: String,
}

fn main() {
    for name in ["LUMOS_CUDA", "NVCC", "CUDA_HOME", "PATH", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build/commit.rs");
    tell_commit();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("kernels");
    // File by file: naming the folder would take in `kernels/simt` with what is built there. A new file is noticed by a test.
    let headers = read(&folder, "cuh");
    let families = read(&folder, "cu");
    for file in headers.iter().chain(&families) {
        println!("cargo:rerun-if-changed={}", file.path.display());
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let wish = env::var("LUMOS_CUDA").unwrap_or_default();
    let nvcc = match wish.as_str() {
        "" => find_nvcc(),
        "nvcc" => {
            Some(find_nvcc().unwrap_or_else(|| fail("LUMOS_CUDA=nvcc, and no nvcc is found: set NVCC or CUDA_HOME, or put it on the PATH")))
        }
        "nvrtc" | "off" => None,
        other => fail(&format!("LUMOS_CUDA is `{other}`; it may be `nvcc`, `nvrtc` or `off`, or not set")),
    };
    let (form, images) = match (&nvcc, wish.as_str()) {
        (_, "off") => ("Form::None".to_string(), Vec::new()),
        (Some((nvcc, version)), _) => (format!("Form::Compiled({version:?})"), compile(nvcc, version, &folder, &families, &headers, &out)),
        (None, _) => ("Form::Sources".to_string(), Vec::new()),
    };
    let table = table(&form, &families, &headers, &images);
    fs::write(out.join("kernels.rs"), table).unwrap_or_else(|e| fail(&format!("{}: {e}", out.display())));
}

/// Tells the compiler the commit. Not in debug builds: each commit would compile the whole crate anew.
fn tell_commit() {
    println!("cargo:rerun-if-env-changed=LUMOS_COMMIT");
    let given = env::var("LUMOS_COMMIT").is_ok_and(|name| !name.trim().is_empty());
    if given || env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    if let Some(found) = commit::of(&root) {
        println!("cargo:rustc-env=LUMOS_COMMIT={}", found.name);
        found.watch.iter().for_each(|path| println!("cargo:rerun-if-changed={}", path.display()));
    }
}

fn fail(message: &str) -> ! {
    // Cargo shows stderr of a build script that fails.
    eprintln!("{message}");
    exit(1)
}

fn read(folder: &Path, extension: &str) -> Vec<Family> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| fail(&format!("{}: {e}", folder.display())));
    let paths = entries.filter_map(|entry| entry.ok().map(|e| e.path()));
    let mut files: Vec<Family> = paths
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == extension))
        .map(|path| {
            let source = fs::read_to_string(&path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Family { name, path, source }
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// nvcc and its version, if it runs.
fn find_nvcc() -> Option<(PathBuf, String)> {
    // What is named must work; what is merely looked for may be missing.
    if let Some(named) = env::var_os("NVCC").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        let version = version(&path).unwrap_or_else(|| fail(&format!("NVCC is {}, and it does not run", path.display())));
        return Some((path, version));
    }
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    home.into_iter().chain([PathBuf::from("nvcc")]).find_map(|path| version(&path).map(|v| (path, v)))
}

/// `13.0.88` of the last but one line that `nvcc --version` prints.
fn version(nvcc: &Path) -> Option<String> {
    let output = Command::new(nvcc).arg("--version").output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().find(|w| w.starts_with('V') && w[1..].starts_with(|c: char| c.is_ascii_digit()));
    Some(word.map_or("of unknown version", |w| &w[1..]).to_string())
}

/// Compiles every family, several at a time, and gives the paths of the results.
fn compile(nvcc: &Path, version: &str, folder: &Path, families: &[Family], headers: &[Family], out: &Path) -> Vec<PathBuf> {
    let shared: String = headers.iter().map(|h| format!("{}\n{}\n", h.name, h.source)).collect();
    let extra: String = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].iter().map(|v| env::var(v).unwrap_or_default() + "\n").collect();
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 16);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    let work = || {
        while let Some(family) = families.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let key = format!("{} {version}\n{extra}{FLAGS:?}\n{shared}{}", nvcc.display(), family.source);
            if let Err(text) = compile_one(nvcc, folder, family, &key, out) {
                failures.lock().unwrap_or_else(|e| e.into_inner()).push(text);
            }
        }
    };
    thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failures.is_empty() {
        fail(&format!("{}\n(LUMOS_CUDA=nvrtc builds without nvcc)", failures.join("\n")));
    }
    families.iter().map(|f| out.join(&f.name).with_extension("fatbin")).collect()
}

fn compile_one(nvcc: &Path, folder: &Path, family: &Family, key: &str, out: &Path) -> Result<(), String> {
    let image = out.join(&family.name).with_extension("fatbin");
    let key_file = out.join(&family.name).with_extension("key");
    if image.is_file() && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    let output = Command::new(nvcc).args(FLAGS).arg("-I").arg(folder).arg("-o").arg(&image).arg(&family.path).output();
    let output = output.map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        return Err(format!("{} does not compile:\n{said}", family.path.display()));
    }
    fs::write(&key_file, key).map_err(|e| format!("{}: {e}", key_file.display()))
}

/// Names in the `EXPORT_KERNEL(name)` lines of a source.
fn kernels(source: &str) -> Vec<&str> {
    let lines = source.lines().filter_map(|line| line.trim_start().strip_prefix("EXPORT_KERNEL("));
    lines.filter_map(|rest| rest.split([',', ')']).next()).map(str::trim).collect()
}

/// Rust source of what is embedded.
fn table(form: &str, families: &[Family], headers: &[Family], images: &[PathBuf]) -> String {
    let mut text = format!("pub static FORM: Form = {form};\npub static FAMILIES: &[Family] = &[\n");
    let none = form == "Form::None";
    for (i, family) in families.iter().enumerate().filter(|_| !none) {
        let content = match images.get(i) {
            Some(image) => format!("image: include_bytes!({image:?}), source: \"\""),
            None => format!("image: &[], source: include_str!({:?})", family.path),
        };
        writeln!(text, "    Family {{ name: {:?}, kernels: &{:?}, {content} }},", family.name, kernels(&family.source)).unwrap();
    }
    text += "];\npub static HEADERS: &[(&str, &str)] = &[\n";
    for header in headers.iter().filter(|_| form == "Form::Sources") {
        writeln!(text, "    ({:?}, include_str!({:?})),", format!("{}.cuh", header.name), header.path).unwrap();
    }
    text + "];\n"
}
