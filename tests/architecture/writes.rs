//! Every write of the core goes through `base/files/`, where a fault can be injected. Reads are free.

use crate::arrows::{Crate, Name, names_in};
use crate::{src, text};

/// Functions that change the file system, by what they belong to.
const FUNCTIONS: [(&str, &[&str]); 3] = [
    ("fs", &["copy", "rename", "write"]),
    ("File", &["create", "create_buffered", "create_new", "options"]),
    (
        "libc",
        &["creat", "fallocate", "ftruncate", "link", "mkdir", "mmap", "open", "openat", "rename", "rmdir", "symlink", "truncate", "unlink"],
    ),
];

/// What is nobody else's name, functions, methods and types.
const WORDS: [&str; 20] = [
    "DirBuilder",
    "MmapMut",
    "OpenOptions",
    "create_dir",
    "create_dir_all",
    "hard_link",
    "map_mut",
    "persist",
    "persist_noclobber",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "set_len",
    "set_modified",
    "set_permissions",
    "set_times",
    "symlink",
    "symlink_file",
    "sync_all",
    "sync_data",
];

/// Whether a name is of something that writes.
fn writes(name: &Name) -> bool {
    let function = |pair: &[String]| FUNCTIONS.iter().any(|(of, functions)| pair[0] == *of && functions.contains(&pair[1].as_str()));
    // Under another name, or as a glob, what follows could not be seen.
    let last = name.path.last().map(String::as_str);
    let hidden = name.imported_as.as_deref().is_some_and(|name| FUNCTIONS.iter().any(|(of, _)| last == Some(of) && name != *of));
    hidden || name.path.windows(2).any(function) || name.path.iter().any(|word| WORDS.contains(&word.as_str()))
}

#[test]
fn only_base_files_writes() {
    let all = Crate::read(&src());
    let main = names_in(&text(&src().join("main.rs")));
    let mut own = 0;
    for (file, names) in all.names().chain([("main.rs", main)]) {
        let found: Vec<String> = names.iter().filter(|name| writes(name)).map(|name| name.path.join("::")).collect();
        if file.starts_with("base/files/") {
            own += found.len();
        } else {
            assert!(found.is_empty(), "{file} writes by {}; base/files/ has what it needs, or gets it", found.join(", "));
        }
    }
    assert!(own >= 8, "the writes of base/files/ itself are seen: {own}");
}

#[test]
fn every_way_to_write_is_seen_and_no_way_to_read() {
    for code in [
        "fn f() { std::fs::write(p, b); }",
        "fn f() { if x { fs::rename(a, b)? } }",
        "use std::fs::{self, write}; fn f() { write(p, b); }",
        "use std::fs as system; fn f() { system::write(p, b); }",
        "use std::fs::*; fn f() { write(p, b); }",
        "use std::fs::File as F;",
        "fn f() { let file = File::create(p)?; }",
        "fn f() { File::options().write(true).open(p) }",
        "use std::fs::OpenOptions;",
        "fn f(file: &File) { file.sync_all()?; }",
        "fn f(file: &File) { file.set_len(0)?; }",
        "fn f() { parent.map(std::fs::create_dir_all) }",
        "fn f() { std::os::unix::fs::symlink(a, b) }",
        "fn f() { unsafe { libc::unlink(p) } }",
    ] {
        assert!(names_in(code).iter().any(writes), "{code}");
    }
    let reads = "use std::fs::{self, File}; use crate::base::files; fn f() { File::open(p)?; fs::read(p); std::fs::read_dir(p); files::rename(a, b);
        File::open(p)?.try_lock(); fs::metadata(p); write!(out, \"\"); out.write_all(b); }
        #[cfg(test)] mod tests { fn f() { std::fs::write(p, b); } }";
    assert!(!names_in(reads).iter().any(writes));
}
