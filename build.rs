//! Finds the interpreter that the binary links, lists the files that are embedded in it, names the commit, and hashes the sources of the
//! data engine.
//!
//! The rpath of a build script does not reach a dependent crate. So Cargo.toml has `links = "pyrust_nn"`, and this script publishes the
//! folder of libpython as `DEP_PYRUST_NN_LIBPYTHON`. A `build.rs` of the dependent crate sets the rpath from it (see docs/rust.md).

#[path = "build/engine_version.rs"]
mod engine_version;

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    embed_files();
    export_engine_version();
    if env::var_os("PYO3_BUILD_EXTENSION_MODULE").is_none() {
        pyo3_build_config::add_libpython_rpath_link_args();
    }
    export_interpreter();
    export_commit();
}

/// Passes on the commit for `--version`: ` (1a2b3c4d5e 2026-01-31)`, or nothing if it is unknown. A source package made by cargo has a
/// file with the commit. Builds for development have none: it would rebuild everything after each commit.
fn export_commit() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&root);
    let git = |words: &[&str]| {
        let output = Command::new("git").current_dir(root).args(words).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // Not the repository of someone who has unpacked a source package in it.
    let commit = if release && root.join(".git").exists() {
        let watched = git(&["rev-parse", "--git-path", "logs/HEAD"]).map(|path| root.join(path)).filter(|path| path.is_file());
        for path in watched.into_iter().chain([root.join("src"), root.join("Cargo.toml")]) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
        git(&["log", "-1", "--abbrev=10", "--format=%h %cs"]).map(|text| if changed { format!("{text}, changed") } else { text })
    } else {
        let info = fs::read_to_string(root.join(".cargo_vcs_info.json")).unwrap_or_default();
        let hash = info.split_once("\"sha1\": \"").map(|(_, rest)| rest.chars().take(10).collect::<String>());
        hash.filter(|hash| hash.len() == 10 && hash.chars().all(|c| c.is_ascii_hexdigit()))
    };
    println!("cargo:rustc-env=PYRUST_NN_COMMIT={}", commit.map(|commit| format!(" ({commit})")).unwrap_or_default());
}

/// Passes on the version of the data engine, for the keys of the cache.
fn export_engine_version() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for path in ["build", "src/data", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rustc-env=PYRUST_NN_ENGINE={}", engine_version::engine_version(Path::new(&root)));
}

/// Passes on home, executable and version of the linked Python, so that the embedded interpreter never uses the library of another one.
fn export_interpreter() {
    let config = pyo3_build_config::get();
    println!("cargo:libpython={}", config.lib_dir().unwrap_or_default());
    let executable = config.executable().unwrap_or("python3").to_string();
    let facts = "import sys\nprint(sys.base_prefix)\nprint(getattr(sys, '_base_executable', sys.executable))\nprint('%d.%d' % sys.version_info[:2])";
    let output = Command::new(&executable).args(["-I", "-c", facts]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut lines = text.lines();
    for name in ["PYRUST_NN_PYTHON_HOME", "PYRUST_NN_PYTHON_EXECUTABLE", "PYRUST_NN_PYTHON_VERSION"] {
        println!("cargo:rustc-env={name}={}", lines.next().unwrap_or_default());
    }
}

/// Writes `embedded.rs`: the embedded files as a list of paths and texts, included by `src/base/assets.rs`.
fn embed_files() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let mut paths: Vec<String> =
        ["data.json", "pipeline.toml", "pyproject.toml", "python/pyrust_nn/models/tiny_texts.json", "requirements.txt"]
            .map(String::from)
            .to_vec();
    let mut folders = vec!["python/pyrust_nn".to_string(), "scripts".to_string()];
    while let Some(folder) = folders.pop() {
        println!("cargo:rerun-if-changed={folder}");
        for entry in fs::read_dir(Path::new(&root).join(&folder)).expect("the folder is part of the project").flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(".py") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let rows: String = paths
        .iter()
        .map(|path| {
            println!("cargo:rerun-if-changed={path}");
            format!("    ({path:?}, include_str!({:?})),\n", Path::new(&root).join(path))
        })
        .collect();
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("embedded.rs");
    fs::write(out, format!("static FILES: &[(&str, &str)] = &[\n{rows}];\n")).expect("cargo's own folder is writable");
}
