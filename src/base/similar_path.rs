//! The path that was probably meant by one that does not exist.

use std::path::{Path, PathBuf};

/// Entries of a folder that are looked at. More are no one's own files.
const MOST_ENTRIES: usize = 10_000;

/// Ends of packed files, before which the file's own ends.
const PACKED: [&str; 3] = ["gz", "zst", "zip"];

/// The most similar path that `fits`: beside the missing one, or below the folder that is most similar to the missing one's.
pub(crate) fn similar_path(missing: &Path, fits: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let name = missing.file_name()?.to_str()?;
    let folder = missing.parent().unwrap_or(Path::new(""));
    if folder == Path::new("") || folder.is_dir() {
        return similar_in(folder, name, fits);
    }
    let folder = similar_path(folder, &|path| path.is_dir())?;
    let same = folder.join(name);
    if fits(&same) { Some(same) } else { similar_in(&folder, name, fits) }
}

/// `did you mean PATH?` if there is a similar path, otherwise `otherwise`.
pub(crate) fn or_similar(missing: &Path, fits: &dyn Fn(&Path) -> bool, otherwise: &str) -> String {
    similar_path(missing, fits).map_or_else(|| otherwise.to_string(), |near| format!("did you mean {}?", near.display()))
}

fn similar_in(folder: &Path, name: &str, fits: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let listed = if folder == Path::new("") { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(listed).ok()?.flatten().take(MOST_ENTRIES);
    let names =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|one| one.starts_with('.') == name.starts_with('.'));
    let mut rated: Vec<((f64, f64), String)> =
        names.map(|one| (likeness(name, &one), one)).filter(|((stems, _), _)| *stems > 0.8).collect();
    // By name, so that of equally similar ones the same is found each time.
    rated.sort_by(|(a, first), (b, second)| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then_with(|| first.cmp(second)));
    rated.into_iter().map(|(_, one)| folder.join(one)).find(|path| fits(path))
}

/// How similar two names are without their ends, which most files share, and then with them.
fn likeness(wrong: &str, name: &str) -> (f64, f64) {
    let (wrong, name) = (wrong.to_lowercase(), name.to_lowercase());
    (strsim::jaro_winkler(stem(&wrong), stem(&name)), strsim::jaro_winkler(&wrong, &name))
}

/// A name without `.json`, `.jsonl.gz`. The end of `Qwen3-0.6B` is part of the name.
fn stem(name: &str) -> &str {
    let split = |name: &'_ str| {
        let (stem, end) = name.rsplit_once('.')?;
        let is_end = !stem.is_empty() && !end.is_empty() && end.len() <= 8 && end.bytes().all(|byte| byte.is_ascii_lowercase());
        is_end.then_some((stem.len(), PACKED.contains(&end)))
    };
    match split(name) {
        Some((length, true)) => split(&name[..length]).map_or(&name[..length], |(length, _)| &name[..length]),
        Some((length, false)) => &name[..length],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similar_file_is_found_beside_it_and_in_a_similar_folder() {
        let root = tempfile::tempdir().unwrap();
        for name in ["good.json", "notes.json", "pipeline.toml", "rows.jsonl.gz", "data/train.jsonl", "models/Qwen3-0.6B/config.json"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let near = |name: &str, fits: &dyn Fn(&Path) -> bool| {
            similar_path(&root.path().join(name), fits).map(|path| path.strip_prefix(root.path()).unwrap().to_string_lossy().into_owned())
        };
        for (wrong, right) in [
            ("god.json", Some("good.json")),
            ("good.jsonl", Some("good.json")),
            ("good", Some("good.json")),
            ("Good.JSON", Some("good.json")),
            ("pipline.toml", Some("pipeline.toml")),
            ("row.jsonl", Some("rows.jsonl.gz")),
            ("dta/train.jsonl", Some("data/train.jsonl")),
            ("dta/tran.jsonl", Some("data/train.jsonl")),
            ("zebra.json", None),
            ("b.json", None),
            ("nowhere/at/all.json", None),
            ("model", None),
        ] {
            assert_eq!(near(wrong, &|path| path.is_file()).as_deref(), right, "{wrong}");
        }
        assert_eq!(near("models/Qwen3-0.7B", &|path| path.is_dir()).as_deref(), Some("models/Qwen3-0.6B"));
        assert_eq!(near("model", &|path| path.is_dir()).as_deref(), Some("models"));
    }
}
