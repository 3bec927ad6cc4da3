//! The table of kernels and the structs they share with the host, against their sources: names and order of the parameters from the text, types from the compiler.

use lumos::check::{declared_kernels, declared_structs};
use lumos::device::launch::{Kind, Signature};
use lumos::device::mirror::{Field, Mirror};
use std::collections::BTreeMap;
use std::path::Path;

/// Names of the parameters of every kernel in `kernels/*.cu`, those that a macro writes out for several kinds of numbers among them.
fn parameter_names() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "cu") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let plain: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap().trim_end_matches('\\')).collect();
        let mut before = String::new();
        for part in plain.join(" ").split("__global__ void") {
            if !before.is_empty() {
                let (name, own) = signature(part);
                // A macro's parameter stands for the names that it is called with.
                let called = before.rsplit_once("#define ").map(|(_, m)| m.split('(').next().unwrap().to_string());
                let names: Vec<&str> = match called.filter(|_| name == "name") {
                    Some(called) => text.lines().filter_map(|l| l.strip_prefix(&called)?.strip_prefix('(')?.split(',').next()).collect(),
                    None => vec![&name],
                };
                all.extend(names.into_iter().map(|name| (name.to_string(), own.clone())));
            }
            before = part.to_string();
        }
    }
    all
}

/// Name and names of the parameters of a kernel, from the text behind its result.
fn signature(text: &str) -> (String, Vec<String>) {
    let text = text.trim_start();
    let text = text.strip_prefix("__launch_bounds__(").map_or(text, |rest| rest.split_once(')').unwrap().1);
    let (name, rest) = text.split_once('(').unwrap();
    let last = |p: &str| p.rsplit(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty()).unwrap().to_string();
    (name.trim().to_string(), rest.split_once(')').unwrap().0.split(',').map(last).collect())
}

/// What is wrong with a declaration, if anything.
fn fault(declared: &Signature, names: &BTreeMap<String, Vec<String>>) -> Option<String> {
    for &name in declared.names {
        let own: Vec<&str> = declared.parameters.iter().map(|(name, _)| name.trim_start_matches("r#")).collect();
        match names.get(name) {
            Some(source) if *source == own => {}
            source => return Some(format!("{name}: declared {own:?}, the source has {source:?}")),
        }
        let compiled = lumos_simt::find(name).unwrap_or_else(|| panic!("{name} is not compiled")).signature();
        let kinds: Vec<(usize, char)> = declared.parameters.iter().map(|&(_, kind)| letter(kind)).collect();
        if compiled != kinds {
            return Some(format!("{name}: declared {kinds:?}, the compiler says {compiled:?}"));
        }
    }
    None
}

fn letter(kind: Kind) -> (usize, char) {
    match kind {
        Kind::Pointer => (8, 'p'),
        Kind::Int => (4, 'i'),
        Kind::Uint => (4, 'u'),
        Kind::Float => (4, 'f'),
        Kind::Long => (8, 'l'),
        Kind::Struct(bytes) => (bytes, 's'),
    }
}

#[test]
fn every_declared_kernel_has_the_parameters_of_its_source() {
    let names = parameter_names();
    let faults: Vec<String> = declared_kernels().iter().filter_map(|k| fault(k, &names)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_kernel_is_declared_once() {
    let mut declared: Vec<&str> = declared_kernels().iter().flat_map(|k| k.names).copied().collect();
    declared.sort_unstable();
    // candle launches the kernels that store by itself.
    let ours = |name: &str| !name.starts_with("selftest_") && !name.starts_with("store_");
    let known = |name: &&str| ours(name) && (cfg!(feature = "llm") || !name.starts_with("decoder_"));
    assert_eq!(declared, lumos_simt::kernels().filter(known).collect::<Vec<_>>());
}

/// Arguments are put together by the tables' own code alone.
#[test]
fn every_launch_is_of_a_declared_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut seen) = (vec![root.join("src"), root.join("benches")], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("src/device") {
                    folders.push(path);
                }
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let own = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric());
            assert!(!text.match_indices("Arg::").any(|(at, _)| own(at)), "{}: an argument outside a table of kernels", path.display());
            seen += 1;
        }
    }
    assert!(seen > 100, "the sources are there");
}

#[test]
fn a_wrong_declaration_is_caught() {
    let names = parameter_names();
    let with = |parameters| Signature { names: &["zero"], parameters };
    let right = with(&[("step", Kind::Pointer), ("kind", Kind::Int), ("x", Kind::Pointer), ("width", Kind::Int)]);
    assert_eq!(fault(&right, &names), None);
    // Two of one type in the wrong order, one of another type and the same size, one too few.
    let swapped = with(&[("step", Kind::Pointer), ("width", Kind::Int), ("x", Kind::Pointer), ("kind", Kind::Int)]);
    let retyped = with(&[("step", Kind::Pointer), ("kind", Kind::Uint), ("x", Kind::Pointer), ("width", Kind::Int)]);
    let short = with(&[("step", Kind::Pointer), ("kind", Kind::Int), ("x", Kind::Pointer)]);
    for (wrong, says) in [(swapped, "the source has"), (retyped, "the compiler says"), (short, "the source has")] {
        let fault = fault(&wrong, &names).expect("it is wrong");
        assert!(fault.contains(says), "{fault}");
    }
}

/// What is wrong with a declared struct, if anything.
fn struct_fault(declared: &Mirror) -> Option<String> {
    let Some(compiled) = lumos_simt::structs().into_iter().find(|s| s.name == declared.name) else {
        return Some(format!("{} is not exported by the kernels", declared.name));
    };
    let own: Vec<_> = declared.fields.iter().map(|f| (f.name, f.offset, f.size)).collect();
    let differ = own.iter().zip(&compiled.fields).find(|(a, b)| a != b);
    if let Some((own, theirs)) = differ {
        return Some(format!("{}: declared {own:?}, the compiler says {theirs:?}", declared.name));
    }
    let same = own.len() == compiled.fields.len() && declared.bytes == compiled.bytes;
    (!same).then(|| format!("{}: {} fields, {} bytes, the compiler says {compiled:?}", declared.name, own.len(), declared.bytes))
}

#[test]
fn shared_structs_agree_field_by_field() {
    let mut declared: Vec<&str> = declared_structs().iter().map(|s| s.name).collect();
    declared.sort_unstable();
    let known = |name: &&str| cfg!(feature = "llm") || !["AttentionShape", "Heads", "TokenAsk"].contains(name);
    let exported: Vec<&str> = lumos_simt::structs().iter().map(|s| s.name).filter(known).collect();
    assert_eq!(declared, exported, "every shared struct is declared");
    for s in lumos_simt::structs() {
        let sum: usize = s.fields.iter().map(|&(_, _, size)| size).sum();
        assert_eq!(sum, s.bytes, "{}: a field is missing from the list", s.name);
    }
    let faults: Vec<String> = declared_structs().iter().filter_map(struct_fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_swapped_pair_of_fields_is_caught() {
    let field = |name, offset| Field { name, offset, size: 4 };
    let with = |fields| Mirror { name: "DropoutClock", bytes: 16, fields };
    let right: &'static [Field] = Box::leak(Box::new([field("key_low", 0), field("key_high", 4), field("round", 8), field("own", 12)]));
    assert_eq!(struct_fault(&with(right)), None);
    let swapped: &'static [Field] = Box::leak(Box::new([field("key_high", 0), field("key_low", 4), field("round", 8), field("own", 12)]));
    assert!(struct_fault(&with(swapped)).expect("it is wrong").contains("key_high"));
    assert!(struct_fault(&with(&right[..3])).is_some(), "one field too few");
}
