//! Compiles every kernel with the C++ compiler and writes the table of their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let kernels = here.parent().expect("the crate lies inside kernels/").to_path_buf();
    let mut sources = cu_files(&kernels);
    // The kernel of the candle engine, which candle compiles by itself.
    sources.extend(cu_files(&kernels.join("candle")));
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
    b.cpp(true).std("c++17").opt_level(2).warnings(true).extra_warnings(true).include(here.join("include")).include(&kernels);
    // No contraction: a fused multiply-add only where a kernel asks for one, so that results can be held against the same
    // formula in Rust to the last bit.
    for flag in ["-ffp-contract=off", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable"] {
        b.flag_if_supported(flag);
    }
    // In the shared library of the stand-in, too, a thread's place is read without a call.
    b.flag_if_supported("-ftls-model=initial-exec");
    // A fused multiply-add in one instruction where the machine that builds has it; the result of the function is the same.
    #[cfg(target_arch = "x86_64")]
    if std::env::var("HOST") == std::env::var("TARGET") && std::is_x86_feature_detected!("fma") {
        b.flag_if_supported("-mfma");
    }
    if std::env::var_os("CARGO_FEATURE_UCONTEXT").is_some() {
        b.define("LUMOS_SIMT_UCONTEXT", None);
    }
    if !sanitize.is_empty() {
        b.flag(format!("-fsanitize={sanitize}")).flag("-fno-omit-frame-pointer").flag("-g");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let layouts = shared_structs(&kernels);
    let header: String = layouts.iter().map(|(name, fields)| layout_function(name, fields)).collect();
    std::fs::write(out.join("layouts.h"), header).expect("the build folder can be written");
    b.include(&out).flag("-include").flag("layouts.h");
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
        table += &format!("    fn lumos_simt_sizes_{name}(index: usize, size: *mut usize, kind: *mut c_char) -> usize;\n");
    }
    for name in layouts.keys() {
        table += &format!("    fn lumos_simt_layout_{name}(index: usize, offset: *mut usize, size: *mut usize) -> usize;\n");
    }
    table += "}\nstatic STRUCTS: &[StructEntry] = &[\n";
    for (name, fields) in &layouts {
        table += &format!("    StructEntry {{ name: \"{name}\", fields: &{fields:?}, layout: lumos_simt_layout_{name} }},\n");
    }
    table += "];\nstatic KERNELS: &[Entry] = &[\n";
    for name in names.keys() {
        table += &format!("    Entry {{ name: \"{name}\", run: lumos_simt_{name}, sizes: lumos_simt_sizes_{name} }},\n");
    }
    table += "];\n";
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

/// Fields of the structs that a line `EXPORT_STRUCT(name)` follows, by the struct's name.
fn shared_structs(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        for line in text.lines() {
            let Some(name) = line.strip_prefix("EXPORT_STRUCT(").and_then(|rest| rest.split(')').next()) else { continue };
            let body = text.split(&format!("struct {name} {{\n")).nth(1).and_then(|rest| rest.split("\n};").next());
            let body = body.unwrap_or_else(|| panic!("{}: no struct {name} to export", path.display()));
            let plain: Vec<&str> = body.lines().map(|l| l.split("//").next().unwrap_or_default()).collect();
            let plain = plain.join(" ");
            let last = |word: &str| word.rsplit([' ', '*']).next().unwrap_or_default().to_string();
            let fields = plain.split(';').flat_map(|d| d.split(',')).map(str::trim).filter(|d| !d.is_empty()).map(last).collect();
            assert!(all.insert(name.to_string(), fields).is_none(), "struct {name} is exported twice");
        }
    }
    all
}

/// A function that gives offset and size of the field of an index, and the size of the struct.
fn layout_function(name: &str, fields: &[String]) -> String {
    let one = |f: &String| format!("{{offsetof({name}, {f}), sizeof({name}::{f})}}");
    let list: Vec<String> = fields.iter().map(one).collect();
    // Weak, because a header is compiled with each source that includes it.
    format!(
        "#define LUMOS_LAYOUT_{name} extern \"C\" __attribute__((weak)) size_t lumos_simt_layout_{name}(size_t index, size_t* offset, size_t* size) \\\n\
         {{ static const size_t all[][2] = {{{}}}; *offset = all[index][0]; *size = all[index][1]; return sizeof({name}); }}\n",
        list.join(", ")
    )
}
