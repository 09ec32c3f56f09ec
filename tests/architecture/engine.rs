//! The cache's keys contain a hash of what determines prepared rows (`build/engine_version.rs`).

use std::fs;
use std::path::Path;

use crate::engine_version::{engine_files, engine_version};

#[test]
fn a_changed_source_or_library_changes_the_key_of_the_cache() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(env!("PYRUST_NN_ENGINE"), engine_version(root), "the build script has run since the last change");
    let copy = tempfile::tempdir().unwrap();
    let files = engine_files(root);
    for name in ["Cargo.lock", "src/data/tokenizer/bpe.rs", "src/data/render/template.rs", "src/data/rows/sample.rs"] {
        assert!(files.contains(&name.into()), "{files:?}");
    }
    for file in &files {
        let path = copy.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(root.join(file), path).unwrap();
    }
    let version = engine_version(copy.path());
    assert_eq!(version, engine_version(root));
    for file in &files {
        let path = copy.path().join(file);
        let content = fs::read(&path).unwrap();
        fs::write(&path, [&content[..], b"\n"].concat()).unwrap();
        assert_ne!(engine_version(copy.path()), version, "{}", file.display());
        fs::write(&path, content).unwrap();
    }
    fs::write(copy.path().join("src/data/new.rs"), "").unwrap();
    assert_ne!(engine_version(copy.path()), version, "a new file");
}
