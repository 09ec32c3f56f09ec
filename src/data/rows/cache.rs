//! Prepared data sets, kept under a key of everything that decides their bytes.
//!
//! `<cache>/data/<key>/` holds `train.arrow`, perhaps `eval.arrow`, and `report.json`, which says how long the others are and what
//! they hash to. A folder is made beside its place and renamed, so processes that make the same do not meet; what is not whole when
//! it is opened is made anew. While a folder is made its process holds a lock on it (`flock`), so others know what was left behind.
//!
//! Prepared rows are not synced to disk, because syncing 400 MB would take longer than preparing them. They have checksums instead, and
//! files that are incomplete after a power loss are made again.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::base::{files, signals};
use crate::data::rows::arrow::FileCheck;
use crate::data::rows::counts::Counts;
use crate::data::rows::options::Options;

/// A data set as rows to train on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// Arrow IPC stream of the rows to train on.
    pub path: PathBuf,
    /// The rows held out, with `eval_split`.
    pub eval_path: Option<PathBuf>,
    pub eval_rows: u64,
    /// Hash of the files' content (xxh3, 32 hexadecimal digits).
    pub digest: String,
    #[serde(flatten)]
    pub counts: Counts,
    /// Whether it was there already.
    pub cached: bool,
}

/// `report.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub counts: Counts,
    pub train: FileCheck,
    pub eval: Option<FileCheck>,
    /// Why it is to be made anew once that is possible: nobody could compare the template with transformers.
    #[serde(default)]
    pub unchecked: bool,
}

pub(crate) const TRAIN: &str = "train.arrow";
pub(crate) const EVAL: &str = "eval.arrow";

/// The user's cache, as an absolute path: `PYRUST_NN_CACHE` (a leading `~` is the home), else `pyrust-nn` in
/// `XDG_CACHE_HOME` or `~/.cache`. It need not exist.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(std::env::temp_dir);
    let folder = match set("PYRUST_NN_CACHE") {
        Some(own) => own.strip_prefix("~").map(|rest| home().join(rest)).unwrap_or(own),
        None => set("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("pyrust-nn"),
    };
    std::path::absolute(&folder).unwrap_or(folder)
}

/// Where one prepared data set is kept.
#[derive(Debug)]
pub(crate) struct Entry {
    folder: PathBuf,
    files: u128,
}

impl Entry {
    /// Digests of the files, the tokenizer and the template.
    pub(crate) fn new(cache: &Path, files: u128, tokenizer: u128, template: u128, options: &Options) -> Result<Entry> {
        let all = format!("{} {files:x} {tokenizer:x} {template:x} {}", env!("CARGO_PKG_VERSION"), serde_json::to_string(options)?);
        Ok(Entry { folder: cache.join("data").join(format!("{:032x}", xxh3_128(all.as_bytes()))), files })
    }

    /// The data set, if it is there and whole, and whether its template was left unchecked.
    pub(crate) fn open(&self) -> Option<(Prepared, bool)> {
        let report: Report = serde_json::from_slice(&std::fs::read(self.folder.join("report.json")).ok()?).ok()?;
        let whole = is_whole(&self.folder.join(TRAIN), &report.train)
            && report.eval.as_ref().is_none_or(|eval| is_whole(&self.folder.join(EVAL), eval));
        whole.then(|| (self.prepared(&report, true), report.unchecked))
    }

    fn prepared(&self, report: &Report, cached: bool) -> Prepared {
        Prepared {
            path: self.folder.join(TRAIN),
            eval_path: report.eval.as_ref().map(|_| self.folder.join(EVAL)),
            eval_rows: report.eval.as_ref().map_or(0, |eval| eval.rows),
            digest: format!("{:032x}", self.files),
            counts: report.counts.clone(),
            cached,
        }
    }

    /// Makes it: `work` fills an empty folder and gives its report. On an error nothing stays.
    pub(crate) fn make(&self, work: impl FnOnce(&Path) -> Result<Report>) -> Result<Prepared> {
        let parent = self.folder.parent().unwrap_or(&self.folder);
        let cure = || format!("the cache {} cannot be written; set PYRUST_NN_CACHE to a folder that can", parent.display());
        files::create_folders(parent).with_context(cure)?;
        sweep(parent);
        let (beside, lock) = self.begin().with_context(cure)?;
        let made = (|| -> Result<Prepared> {
            let report = work(&beside)?;
            files::write_json(&beside.join("report.json"), &report)?;
            self.publish(&beside, report.unchecked)?;
            Ok(self.prepared(&report, false))
        })();
        drop(files::remove(&beside));
        drop(lock);
        made
    }

    /// A new folder beside the entry's place, locked.
    fn begin(&self) -> std::io::Result<(PathBuf, File)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let beside = files::beside(&self.folder, &format!("partial-{}-{number}", std::process::id()));
            match files::create_folder(&beside) {
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Another process may sweep it away before it is locked: then again.
            let Ok(lock) = File::open(&beside) else { continue };
            // A file system without locks keeps what is left behind.
            if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) && beside.is_dir() {
                return Ok((beside, lock));
            }
        }
    }

    /// Gives a finished folder its place. A whole one that another process put there first stays; it holds the same.
    fn publish(&self, beside: &Path, unchecked: bool) -> Result<()> {
        // One at a time, or one would move away what another has just put there.
        let turn = self.folder.parent().map(File::open).transpose()?;
        if let Some(turn) = &turn {
            drop(turn.lock());
        }
        for _ in 0..100 {
            if files::rename(beside, &self.folder).is_ok() {
                return Ok(());
            }
            if self.open().is_some_and(|(_, theirs)| unchecked || !theirs) {
                return Ok(());
            }
            // What is broken leaves its place by a rename, so nobody sees half of it.
            let aside = files::beside(beside, "broken");
            if files::rename(&self.folder, &aside).is_ok() {
                drop(files::remove(&aside));
            }
        }
        Err(anyhow::anyhow!("{} cannot take its place: something there cannot be moved away; remove it", self.folder.display()))
    }
}

/// Removes what processes left that were killed: nobody holds its lock.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().contains(".partial-") {
            continue;
        }
        if let Ok(left) = File::open(entry.path())
            && left.try_lock().is_ok()
        {
            drop(files::remove(&entry.path()));
        }
    }
}

fn is_whole(path: &Path, check: &FileCheck) -> bool {
    let hashed = (|| -> std::io::Result<String> {
        let mut file = BufReader::with_capacity(0, File::open(path)?);
        if file.get_ref().metadata()?.len() != check.bytes {
            return Ok(String::new());
        }
        let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
        loop {
            if signals::pending() {
                return Ok(String::new()); // and whoever makes it anew ends by that
            }
            match file.read(&mut buffer)? {
                0 => return Ok(format!("{:016x}", hash.digest())),
                n => hash.update(&buffer[..n]),
            }
        }
    })();
    hashed.is_ok_and(|found| found == check.xxh3)
}
