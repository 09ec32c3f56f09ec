//! The structure of the code, checked so that it stays as ARCHITECTURE.md describes it.

mod arrows;
mod engine;
#[path = "../../build/engine_version.rs"]
mod engine_version;
mod file_list;
mod writes;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use arrows::{Crate, circles, rust_files};

/// The parts of the crate, each of which uses only those before it. `lib.rs` lists what is public of all.
const LAYERS: [&str; 20] = [
    "base",
    "params",
    "kernels",
    "data",
    "gguf",
    "adapter",
    "estimate",
    "python",
    "session",
    "dataset",
    "report",
    "step",
    "tasks",
    "pipeline",
    "serve",
    "board",
    "reference",
    "cli",
    "native",
    "api.rs",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// Without tests and comments.
fn code(path: &Path) -> String {
    let text = text(path);
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let arrows = Crate::read(&src()).arrows();
    let told: Vec<String> = circles(&arrows)
        .iter()
        .map(|circle| {
            let within = |file: &String| arrows[file].intersection(circle).cloned().collect::<Vec<_>>().join(", ");
            circle.iter().map(|file| format!("\n  {file} uses {}", within(file))).collect()
        })
        .collect();
    assert!(told.is_empty(), "files use each other in a circle:{}", told.join("\nand"));
}

#[test]
fn parts_use_only_the_parts_below_them() {
    let layer = |file: &str| LAYERS.iter().position(|layer| file.split('/').next() == Some(layer));
    for (file, used) in Crate::read(&src()).arrows().iter().filter(|(file, _)| *file != "lib.rs") {
        let own = layer(file).unwrap_or_else(|| panic!("{file} is in no part of LAYERS"));
        for other in used {
            assert!(layer(other).is_some_and(|other| other <= own), "{file} uses {other}, which is above it");
        }
    }
}

#[test]
fn the_parts_are_those_of_architecture_md() {
    let page = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"));
    assert!(page.len() <= 10 << 10, "ARCHITECTURE.md has {} bytes and is to stay one page of 10 KiB", page.len());
    let mut here: BTreeSet<String> = fs::read_dir(src()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    for list in ["lib.rs", "main.rs"] {
        here.remove(list);
    }
    assert_eq!(here, LAYERS.map(ToString::to_string).into_iter().collect());
    for part in LAYERS {
        let name = part.trim_end_matches(".rs");
        assert!(page.contains(&format!("`{name}/`")) || page.contains(&format!("`{part}`")), "ARCHITECTURE.md says nothing about {part}");
    }
}

#[test]
fn the_reader_of_arrows_sees_what_is_there() {
    // Each kind of arrow once, in code that is known to have it.
    let arrows = Crate::read(&src()).arrows();
    for (from, to, how) in [
        ("step/run.rs", "session/summary.rs", "a name in use"),
        ("tasks/call.rs", "step/run.rs", "a re-export"),
        ("tasks/merge.rs", "params/param_type.rs", "a glob of re-exports"),
        ("step/folder.rs", "step/checkpoints.rs", "a path through a module's name"),
        ("tasks/merge.rs", "params/shared_params.rs", "a macro"),
    ] {
        assert!(arrows[from].contains(to), "{from} uses {to} by {how}: {:?}", arrows[from]);
    }
}

#[test]
fn a_type_s_name_has_one_meaning() {
    let code = Crate::read(&src());
    let twice: Vec<_> = code.types().into_iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "names that stand for several types: {twice:?}");
}

#[test]
fn only_two_parts_know_pyo3() {
    for path in rust_files(&src()) {
        let relative = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
        // api.rs and lib.rs name its type in one signature.
        let may = ["python/", "native/"].iter().any(|part| relative.starts_with(part));
        assert!(may || !code(&path).contains("use pyo3"), "{relative} calls Python; only python/ and native/ do");
    }
}

#[test]
fn files_are_short() {
    let mut lengths: Vec<usize> = Vec::new();
    for path in rust_files(&src()) {
        let lines = text(&path).lines().count();
        assert!(lines <= 450, "{} has {lines} lines; a file holds one concept", path.display());
        lengths.push(lines);
    }
    lengths.sort_unstable();
    assert!(lengths[lengths.len() / 2] < 200, "half of the files have {} lines and more", lengths[lengths.len() / 2]);
}
