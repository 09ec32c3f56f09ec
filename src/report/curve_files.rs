//! The curves of files that grow: of a file that was read before, only what was added is read.
//!
//! A page of a training with many logged steps is made anew every few seconds, and reading all lines each time would take longer than the rest.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::files;
use crate::report::curves::Curves;

/// Points that are kept, 16 bytes each. Files that were not looked at for longest are forgotten first.
const MAX_POINTS: usize = 4_000_000;
/// Bytes before the part that is new, by which a file is recognised that was written anew in place.
const TAIL: u64 = 64;

/// A file as it was read last.
#[derive(Debug)]
struct KnownFile {
    inode: u64,
    /// Bytes that were read: up to the end of the last whole line.
    bytes: u64,
    tail: Vec<u8>,
    curves: Arc<Curves>,
    /// Counts the looks.
    looked_at: u64,
}

/// Files that were read.
#[derive(Debug, Default)]
pub(crate) struct CurveFiles {
    known: Mutex<HashMap<PathBuf, KnownFile>>,
}

impl CurveFiles {
    /// The curves of a file as it is now, without a last line that has no end yet. Empty if there is no such file.
    pub(crate) fn read(&self, path: &Path) -> Arc<Curves> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_at = known.values().map(|file| file.looked_at).max().unwrap_or_default() + 1;
        let before = known.remove(path);
        let Ok((inode, added, mut file)) = grown(path, before) else { return Arc::default() };
        let lines = added.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if lines > 0 {
            Arc::make_mut(&mut file.curves).add_lines(&added[..lines]);
            file.bytes += lines as u64;
            file.tail.extend_from_slice(&added[..lines]);
            file.tail.drain(..file.tail.len().saturating_sub(TAIL as usize));
        }
        let curves = Arc::clone(&file.curves);
        known.insert(path.to_path_buf(), KnownFile { inode, looked_at, ..file });
        forget(&mut known);
        curves
    }
}

/// Number of the file, the bytes that are new, and what was known of it: nothing, if it is another one now.
fn grown(path: &Path, before: Option<KnownFile>) -> std::io::Result<(u64, Vec<u8>, KnownFile)> {
    let mut file = files::open_own(path)?;
    let about = file.metadata()?;
    if let Some(before) = before.filter(|before| before.inode == about.ino() && before.bytes <= about.len()) {
        file.seek(SeekFrom::Start(before.bytes - before.tail.len() as u64))?;
        let mut tail = vec![0; before.tail.len()];
        file.read_exact(&mut tail)?;
        if tail == before.tail {
            let mut added = Vec::new();
            file.read_to_end(&mut added)?;
            return Ok((about.ino(), added, before));
        }
        file.rewind()?;
    }
    let mut added = Vec::new();
    file.read_to_end(&mut added)?;
    Ok((about.ino(), added, KnownFile { inode: 0, bytes: 0, tail: Vec::new(), curves: Arc::default(), looked_at: 0 }))
}

/// Keeps the files that were looked at last, one at least.
fn forget(known: &mut HashMap<PathBuf, KnownFile>) {
    let points = |file: &KnownFile| file.curves.all.iter().map(|curve| curve.points.len()).sum::<usize>();
    while known.len() > 1 && known.values().map(points).sum::<usize>() > MAX_POINTS {
        let Some(oldest) = known.iter().min_by_key(|(_, file)| file.looked_at).map(|(path, _)| path.clone()) else { return };
        known.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn same(files: &CurveFiles, path: &Path) -> bool {
        let (grown, whole) = (files.read(path), Curves::read(path));
        grown.all == whole.all && grown.resumed_at == whole.resumed_at
    }

    #[test]
    fn a_file_that_grows_is_as_if_it_were_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let files = CurveFiles::default();
        assert!(files.read(&path).all.is_empty());
        let mut file = fs::File::create(&path).unwrap();
        for step in [1, 2, 3, 2, 3, 4] {
            writeln!(file, "{{\"step\": {step}, \"loss\": {}}}", 5.0 / f64::from(step)).unwrap();
            assert!(same(&files, &path), "step {step}");
        }
        // A line that is being written is not there yet, and then is.
        write!(file, "{{\"step\": 5, \"lo").unwrap();
        assert_eq!(files.read(&path).named("loss").unwrap().points.len(), 4);
        writeln!(file, "ss\": 1.0}}").unwrap();
        assert_eq!(files.read(&path).named("loss").unwrap().points.len(), 5);
        assert!(same(&files, &path));
    }

    #[test]
    fn a_file_that_was_replaced_or_written_anew_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let files = CurveFiles::default();
        let line = |step: u32, loss: f64| format!("{{\"step\": {step}, \"loss\": {loss:.1}}}\n");
        fs::write(&path, line(1, 4.0) + &line(2, 3.0)).unwrap();
        assert!(same(&files, &path));
        // The same file, with other lines of the same length, and more of them.
        fs::write(&path, line(1, 9.0) + &line(2, 8.0) + &line(3, 7.0)).unwrap();
        assert!(same(&files, &path));
        fs::write(&path, line(1, 6.0)).unwrap();
        assert!(same(&files, &path));
        fs::remove_file(&path).unwrap();
        assert!(files.read(&path).all.is_empty());
    }
}
