//! The project's own files inside the binary: the Python package, the scripts, the sample, the lists of packages.
//! A binary far from its checkout, and another crate, run from these.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The text of a file, by its path in the project.
pub fn text(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// The modules of the package `pyrust_nn`: their full names and paths.
pub fn modules() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    FILES.iter().filter_map(|(path, text)| {
        let stem = path.strip_prefix("python/pyrust_nn/")?.strip_suffix(".py")?;
        let name = if stem == "__init__" { "pyrust_nn".to_string() } else { format!("pyrust_nn.{stem}") };
        Some((name, *path, *text))
    })
}
