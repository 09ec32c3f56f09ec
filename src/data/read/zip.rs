//! The files in a zip archive, unpacked to the cache.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::{cache, error, files, signals};
use crate::data::read::files::digest;

/// Whether a file is a zip archive, by its first bytes.
pub(crate) fn is_zip(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"PK\x03\x04"
}

/// The files of an archive, sorted by name, in `<cache>/unzipped/<hash of the archive>/`.
///
/// # Errors
/// Kind `input`: the archive is damaged, encrypted or has no files. Kind `io`: the cache cannot be written.
pub(crate) fn unzip(path: &Path, cache_folder: &Path) -> Result<Vec<PathBuf>> {
    let entry = cache_folder.join("unzipped").join(format!("{:032x}", digest(&[path.to_path_buf()])?));
    while !cache::hold(&entry) {
        files::create_folders(&entry)?;
    }
    let folder = entry.join(path.file_name().unwrap_or_default());
    let broken = |cause: &dyn std::fmt::Display| {
        error::input(format!("the zip archive {} cannot be read: {cause}; unpack it, or pack it again", path.display()))
    };
    let file = File::open(path).map_err(|cause| broken(&cause))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|cause| broken(&cause))?;
    if archive.index_for_name("[Content_Types].xml").is_some() {
        let fix = "save a sheet as CSV, or write each text as {\"text\": …} on a line of a .jsonl file";
        return Err(error::input(format!("{} is an Office document, which is not read; {fix}", path.display())));
    }
    let mut found = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|cause| broken(&cause))?;
        let Some(name) = entry.enclosed_name() else {
            return Err(broken(&format!("it has the unsafe name {:?}", entry.name())));
        };
        let hidden = name.components().any(|part| matches!(part.as_os_str().to_string_lossy().as_bytes(), [b'.', ..] | b"__MACOSX"));
        if entry.is_dir() || hidden {
            continue;
        }
        let target = folder.join(&name);
        // Complete if it has its size: it is renamed when it is whole.
        if std::fs::metadata(&target).is_ok_and(|found| found.len() == entry.size()) {
            found.push(target);
            continue;
        }
        files::create_folders(target.parent().unwrap_or(&folder))?;
        let partial = files::beside(&target, &format!("partial-{}", std::process::id()));
        let copied = (|| -> Result<()> {
            let mut writer = files::Writer::create(&partial)?;
            let mut block = vec![0; 1 << 18];
            loop {
                signals::check()?;
                let read = entry.read(&mut block).map_err(|cause| broken(&cause))?;
                if read == 0 {
                    break;
                }
                writer.write_all(&block[..read])?;
            }
            writer.flush()?;
            files::rename(&partial, &target)
        })();
        drop(files::remove(&partial));
        copied?;
        found.push(target);
    }
    found.sort();
    if found.is_empty() {
        return Err(error::input(format!(
            "the zip archive {} holds no files; give an archive with JSON, CSV or Parquet files",
            path.display()
        )));
    }
    Ok(found)
}
