//! Compiles every kernel with the C++ compiler and writes the table of their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let kernels = here.parent().expect("the crate lies inside kernels/").to_path_buf();
    let mut sources = cu_files(&kernels);
    sources.extend(cu_files(&here.join("selftest")));
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-env-changed=LUMOS_SIMT_SANITIZE");

    let mut names = BTreeMap::new();
    for path in &sources {
        for name in exports(path) {
            if let Some(other) = names.insert(name.clone(), path.clone()) {
                panic!("kernel `{name}` is exported by {} and by {}; names are global", other.display(), path.display());
            }
        }
    }

    let sanitize = std::env::var("LUMOS_SIMT_SANITIZE").unwrap_or_default();
    let mut b = cc::Build::new();
    b.cpp(true).std("c++17").opt_level(1).warnings(true).extra_warnings(true).include(here.join("include")).include(&kernels);
    // No contraction: a fused multiply-add only where a kernel asks for one, so that results can be held against the same
    // formula in Rust to the last bit.
    for flag in ["-ffp-contract=off", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable"] {
        b.flag_if_supported(flag);
    }
    if std::env::var_os("CARGO_FEATURE_UCONTEXT").is_some() {
        b.define("LUMOS_SIMT_UCONTEXT", None);
    }
    if !sanitize.is_empty() {
        b.flag(format!("-fsanitize={sanitize}")).flag("-fno-omit-frame-pointer").flag("-g");
    }
    b.flag("-x").flag("c++").flag("-include").flag("lumos_simt.h");
    b.file(here.join("include/runtime.cc")).files(&sources).compile("lumos_simt");
    for library in sanitize.split(',').filter_map(|s| match s {
        "address" => Some("asan"),
        "undefined" => Some("ubsan"),
        _ => None,
    }) {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let mut table = String::from("unsafe extern \"C\" {\n");
    for name in names.keys() {
        table += &format!(
            "    fn lumos_simt_{name}(g: *const u32, b: *const u32, shared: usize, args: *mut *mut c_void, threads: u32, error: *mut c_char) -> i32;\n"
        );
        table += &format!("    fn lumos_simt_sizes_{name}(index: usize, size: *mut usize) -> usize;\n");
    }
    table += "}\nstatic KERNELS: &[Entry] = &[\n";
    for name in names.keys() {
        table += &format!("    Entry {{ name: \"{name}\", run: lumos_simt_{name}, sizes: lumos_simt_sizes_{name} }},\n");
    }
    table += "];\n";
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("kernels.rs"), table).expect("the build folder can be written");
}

fn cu_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    for f in &files {
        if f.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            println!("cargo:rerun-if-changed={}", f.display());
        }
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "cu"));
    files
}

fn exports(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let line = |l: &str| Some(l.trim().strip_prefix("EXPORT_KERNEL(")?.split(')').next()?.trim().to_string());
    text.lines().filter_map(line).collect()
}
