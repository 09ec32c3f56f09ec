//! SHA-256 of files. A file is read once per process: its hash is cached until its path, size, modification time or inode changes.
//!
//! If another thread is already hashing a file, callers wait for its result.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::base::signals;

/// How often a waiting thread checks whether another one is done.
const POLL: Duration = Duration::from_millis(5);

/// Identifies an unchanged file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> Result<Identity> {
        let (path, found) = (std::path::absolute(path)?, metadata(path)?);
        let modified_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Ok(Identity { path, bytes: found.len(), modified_ns, inode: found.ino() })
    }

    /// Whether a later write would change the modification time. Right after a write it may not: the kernel's clock ticks in
    /// milliseconds, and some file systems keep whole or even seconds.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let tick = if self.modified_ns % 1_000_000_000 == 0 { 2_000_000_000 } else { 100_000_000 };
        now - self.modified_ns > tick
    }
}

/// SHA-256 of files that were read in order, as hexadecimal digits.
#[derive(Debug)]
struct Hashes {
    /// Of the concatenated bytes. For a single file, its own hash.
    all: String,
    /// Of each file.
    each: Vec<String>,
}

/// Locked while its files are read. `None` if that was cancelled.
type Slot = Arc<Mutex<Option<Arc<Hashes>>>>;

static SLOTS: LazyLock<Mutex<HashMap<Vec<Identity>, Slot>>> = LazyLock::new(Mutex::default);

fn slots() -> MutexGuard<'static, HashMap<Vec<Identity>, Slot>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SHA-256 of the bytes of a folder's safetensors files, in order of their names. `None` if there are none.
///
/// # Errors
/// Kind `io`, and the error of `check`, which is called while it reads and waits.
pub(crate) fn weights(folder: &Path, check: &dyn Fn() -> Result<()>) -> Result<Option<String>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_weights(path) && path.is_file()).collect();
    files.sort();
    if files.is_empty() { Ok(None) } else { Ok(Some(known(&files, check)?.all.clone())) }
}

/// Calls `found` with each file and its SHA-256. Weights of one folder are read together, so that [`weights`] need not read them again.
///
/// # Errors
/// As [`weights`].
pub(crate) fn each_file(
    paths: impl IntoIterator<Item = PathBuf>,
    check: &dyn Fn() -> Result<()>,
    found: &mut dyn FnMut(&Path, &str),
) -> Result<()> {
    let mut groups: Vec<Vec<PathBuf>> = Vec::new();
    let mut paths: Vec<PathBuf> = paths.into_iter().collect();
    paths.sort();
    for path in paths {
        let together = |group: &&mut Vec<PathBuf>| is_weights(&group[0]) && is_weights(&path) && group[0].parent() == path.parent();
        match groups.iter_mut().find(together) {
            Some(group) => group.push(path),
            None => groups.push(vec![path]),
        }
    }
    for group in groups {
        for (path, hash) in group.iter().zip(&known(&group, check)?.each) {
            found(path, hash);
        }
    }
    Ok(())
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// The hashes of files, from the cache if possible.
fn known(paths: &[PathBuf], check: &dyn Fn() -> Result<()>) -> Result<Arc<Hashes>> {
    let files = paths.iter().map(|path| Identity::of(path)).collect::<Result<Vec<_>>>()?;
    let slot = Arc::clone(slots().entry(files.clone()).or_default());
    let mut kept = loop {
        match slot.try_lock() {
            Ok(kept) => break kept,
            Err(TryLockError::Poisoned(kept)) => break kept.into_inner(),
            Err(TryLockError::WouldBlock) => {
                check()?;
                std::thread::sleep(POLL);
            }
        }
    };
    if let Some(hashes) = &*kept {
        return Ok(Arc::clone(hashes));
    }
    let settled = files.iter().all(Identity::is_settled);
    let hashes = Arc::new(read(paths, check)?);
    // Waiting threads get the result in any case.
    *kept = Some(Arc::clone(&hashes));
    let unchanged = || files.iter().zip(paths).all(|(file, path)| Identity::of(path).is_ok_and(|now| now == *file));
    let mut slots = slots();
    if !settled || !unchanged() {
        slots.remove(&files);
    } else if files.len() > 1 {
        for (file, hash) in files.into_iter().zip(&hashes.each) {
            let alone = Hashes { all: hash.clone(), each: vec![hash.clone()] };
            slots.insert(vec![file], Arc::new(Mutex::new(Some(Arc::new(alone)))));
        }
    }
    Ok(hashes)
}

fn read(paths: &[PathBuf], check: &dyn Fn() -> Result<()>) -> Result<Hashes> {
    let (mut all, mut each) = (Sha256::new(), Vec::new());
    for path in paths {
        let mut own = Sha256::new();
        read_file(path, check, |block| {
            own.update(block);
            if paths.len() > 1 {
                all.update(block);
            }
        })?;
        each.push(hexadecimal(own));
    }
    let all = if let [only] = &each[..] { only.clone() } else { hexadecimal(all) };
    Ok(Hashes { all, each })
}

fn read_file(path: &Path, check: &dyn Fn() -> Result<()>, mut take: impl FnMut(&[u8])) -> Result<()> {
    debug!("{} is hashed", path.display());
    #[cfg(test)]
    tests::READ.lock().unwrap().push(path.to_path_buf());
    let unreadable = || format!("{} cannot be read", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        check()?;
        match file.read(&mut buffer).with_context(unreadable)? {
            0 => return Ok(()),
            n => take(&buffer[..n]),
        }
    }
}

/// SHA-256 of a file as it is on disk now, without the cache. Ctrl-C stops it.
///
/// # Errors
/// Kind `io`, `interrupted`.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    read_file(path, &signals::check, |block| hash.update(block))?;
    Ok(hexadecimal(hash))
}

/// Computes the SHA-256 of what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> HashingReader<R> {
        HashingReader { inner, hash: Sha256::new() }
    }

    /// Of what was read, as hexadecimal digits.
    pub(crate) fn sha256(self) -> String {
        hexadecimal(self.hash)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn metadata(path: &Path) -> Result<Metadata> {
    path.metadata().with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error;

    /// All files that were opened for hashing.
    pub static READ: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    fn times_read(path: &Path) -> usize {
        READ.lock().unwrap().iter().filter(|read| *read == path).count()
    }

    const NO_CHECK: &dyn Fn() -> Result<()> = &|| Ok(());

    /// A file whose modification time is a minute ago.
    fn settled(path: &Path, content: &[u8]) -> PathBuf {
        std::fs::write(path, content).unwrap();
        let minute_ago = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(path).unwrap().set_modified(minute_ago + Duration::from_nanos(7)).unwrap();
        path.to_path_buf()
    }

    fn hash_of(content: &[u8]) -> String {
        hexadecimal(Sha256::new().chain_update(content))
    }

    #[test]
    fn sha256_is_the_standard_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = settled(&folder.path().join("abc.safetensors"), b"abc");
        // FIPS 180-4's example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
        assert_eq!(weights(folder.path(), NO_CHECK).unwrap().unwrap(), expected);
    }

    #[test]
    fn shards_and_their_sum_come_from_one_reading() {
        let folder = tempfile::tempdir().unwrap();
        let [second, first, config] = ["b.safetensors", "a.safetensors", "config.json"].map(|name| folder.path().join(name));
        for (path, content) in [(&second, "22"), (&first, "1"), (&config, "{}")] {
            settled(path, content.as_bytes());
        }
        let mut found = Vec::new();
        each_file([second.clone(), config.clone(), first.clone()], NO_CHECK, &mut |path, hash| {
            found.push((path.to_path_buf(), hash.to_string()));
        })
        .unwrap();
        for (path, content) in [(&first, "1"), (&second, "22"), (&config, "{}")] {
            assert!(found.contains(&(path.clone(), hash_of(content.as_bytes()))), "{}", path.display());
        }
        for _ in 0..2 {
            assert_eq!(weights(folder.path(), NO_CHECK).unwrap().unwrap(), hash_of(b"122"));
            each_file([first.clone()], NO_CHECK, &mut |_, hash| assert_eq!(hash, hash_of(b"1"))).unwrap();
        }
        assert_eq!([&first, &second, &config].map(|path| times_read(path)), [1, 1, 1]);
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_one_just_written_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        settled(&path, b"one");
        assert_eq!(weights(folder.path(), NO_CHECK).unwrap().unwrap(), hash_of(b"one"));
        // The same size, and a modification time within the clock's tick of the next write.
        for content in [b"two", b"six", b"ten"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(weights(folder.path(), NO_CHECK).unwrap().unwrap(), hash_of(content));
        }
        assert_eq!(times_read(&path), 4);
    }

    #[test]
    fn threads_that_ask_together_share_a_reading_and_one_that_is_given_up_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = settled(&folder.path().join("model.safetensors"), &vec![7; 40 << 20]);
        let stop = |asked: &std::cell::Cell<u32>| {
            asked.set(asked.get() + 1);
            if asked.get() > 3 { Err(error::usage("enough")) } else { Ok(()) }
        };
        let asked = std::cell::Cell::new(0);
        assert!(weights(folder.path(), &|| stop(&asked)).unwrap_err().to_string().contains("enough"));
        let hashes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| weights(folder.path(), NO_CHECK).unwrap().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(hashes.iter().all(|hash| *hash == hash_of(&vec![7; 40 << 20])));
        assert_eq!(times_read(&path), 2, "one that was given up, and one for all threads");
    }

    #[test]
    fn a_folder_without_weights_has_no_hash() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(weights(folder.path(), NO_CHECK).unwrap(), None);
    }
}
