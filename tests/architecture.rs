//! The arrows between modules, as ARCHITECTURE.md draws them: checked, so that they stay true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The top module of a file, and its code without comments and tests.
fn modules() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&src)
        .into_iter()
        .map(|path| {
            let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
            let module = first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            (module, code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The modules of this crate that a text names after `crate::`.
fn named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = rest.strip_prefix('{').map_or_else(|| vec![rest], |rest| rest[..rest.find("};").unwrap_or(0)].split(',').collect());
        found.extend(list.iter().map(|word| word.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()));
    }
    found.remove("");
    found
}

#[test]
fn python_is_known_to_embed_and_module_alone() {
    for (module, code) in modules() {
        let allowed = ["embed", "module", "lib"].contains(&module.as_str());
        assert!(allowed || !code.contains("pyo3"), "{module} speaks to Python; only embed and module do");
    }
}

#[test]
fn arrows_go_one_way() {
    // Who may not be known to whom: the doors to nobody below them, the leaves know nobody.
    for (module, code) in modules() {
        let named = named(&code);
        let forbidden: &[&str] = match module.as_str() {
            "error" => &["files", "logging", "session", "summary", "run", "cli", "embed", "module", "data", "gguf", "params"],
            "files" | "params" | "data" | "estimate" | "gguf" | "logging" | "progress" => {
                &["session", "run", "cli", "embed", "module", "pipeline"]
            }
            "session" | "summary" | "status" | "resolve" | "task" => &["run", "cli", "embed", "module", "pipeline"],
            "run" => &["cli", "module", "pipeline", "resume"],
            "begun" | "checkpoints" | "place" => &["run", "cli", "embed", "module", "pipeline", "resume"],
            "resume" | "pipeline" => &["cli", "module", "embed"],
            "embed" => &["cli", "pipeline", "api", "run"],
            _ => &[],
        };
        for name in forbidden {
            assert!(!named.contains(*name), "{module} uses {name}: the arrows of ARCHITECTURE.md go the other way");
        }
    }
}

#[test]
fn a_file_is_short_enough_to_hold_one_concept() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 480, "{} has {lines} lines", path.display());
    }
}
