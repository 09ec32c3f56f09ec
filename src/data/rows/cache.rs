//! The cache of prepared data sets. Its key is a hash of everything that determines their bytes.
//!
//! `<cache>/data/<key>/` has `train.arrow`, `eval.arrow` with `eval_split`, and `report.json` with the sizes and hashes of the others.
//! A folder is made under a temporary name and renamed, so processes that prepare the same data do not interfere. An incomplete entry is
//! made again. While a folder is made, its process holds a lock on it (`flock`), so other processes can tell which folders were abandoned.
//! A process that was given an entry's files holds a shared lock (`base/cache.rs`).
//!
//! Prepared rows are not synced to disk, because syncing 400 MB would take longer than preparing them. They have checksums instead, and
//! files that are incomplete after a power loss are made again.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::base::{cache, files, signals};
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
    /// Whether it was in the cache already.
    pub cached: bool,
    /// What was converted, and what may be a mistake.
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

/// `report.json`, which also has its own checksum.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CacheReport {
    pub counts: Counts,
    pub train: FileCheck,
    pub eval: Option<FileCheck>,
    /// The template was not compared with transformers, so the entry is made again as soon as that is possible.
    #[serde(default)]
    pub unchecked: bool,
    /// What was converted, and what may be a mistake: logged whenever the entry is used.
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl CacheReport {
    /// Reads the report of an entry; `None` if it is missing or its checksum is another.
    fn read(folder: &Path) -> Option<CacheReport> {
        let mut fields: Map<String, Value> = serde_json::from_slice(&std::fs::read(folder.join(REPORT)).ok()?).ok()?;
        let known = fields.shift_remove(CHECKSUM)?;
        (known == checksum(&fields)).then(|| serde_json::from_value(fields.into()).ok()).flatten()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let Value::Object(mut fields) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        let sum = checksum(&fields);
        fields.insert(CHECKSUM.into(), sum.into());
        files::write_json(&folder.join(REPORT), &fields)
    }
}

/// Hash (xxh3) of the fields in their order.
fn checksum(fields: &Map<String, Value>) -> String {
    let text = serde_json::to_string(fields).unwrap_or_default();
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

const REPORT: &str = "report.json";
const CHECKSUM: &str = "xxh3";
pub(crate) const TRAIN: &str = "train.arrow";
pub(crate) const EVAL: &str = "eval.arrow";

/// The cache entry of one prepared data set.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    folder: PathBuf,
    files: u128,
}

impl CacheEntry {
    /// `files` is a digest. What decides besides: the digests of tokenizer and template, and the version of transformers if that renders the
    /// template or is compared.
    pub(crate) fn new(
        cache: &Path,
        files: u128,
        (tokenizer, template, transformers): (u128, u128, Option<&str>),
        options: &Options,
    ) -> Result<CacheEntry> {
        // Without a split nothing is drawn.
        let options = Options { seed: if options.eval_split > 0.0 { options.seed } else { 0 }, ..options.clone() };
        let mut all = format!("{} {files:x} {tokenizer:x} {template:x} {}", env!("PYRUST_NN_ENGINE"), serde_json::to_string(&options)?);
        if let Some(version) = transformers {
            all += &format!(" transformers {version}");
        }
        Ok(CacheEntry { folder: cache.join("data").join(format!("{:032x}", xxh3_128(all.as_bytes()))), files })
    }

    /// The data set, if the entry exists and is complete, and whether its template is unchecked. The entry is in use until the process ends.
    pub(crate) fn open(&self) -> Option<(Prepared, bool)> {
        if !cache::hold(&self.folder) {
            return None;
        }
        let report = CacheReport::read(&self.folder)?;
        let complete = is_complete(&self.folder.join(TRAIN), &report.train)
            && report.eval.as_ref().is_none_or(|eval| is_complete(&self.folder.join(EVAL), eval));
        complete.then(|| (self.prepared(&report, true), report.unchecked))
    }

    fn prepared(&self, report: &CacheReport, cached: bool) -> Prepared {
        Prepared {
            path: self.folder.join(TRAIN),
            eval_path: report.eval.as_ref().map(|_| self.folder.join(EVAL)),
            eval_rows: report.eval.as_ref().map_or(0, |eval| eval.rows),
            digest: format!("{:032x}", self.files),
            counts: report.counts.clone(),
            cached,
            notes: report.notes.clone(),
            warnings: report.warnings.clone(),
        }
    }

    /// Makes the entry: `work` fills an empty folder and returns the report. On an error nothing is left. The entry is in use until the
    /// process ends. `None`: another process removed it at once, because the cache was too large.
    pub(crate) fn make(&self, work: impl FnOnce(&Path) -> Result<CacheReport>) -> Result<Option<Prepared>> {
        let parent = self.folder.parent().unwrap_or(&self.folder);
        let cannot = || format!("the cache {} cannot be written; set PYRUST_NN_CACHE to a writable folder", parent.display());
        files::create_folders(parent).with_context(cannot)?;
        remove_abandoned(parent);
        let (partial, lock) = self.create_partial().with_context(cannot)?;
        let prepared = (|| -> Result<Prepared> {
            let report = work(&partial)?;
            report.write(&partial)?;
            self.publish(&partial, report.unchecked)?;
            Ok(self.prepared(&report, false))
        })();
        drop(files::remove(&partial));
        // Explicitly, because a forked process has the file open too.
        drop(lock.unlock());
        Ok(Some(prepared?).filter(|_| cache::hold(&self.folder)))
    }

    /// A new temporary folder beside the entry, locked.
    fn create_partial(&self) -> std::io::Result<(PathBuf, File)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let partial = files::beside(&self.folder, &format!("partial-{}-{number}", std::process::id()));
            match files::create_folder(&partial) {
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Another process may remove it before it is locked: then retry.
            let Ok(lock) = File::open(&partial) else { continue };
            // On a file system without locks, abandoned folders are kept.
            if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) && partial.is_dir() {
                return Ok((partial, lock));
            }
        }
    }

    /// Renames a finished folder to the entry's folder. A complete entry that another process published first is kept; it is equal.
    fn publish(&self, partial: &Path, unchecked: bool) -> Result<()> {
        // One process at a time, so that none moves away what another has just published.
        let lock = self.folder.parent().map(File::open).transpose()?;
        if let Some(lock) = &lock {
            drop(lock.lock());
        }
        for _ in 0..100 {
            if files::rename(partial, &self.folder).is_ok() {
                return Ok(());
            }
            if self.open().is_some_and(|(_, theirs)| unchecked || !theirs) {
                return Ok(());
            }
            // A broken entry is renamed before it is removed, so that no process sees part of it.
            let aside = files::beside(partial, "broken");
            if files::rename(&self.folder, &aside).is_ok() {
                drop(files::remove(&aside));
            }
        }
        Err(anyhow::anyhow!("{} cannot be written: an existing folder of this name cannot be moved; remove it", self.folder.display()))
    }
}

/// Removes the temporary folders of killed processes: their locks are free.
fn remove_abandoned(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().contains(".partial-") {
            continue;
        }
        if let Ok(abandoned) = File::open(entry.path())
            && abandoned.try_lock().is_ok()
        {
            drop(files::remove(&entry.path()));
        }
    }
}

fn is_complete(path: &Path, check: &FileCheck) -> bool {
    let hashed = (|| -> std::io::Result<String> {
        let mut file = BufReader::with_capacity(0, File::open(path)?);
        if file.get_ref().metadata()?.len() != check.bytes {
            return Ok(String::new());
        }
        let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
        loop {
            if signals::pending() {
                return Ok(String::new()); // the preparation that follows ends with the signal's error
            }
            match file.read(&mut buffer)? {
                0 => return Ok(format!("{:016x}", hash.digest())),
                n => hash.update(&buffer[..n]),
            }
        }
    })();
    hashed.is_ok_and(|found| found == check.xxh3)
}
