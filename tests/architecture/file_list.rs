//! `FILES.md`: what each file holds, from its first comment. `make generate` writes it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders that are listed, with the ends of their files' names.
const FOLDERS: [(&str, &str); 3] = [("src", "rs"), ("python/pyrust_nn", "py"), ("scripts", "py")];

/// The longest text of a file, cut at the end of a sentence.
const LONGEST: usize = 320;

#[test]
fn generated_file_list_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut page = "# Files\n\nWhat each file holds, from its first comment. `make generate` writes this list. [ARCHITECTURE.md](ARCHITECTURE.md) explains how they work together.\n".to_string();
    let mut undescribed = Vec::new();
    for (folder, end) in FOLDERS {
        let mut files = Vec::new();
        collect(&root.join(folder), end, &mut files);
        files.sort_by_key(|file| (file.parent().unwrap().to_path_buf(), file.file_stem() != Some("mod".as_ref()), file.clone()));
        let mut heading = PathBuf::new();
        for file in files {
            let name = file.strip_prefix(root).unwrap();
            let text = first_comment(&fs::read_to_string(&file).unwrap(), end);
            if text.is_empty() {
                undescribed.push(name.display().to_string());
                continue;
            }
            if name.parent().unwrap() != heading {
                heading = name.parent().unwrap().to_path_buf();
                write!(page, "\n## {}/\n\n", heading.display()).unwrap();
            }
            writeln!(page, "* `{}`: {text}", name.file_name().unwrap().display()).unwrap();
        }
    }
    assert!(undescribed.is_empty(), "these files have no first comment that says what they hold: {undescribed:?}");
    let path = root.join("FILES.md");
    if std::env::var_os("PYRUST_NN_GENERATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert!(fs::read_to_string(&path).is_ok_and(|known| known == page), "FILES.md is not current; `make generate` writes it");
}

fn collect(folder: &Path, end: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, end, files);
        } else if path.extension().is_some_and(|found| found == end) && fs::metadata(&path).unwrap().len() > 0 {
            files.push(path);
        }
    }
}

/// The first paragraph of the first comment in one line.
fn first_comment(text: &str, end: &str) -> String {
    let lines: Vec<&str> = match end {
        "rs" => text.lines().map_while(|line| line.strip_prefix("//!")).take_while(|line| !line.trim().is_empty()).collect(),
        _ => {
            let Some(inner) = text.strip_prefix("\"\"\"").and_then(|rest| rest.split("\"\"\"").next()) else { return String::new() };
            inner.lines().take_while(|line| !line.trim().is_empty()).collect()
        }
    };
    let whole = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    if whole.len() <= LONGEST {
        return whole;
    }
    let cut = (0..=LONGEST).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
    match whole[..cut].rfind(". ") {
        Some(end) => whole[..=end].to_string(),
        None => whole.split_inclusive(". ").next().unwrap_or(&whole).trim_end().to_string(),
    }
}
